"""What torch's FSDP2 does not go with in Megatron. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule, implies

__all__ = ["RULES"]


def _torch_fsdp(r: Layout) -> Number:
    return (r.zero >= 2) & (r.backend.megatron.fsdp == "torch")


def _fsdp2(part: str, path: str, fits: Callable[[Layout], Number], what: str, line: int) -> Rule:
    return Rule(
        id=f"megatron.fsdp2_{part}",
        path=path,
        backends=MEGATRON,
        holds=lambda r: implies(_torch_fsdp(r), fits(r)),
        message=f"torch's FSDP2 in Megatron does not go with {what}",
        source=f"training/arguments.py:{line}",
        repairs=any_of(change(backend__megatron__fsdp="megatron"), change(parallelism__zero=1)),
    )


def _fsdp2_checkpoint(part: str, held: Callable[[Layout], bool], what: str, source: str) -> Rule:
    """Of parts whose own ``sharded_state_dict`` takes it that every data-parallel rank holds them whole.

    Others' are made by ``make_tp_sharded_tensor_for_checkpoint``, which knows FSDP2's parts (core/utils.py:1015). A run
    without checkpoints trains.
    """
    return Rule(
        id=f"megatron.fsdp2_{part}_checkpoint",
        path="backend.megatron.fsdp",
        backends=MEGATRON,
        holds=lambda r: implies(_torch_fsdp(r) & (r.dp * r.cp > 1), not (held(r) and _checkpointed(r))),
        message=f"torch's FSDP2 cuts {what} into dp·cp = {{dp}}·{{cp}} parts, and Megatron, where it saves or loads a "
        "checkpoint, takes each for the whole",
        source=source,
        repairs=any_of(change(backend__megatron__fsdp="megatron"), change(parallelism__zero=1)),
    )


def _checkpointed(r: Layout) -> bool:
    return r.training.logging.checkpoints or r.training.logging.load is not None


RULES: tuple[Rule, ...] = (
    _fsdp2_checkpoint(
        "experts",
        lambda r: r.model.moe is not None,
        "{model.moe.experts} experts",
        "core/transformer/moe/experts.py:1415, core/extensions/transformer_engine.py:2590: all but the first rank's "
        "are replicas; core/dist_checkpointing/validation.py:441",
    ),
    _fsdp2_checkpoint(
        "mamba",
        lambda r: r.model.mamba is not None,
        "Mamba's projections, of {model.mamba.heads} heads",
        "core/ssm/mamba_mixer.py:1413",
    ),
    _fsdp2_checkpoint(
        "delta_net",
        lambda r: r.model.delta_net is not None,
        "a gated delta net's projections, of {model.delta_net.value_heads} heads",
        "core/ssm/gated_delta_net/common.py:520",
    ),
    _fsdp2_checkpoint(
        "short_convolution",
        lambda r: r.model.short_convolution is not None,
        "a short convolution's three projections",
        "ours: core/ssm/utils.py:21, as train/short_convolution.py asks it",
    ),
    _fsdp2("experts", "parallelism.ep", lambda r: r.ep == 1, "ep = {ep}", 1002),
    _fsdp2("tied", "model.tied_embeddings", lambda r: not r.model.tied_embeddings, "tied embeddings", 1010),
    _fsdp2("fp16", "training.precision", lambda r: r.training.precision != "fp16", "fp16", 1012),
)
