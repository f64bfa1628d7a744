"""What runs beside something else. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshwright.errors import Repair
from meshwright.rules._megatron_option import by_megatron_fsdp, off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies
from meshwright.spec.effect import unequal
from meshwright.spec.techniques import TpOverlap
from meshwright.spec.training import FP8_RECIPES

__all__ = ["RULES"]


def _plain_overlap(r: Layout) -> Iterable[Repair]:
    changed = unequal(options_of(r).tp_overlap, TpOverlap(), "backend.megatron.tp_overlap")
    return ({path: default for path, _, default in changed},)


def _gathers_with_step(r: Layout) -> Number:
    p, options = r.spec.parallelism, options_of(r)
    asked = options.gather_with_step
    plain = options.checkpoint_format == "torch" and not options.quantization.reuse_gradient_buffer
    return implies(asked, (r.zero == 1) & (r.vpp > 1) & p.overlap_param_gather & p.overlap_grad_reduce & plain)


def _beside_dispatch(r: Layout) -> bool:
    return r.model.moe is not None and options_of(r).experts.wgrad_beside_dispatch


def _alone(r: Layout) -> bool:
    """Whether nothing else delays experts' weight gradients, in layers that can."""
    options = options_of(r)
    able = options.transformer == "transformer_engine" and options.moe_grouped_gemm
    return able and not (r.spec.parallelism.overlap_ep or options.delay_wgrad)


def _said(r: Layout) -> bool:
    return options_of(r).tp_overlap != TpOverlap()


def _eight(r: Layout) -> bool:
    return r.training.precision in FP8_RECIPES


def _faults(r: Layout) -> Iterator[str]:
    """What the engine's start would stop at, or what no table has."""
    overlap = options_of(r).tp_overlap
    if not (overlap.preset or overlap.products):
        return
    from meshwright.model.user_buffers import presets, product_faults, products

    if overlap.preset and overlap.preset not in presets():
        yield f"{overlap.preset} is none of NVIDIA's tables: {', '.join(presets())}"
    yield from product_faults(products(overlap), _eight(r))


RULES: tuple[Rule, ...] = (
    option_rule(
        "tp_overlap",
        "tp_overlap",
        lambda r: not _said(r) or (r.spec.parallelism.overlap_tp and options_of(r).transformer == "transformer_engine"),
        "how tensor-parallel collectives run beside products is Transformer Engine's, where overlap_tp is on",
        "training/initialize.py:157",
        any_of(_plain_overlap, change(parallelism__overlap_tp=True)),
    ),
    option_rule(
        "tp_overlap_products",
        "tp_overlap.products",
        lambda r: not tuple(_faults(r)),
        lambda r: "; ".join(_faults(r)),
        "transformer_engine v2.13 pytorch/module/base.py initialize_ub",
        off("tp_overlap.products", ()),
    ),
    option_rule(
        "delay_wgrad",
        "delay_wgrad",
        lambda r: (
            not options_of(r).delay_wgrad
            or (r.spec.parallelism.overlap_ep and options_of(r).transformer == "transformer_engine")
        ),
        "weight gradients wait for the all-to-all that overlap_ep hides, in Transformer Engine's layers",
        ":2770; training/arguments.py:1822",
        any_of(off("delay_wgrad"), change(parallelism__overlap_ep=True)),
    ),
    option_rule(
        "wgrad_beside_dispatch",
        "experts.wgrad_beside_dispatch",
        lambda r: implies(_beside_dispatch(r), _alone(r) & by_megatron_fsdp(r, 2)),
        "experts' weight gradients run beside the dispatch in Transformer Engine's grouped products, without "
        "overlap_ep and delay_wgrad, and Megatron-FSDP alone reduces them after it (zero = 2 or 3, it is {zero}, "
        "fsdp={backend.megatron.fsdp})",
        ":2759; core/transformer/moe/moe_layer.py:803, and core/distributed/distributed_data_parallel.py:365 waits for "
        "delay_wgrad's alone",
        any_of(
            off("experts.wgrad_beside_dispatch"),
            change(backend__megatron__experts__wgrad_beside_dispatch=False, parallelism__zero=1),
        ),
    ),
    option_rule(
        "early_release",
        "experts.early_release",
        lambda r: r.model.moe is None or not options_of(r).experts.early_release or r.spec.parallelism.overlap_ep,
        "attention's backward can come first where two micro-batches run side by side: overlap_ep is off",
        ":2772",
        any_of(off("experts.early_release"), change(parallelism__overlap_ep=True)),
    ),
    option_rule(
        "gather_with_step",
        "gather_with_step",
        _gathers_with_step,
        "gathering beside the step needs zero = 1, vpp > 1, overlap_param_gather, checkpoint_format=torch and no "
        "reused gradients' buffer; zero = {zero}, vpp = {vpp}, {backend.megatron.checkpoint_format}",
        "training/arguments.py:1032; core/optimizer/optimizer_config.py:424",
        any_of(off("gather_with_step"), off("checkpoint_format", "torch")),
    ),
)
