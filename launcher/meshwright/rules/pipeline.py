"""Layers on stages and chunks, the interleaved schedule, recompute.

Places are files of megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from meshwright.errors import Repair
from meshwright.layout.pipeline import parse_layout
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import DEEPSPEED, EVERY, MEGATRON, Layout, Number, Rule, implies

__all__ = ["RULES"]


def _division(r: Layout) -> Number:
    """1 where the layers are counted by first/last stages or a layout, 0 where they are dealt out evenly."""
    return (r.first > 0) | (r.last > 0) | (r.spec.parallelism.pipeline_split.layout is not None)


def _ends(r: Layout) -> Number:
    return (r.first > 0) * 1 + (r.last > 0) * 1


def _middle_stages(r: Layout) -> Number:
    return r.pp - _ends(r)


def _middle_layers(r: Layout) -> Number:
    return r.model.layers - r.first - r.last


def _letters(r: Layout) -> list[str]:
    layout = r.spec.parallelism.pipeline_split.layout
    return parse_layout(layout) if layout else []


def _resplit(r: Layout) -> Iterable[Repair]:
    """Give the ends fewer or more layers, or the embedding and the loss a slot, or spread evenly."""
    key = "parallelism.pipeline_split"
    fair = r.model.layers // max(1, r.pp)
    clear: dict[str, object] = {
        f"{key}.first": None,
        f"{key}.last": None,
        f"{key}.embedding": False,
        f"{key}.loss": False,
    }
    near = sorted(product(range(max(1, fair - 4), fair + 5), repeat=2), key=lambda e: (abs(e[0] - e[1]), fair - e[0]))
    proposals: list[dict[str, object]] = [{**clear, f"{key}.first": first, f"{key}.last": last} for first, last in near]
    proposals[2:2] = [{**clear, f"{key}.embedding": e, f"{key}.loss": loss} for e, loss in ((1, 1), (1, 0), (0, 1))]
    now = {
        f"{key}.{name}": getattr(r.spec.parallelism.pipeline_split, name)
        for name in ("first", "last", "embedding", "loss")
    }
    everything: list[dict[str, object]] = [clear, *proposals]
    for proposal in everything:
        typed = {k: bool(v) if k.endswith(("embedding", "loss")) else v for k, v in proposal.items()}
        changed = {k: v for k, v in typed.items() if now[k] != v}
        if changed:
            yield changed


_REPIPE = any_of(
    _resplit,
    nearest("parallelism.pp", lambda r: r.pp),
    nearest("parallelism.vpp", lambda r: r.vpp, high=32),
)

_SPLIT = (
    Rule(
        id="pipeline.exclusive",
        path="parallelism.pipeline_split",
        backends=MEGATRON,
        holds=lambda r: (
            (_ends(r) > 0) * 1
            + ((r.embedding | r.loss) > 0) * 1
            + (r.spec.parallelism.pipeline_split.layout is not None) * 1
            <= 1
        ),
        message="first/last, embedding/loss and layout exclude one another; keep one of them",
        source="core/transformer/transformer_config.py:1929, :1946",
        repairs=any_of(_resplit, change(parallelism__pipeline_split__layout=None)),
    ),
    Rule(
        id="pipeline.negative_ends",
        path="parallelism.pipeline_split",
        backends=MEGATRON,
        holds=lambda r: all(
            n is None or n > 0
            for n in (r.spec.parallelism.pipeline_split.first, r.spec.parallelism.pipeline_split.last)
        ),
        message="first = {spec.parallelism.pipeline_split.first} and last = {spec.parallelism.pipeline_split.last} "
        "must be positive where they are set",
        source="core/transformer/transformer_config.py:1998",
        repairs=_resplit,
    ),
    Rule(
        id="pipeline.even",
        path="parallelism.pp",
        backends=MEGATRON,
        needs=("pipeline.exclusive",),
        holds=lambda r: implies(_division(r) == 0, (r.model.layers + r.embedding + r.loss) % (r.pp * r.vpp) == 0),
        message=lambda r: f"{r.model.layers} layers{_slots(r)} do not split over pp·vpp = {r.pp}·{r.vpp}",
        source="training/arguments.py:963, core/transformer/transformer_config.py:2077, :2103",
        repairs=_REPIPE,
    ),
    Rule(
        id="pipeline.ends",
        path="parallelism.pipeline_split",
        backends=MEGATRON,
        needs=("pipeline.exclusive",),
        holds=lambda r: implies(
            _ends(r) > 0,
            ((_middle_stages(r) > 0) == (_middle_layers(r) > 0)) & (_middle_layers(r) >= 0) & (_middle_stages(r) >= 0),
        ),
        message=lambda r: (
            f"first = {r.first}, last = {r.last} leave {_middle_layers(r)} layers for {_middle_stages(r)} other stages"
        ),
        source="core/transformer/transformer_config.py:2036",
        repairs=_REPIPE,
    ),
    Rule(
        id="pipeline.middle",
        path="parallelism.pipeline_split",
        backends=MEGATRON,
        needs=("pipeline.exclusive", "pipeline.ends"),
        holds=lambda r: implies(
            (_ends(r) > 0) & (_middle_stages(r) > 0),
            _middle_layers(r) % (_at_least_one(_middle_stages(r)) * r.vpp) == 0,
        ),
        message=lambda r: (
            f"{_middle_layers(r)} layers between the ends do not split over {_middle_stages(r)} stages "
            f"of vpp = {r.vpp} chunks"
        ),
        source="core/transformer/transformer_config.py:2044, :2058",
        repairs=_REPIPE,
    ),
    Rule(
        id="pipeline.end_chunks",
        path="parallelism.pipeline_split",
        backends=MEGATRON,
        needs=("pipeline.exclusive",),
        holds=lambda r: (r.first % r.vpp == 0) & (r.last % r.vpp == 0),
        message="first = {first}, last = {last} layers do not split over vpp = {vpp} chunks",
        source="core/transformer/transformer_config.py:2006, :2025",
        repairs=_REPIPE,
    ),
)

_LAYOUT = (
    Rule(
        id="layout.letters",
        path="parallelism.pipeline_split.layout",
        backends=MEGATRON,
        holds=lambda r: set("".join(_letters(r))) <= set("EtmL"),
        message="{spec.parallelism.pipeline_split.layout} has characters other than E t m L | , *n and (...)*n",
        source="core/transformer/pipeline_parallel_layer_layout.py:315",
    ),
    Rule(
        id="layout.stages",
        path="parallelism.pipeline_split.layout",
        backends=MEGATRON,
        needs=("layout.letters",),
        holds=lambda r: (len(_letters(r)) == 0) | (len(_letters(r)) == r.pp * r.vpp),
        message=lambda r: f"{len(_letters(r))} chunks are not pp·vpp = {r.pp}·{r.vpp}",
        source="training/arguments.py:911, core/transformer/transformer_config.py:1974",
        repairs=any_of(
            lambda r: ({"parallelism.vpp": len(_letters(r)) // r.pp},),
            nearest("parallelism.pp", lambda r: r.pp),
        ),
    ),
    Rule(
        id="layout.order",
        path="parallelism.pipeline_split.layout",
        backends=MEGATRON,
        needs=("layout.letters",),
        holds=lambda r: not _letters(r) or "".join(_letters(r)) == "E" + "t" * r.model.layers + "m" * r.model.mtp + "L",
        message=lambda r: "in order, the chunks must hold E, {} t, {} m and L; they hold {} t and {} m".format(
            r.model.layers, r.model.mtp, "".join(_letters(r)).count("t"), "".join(_letters(r)).count("m")
        ),
        source="core/transformer/pipeline_parallel_layer_layout.py:94-116",
    ),
    Rule(
        id="layout.mtp",
        path="parallelism.pipeline_split.layout",
        backends=MEGATRON,
        needs=("layout.stages", "layout.order"),
        holds=lambda r: _mtp_placed(r),
        message="all m must stand in one chunk, the last of its stage, and not before the loss on the first stage",
        source="core/transformer/pipeline_parallel_layer_layout.py:122-132",
    ),
)


def _mtp_placed(r: Layout) -> bool:
    places = [i for i, letters in enumerate(_letters(r)) if "m" in letters]
    return not places or (len(places) == 1 and places[0] >= r.pp * (r.vpp - 1))


def _slots(r: Layout) -> str:
    extra = [name for name, taken in (("the embedding", r.embedding), ("the loss", r.loss)) if taken]
    return f" and {' and '.join(extra)}" if extra else ""


def _at_least_one(n: Number) -> Number:
    return n * (n > 0) + (n <= 0)


def _group(r: Layout) -> Number:
    return r.spec.parallelism.microbatch_group or r.pp


def _more_microbatches(r: Layout) -> Iterable[Repair]:
    unit = r.micro_batch * r.dp * r.pp
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
        holds=lambda r: implies(r.zero >= 2, r.pp == 1),
        message="ZeRO-{zero} with pp = {pp}: gradients or parameters sharded over dp do not survive a pipeline's "
        "micro-batches",
        source="deepspeed/runtime/pipe/engine.py:76, training/arguments.py:1000",
        repairs=any_of(change(parallelism__zero=1), change(parallelism__pp=1, parallelism__vpp=1)),
    ),
)

RULES: tuple[Rule, ...] = _SPLIT + _LAYOUT + _INTERLEAVED + _RECOMPUTE + _ZERO
