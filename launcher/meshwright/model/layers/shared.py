"""What parts of layers share: norms, linear layers, activations."""

from __future__ import annotations

from typing import Literal

from meshwright.model.operation import FUSED, Cut, Kernels, Operation, Shard, Tensor, Weight
from meshwright.spec.model import Model

__all__ = ["activation", "drops", "linear", "norm"]


def drops(probability: float) -> bool:
    """Whether a dropout of this probability keeps a mask."""
    return probability > 0


def norm(
    model: Model,
    name: str,
    size: int,
    cut: Cut = "sequence",
    kernels: Kernels = FUSED,
    times: int = 1,
    recompute: str = "",
    shard: Shard = "replicated",
    multiplied: bool = True,
    alone: bool = True,
) -> Operation:
    """Keeps its input and, for the next linear's weight gradient, its output.

    ``times``: of so many heads each is normed by the same weight. ``multiplied``: a linear, or something else that
    keeps it, is what its output goes to; rotary positions and additions keep nothing of theirs. ``alone``: no other
    norm keeps the same input.
    """
    wide, fused = times * size, kernels.norm or model.norm.startswith("layernorm")
    pieces = (Tensor(_pieces(model, kernels) * wide, cut, recompute),)
    product, after = name.removesuffix("norm"), "gathered" if cut == "sequence" else cut
    coded, elements = kernels.input_bytes(product) * wide, kernels.input_width(product, wide)
    output = Tensor(coded, after, recompute, given=True, widths=(elements,))
    entered = (Tensor(2 * wide, cut),) if alone and (fused or not kernels.casts) else ()
    kept = (*entered, *(() if fused else pieces), *((output,) if multiplied else ()))
    moved = (Tensor((4 if fused else 34) * wide, cut),)
    weights = [Weight(f"{name}.weight", size, shard)]
    if model.norm == "layernorm":
        weights.append(Weight(f"{name}.bias", size, shard))
    return Operation(name, () if model.norm.endswith("_nonparametric") else tuple(weights), kept, moved)


def _pieces(model: Model, kernels: Kernels) -> int:
    """Bytes of an element that an RMSNorm of several kernels keeps: in fp32, and normed in 16 bits.

    Gemma's classes and OLMo 2's meet their weight in fp32 (models/gemma2, models/olmo2 of transformers 5.24).
    """
    wide = model.norm_zero_centered or model.norm_placement == "output"
    return 8 if kernels.casts and wide else 6


def linear(
    name: str,
    inputs: int,
    outputs: int,
    shard: Shard = "tp",
    bias: bool = False,
    row: bool = False,
    saves: Cut | None = None,
    behind_norm: bool = False,
) -> Operation:
    """A linear layer; ``saves`` its input, cut so, where no other operation does.

    ``behind_norm``: it is one module with the norm before it.

    The bias of a row-parallel one is added after the reduction, hence replicated.
    """
    weights = [Weight(f"{name}.weight", inputs * outputs, shard, rows=outputs, inputs_cut=row)]
    if bias:
        weights.append(Weight(f"{name}.bias", outputs, "replicated" if row else shard))
    wide: tuple[Cut, Cut] = ("replicated", "replicated")
    if shard == "tp":
        wide = ("tp", "replicated") if row else ("replicated", "tp")
    region: Literal["", "enter", "leave"] = "" if shard != "tp" else "leave" if row else "enter"
    saved = (Tensor(2 * inputs, saves),) if saves else ()
    moved = (Tensor(2 * inputs, wide[0]), Tensor(2 * outputs, wide[1]))
    casts = (Tensor(inputs, wide[0]),), (Tensor(outputs, wide[1]),)
    return Operation(name, tuple(weights), saved, moved, region=region, casts=casts, joined=behind_norm)


def activation(
    model: Model, name: str, ffn: int, weights: tuple[Weight, ...], kernels: Kernels, module: str = "mlp"
) -> Operation:
    """Keeps what the up-projection gave and, for the down-projection, its own output.

    Megatron and Transformer Engine fuse the gate with SiLU, not with GELU's tanh approximation: Megatron then adds an
    offset to what is gated, even of 0 (megatron/core/transformer/mlp.py). Of experts' activations it fuses SiLU's and
    GELU's gates and squared ReLU with a token's weight; others are kept to be multiplied by it (moe/experts.py
    ``bias_act_func``).
    """
    up = ffn * (2 if model.gated else 1)
    fused = kernels.activation and model.activation != "geglu_tanh"
    pieced = model.gated and not fused
    between = 2 * ffn if pieced else 0
    added = between if kernels.activation else 0
    weighed = model.activation in ("swiglu", "quick_geglu", "squared_relu")
    plain = module == "moe" and not (weighed or kernels.weighs_outputs)
    squared = model.activation == "squared_relu" and not kernels.activation
    pieces = 2 * ffn if squared else 0  # a relu and a power, which Megatron compiles (core/activations.py, jit_fuser)
    own = f"{module} {'moe_act' if module == 'moe' else 'act'}"
    cut: Cut = "expert" if module == "moe" else "tp"
    second = (Tensor(2 * ffn, cut, f"{module} second_matmul", widths=(up,)),) if model.gated else ()
    inner = (Tensor(between + added, cut, own, widths=(ffn,)),) if pieced else ()  # made again where the activation is
    product = name.replace("activation", "down")
    given, elements = kernels.input_bytes(product) * ffn + (2 * ffn if plain else 0), kernels.input_width(product, ffn)
    output = Tensor(given, cut, own, given=True, widths=(elements,))
    saved = (Tensor(2 * ffn, cut, module, widths=(up,)), *inner, *second, output)
    if kernels.fused_experts and module == "moe":  # in the products before and behind it
        return Operation(name, weights, saved, kernels=0)
    return Operation(name, weights, saved, (Tensor(2 * up + 2 * ffn + 2 * between + 2 * pieces, cut),))
