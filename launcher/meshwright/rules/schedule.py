"""The interleaved schedule, recompute, and ZeRO under a pipeline.

Places are files of megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import DEEPSPEED, EVERY, MEGATRON, Layout, Number, Rule, implies

__all__ = ["RULES"]


def _group(r: Layout) -> Number:
    return r.spec.parallelism.microbatch_group or r.pp


def _more_microbatches(r: Layout) -> Iterable[Repair]:
    unit = r.micro_batch * r.data * r.pp
    count = -(-r.global_batch // unit)
    yield {"training.global_batch": count * unit, "training.microbatches": None}
    yield {"training.micro_batch": 1, "training.microbatches": None}


_INTERLEAVED = (
    Rule(
        id="interleaved.stages",
        path="parallelism.vpp",
        backends=EVERY,
        holds=lambda r: implies(r.vpp > 1, r.pp > 1),
        message="vpp = {vpp} needs pp > 1, pp = {pp}",
        source="training/arguments.py:968, core/parallel_state.py:829",
        repairs=any_of(change(parallelism__vpp=1), nearest("parallelism.pp", lambda r: r.pp, low=2, high=16)),
    ),
    Rule(
        id="interleaved.overlap",
        path="parallelism.overlap_p2p",
        backends=MEGATRON,
        needs=("interleaved.stages",),
        holds=lambda r: implies((r.vpp > 1) & (r.pp == 2), r.spec.parallelism.overlap_p2p),
        message="vpp = {vpp} on pp = 2 without overlap_p2p sends twice between the same two ranks and trains wrong",
        source="training/arguments.py:972",
        repairs=any_of(change(parallelism__overlap_p2p=True), change(parallelism__vpp=1)),
    ),
    Rule(
        id="interleaved.group",
        path="parallelism.vpp",
        backends=MEGATRON,
        needs=("interleaved.stages", "batch.global"),
        holds=lambda r: implies(r.vpp > 1, (_group(r) >= r.pp) & (_group(r) <= r.microbatches)),
        message=lambda r: (
            f"the interleaved schedule runs groups of {_group(r)} micro-batches, which must be between "
            f"pp = {r.pp} and the {r.microbatches} micro-batches of a step"
        ),
        source="core/pipeline_parallel/schedules.py:1141",
        repairs=any_of(change(parallelism__microbatch_group=None), change(parallelism__vpp=1), _more_microbatches),
    ),
    Rule(
        id="interleaved.remainder",
        path="parallelism.vpp",
        backends=MEGATRON,
        needs=("interleaved.group",),
        holds=lambda r: implies(r.vpp > 1, (r.microbatches % _group(r) == 0) | (r.microbatches % _group(r) >= r.pp)),
        message=lambda r: (
            f"{r.microbatches} micro-batches leave {r.microbatches % _group(r)} over groups of {_group(r)}; "
            f"that must be 0 or at least pp = {r.pp}"
        ),
        source="core/pipeline_parallel/schedules.py:1141",
        repairs=any_of(_more_microbatches, change(parallelism__vpp=1)),
    ),
    Rule(
        id="interleaved.unsupported_group",
        path="parallelism.microbatch_group",
        backends=EVERY,
        holds=lambda r: implies(r.spec.parallelism.microbatch_group is not None, r.vpp > 1),
        message="micro-batch groups belong to the interleaved schedule, vpp = {vpp}",
        source="core/pipeline_parallel/schedules.py:1141",
        repairs=change(parallelism__microbatch_group=None),
    ),
)

_RECOMPUTE = (
    Rule(
        id="recompute.full",
        path="parallelism.recompute",
        backends=EVERY,
        holds=lambda r: implies(
            (r.spec.parallelism.recompute_method is not None) | (r.spec.parallelism.recompute_layers is not None),
            r.recompute == 2,
        ),
        message="recompute_method and recompute_layers belong to recompute=full, not {spec.parallelism.recompute}",
        source="training/arguments.py:1386, core/transformer/transformer_config.py:1752",
        repairs=any_of(
            change(parallelism__recompute="full"),
            change(parallelism__recompute_method=None, parallelism__recompute_layers=None),
        ),
    ),
    Rule(
        id="recompute.layers",
        path="parallelism.recompute_layers",
        backends=MEGATRON,
        holds=lambda r: r.spec.parallelism.recompute_layers is None or r.spec.parallelism.recompute_layers >= 1,
        message="{spec.parallelism.recompute_layers} layers cannot be recomputed together; at least 1",
        source="core/transformer/transformer_block.py _checkpointed_forward walks in steps of it",
        repairs=change(parallelism__recompute_layers=1),
    ),
    Rule(
        id="recompute.modules",
        path="parallelism.recompute_modules",
        backends=EVERY,
        holds=lambda r: implies(r.spec.parallelism.recompute_modules is not None, r.recompute == 1),
        message="recompute_modules belong to recompute=selective, not {spec.parallelism.recompute}",
        source="core/transformer/transformer_config.py:1752",
        repairs=any_of(change(parallelism__recompute="selective"), change(parallelism__recompute_modules=None)),
    ),
    Rule(
        id="recompute.mtp",
        path="parallelism.recompute_layers",
        backends=MEGATRON,
        holds=lambda r: implies(
            (r.recompute == 2) & (r.model.mtp > 0),
            r.spec.parallelism.recompute_method in (None, "uniform")
            and r.spec.parallelism.recompute_layers in (None, 1),
        ),
        message="multi-token prediction under full recompute needs recompute_method=uniform and recompute_layers=1",
        source="core/transformer/multi_token_prediction.py:1419",
        repairs=change(parallelism__recompute_method="uniform", parallelism__recompute_layers=1),
    ),
)

_ZERO = (
    Rule(
        id="zero.stage",
        path="parallelism.zero",
        backends=EVERY,
        holds=lambda r: (r.zero >= 0) & (r.zero <= 3),
        message="{zero} is no ZeRO stage; it is 0, 1, 2 or 3",
        source="Rajbhandari et al. 2020, section 5",
        repairs=nearest("parallelism.zero", lambda r: r.zero, low=1, high=3),
    ),
    Rule(
        id="zero.pipeline",
        path="parallelism.zero",
        backends=MEGATRON + DEEPSPEED,
        spares=("torchtitan",),
        holds=lambda r: implies(r.zero >= 2, r.pp == 1),
        message="ZeRO-{zero} with pp = {pp}: gradients or parameters sharded over dp do not survive a pipeline's "
        "micro-batches",
        source="deepspeed/runtime/pipe/engine.py:76, training/arguments.py:1000",
        repairs=any_of(change(parallelism__zero=1), change(parallelism__pp=1, parallelism__vpp=1)),
    ),
)

RULES: tuple[Rule, ...] = _INTERLEAVED + _RECOMPUTE + _ZERO
