"""Layers on stages and chunks.

Places are files of megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from meshwright.layout.pipeline import parse_layout
from meshwright.rules._repairs import any_of, nearest
from meshwright.rules._rule import PIPELINED, Layout, Number, Rule, implies
from meshwright.rules._splits import even_stages, resplit

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


_REPIPE = any_of(resplit, even_stages, nearest("parallelism.vpp", lambda r: r.vpp, high=32))

_SPLIT = (
    Rule(
        id="pipeline.exclusive",
        path="parallelism.pipeline_split",
        backends=PIPELINED,
        holds=lambda r: (
            (_ends(r) > 0) * 1
            + ((r.embedding | r.loss) > 0) * 1
            + (r.spec.parallelism.pipeline_split.layout is not None) * 1
            <= 1
        ),
        message="first/last, embedding/loss and layout exclude one another; keep one of them",
        source="core/transformer/transformer_config.py:1929, :1946",
        repairs=resplit,
    ),
    Rule(
        id="pipeline.negative_ends",
        path="parallelism.pipeline_split",
        backends=PIPELINED,
        holds=lambda r: all(
            n is None or n > 0
            for n in (r.spec.parallelism.pipeline_split.first, r.spec.parallelism.pipeline_split.last)
        ),
        message="first = {spec.parallelism.pipeline_split.first} and last = {spec.parallelism.pipeline_split.last} "
        "must be positive where they are set",
        source="core/transformer/transformer_config.py:1998",
        repairs=resplit,
    ),
    Rule(
        id="pipeline.even",
        path="parallelism.pp",
        backends=PIPELINED,
        needs=("pipeline.exclusive",),
        holds=lambda r: implies(_division(r) == 0, (r.model.layers + r.embedding + r.loss) % (r.pp * r.vpp) == 0),
        message=lambda r: f"{r.model.layers} layers{_slots(r)} do not split over pp·vpp = {r.pp}·{r.vpp}",
        source="training/arguments.py:963, core/transformer/transformer_config.py:2077, :2103",
        repairs=_REPIPE,
    ),
    Rule(
        id="pipeline.ends",
        path="parallelism.pipeline_split",
        backends=PIPELINED,
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
        backends=PIPELINED,
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
        backends=PIPELINED,
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
        backends=PIPELINED,
        holds=lambda r: set("".join(_letters(r))) <= set("EtmL"),
        message="{spec.parallelism.pipeline_split.layout} has characters other than E t m L | , *n and (...)*n",
        source="core/transformer/pipeline_parallel_layer_layout.py:315",
        repairs=resplit,
    ),
    Rule(
        id="layout.stages",
        path="parallelism.pipeline_split.layout",
        backends=PIPELINED,
        needs=("layout.letters",),
        holds=lambda r: (len(_letters(r)) == 0) | (len(_letters(r)) == r.pp * r.vpp),
        message=lambda r: f"{len(_letters(r))} chunks are not pp·vpp = {r.pp}·{r.vpp}",
        source="training/arguments.py:911, core/transformer/transformer_config.py:1974",
        repairs=any_of(
            lambda r: ({"parallelism.vpp": len(_letters(r)) // r.pp},),
            resplit,
            nearest("parallelism.pp", lambda r: r.pp),
        ),
    ),
    Rule(
        id="layout.order",
        path="parallelism.pipeline_split.layout",
        backends=PIPELINED,
        needs=("layout.letters",),
        holds=lambda r: not _letters(r) or "".join(_letters(r)) == "E" + "t" * r.model.layers + "m" * r.model.mtp + "L",
        message=lambda r: "in order, the chunks must hold E, {} t, {} m and L; they hold {} t and {} m".format(
            r.model.layers, r.model.mtp, "".join(_letters(r)).count("t"), "".join(_letters(r)).count("m")
        ),
        source="core/transformer/pipeline_parallel_layer_layout.py:94-116",
        repairs=resplit,
    ),
    Rule(
        id="layout.mtp",
        path="parallelism.pipeline_split.layout",
        backends=PIPELINED,
        needs=("layout.stages", "layout.order"),
        holds=lambda r: _mtp_placed(r),
        message="all m must stand in one chunk, the last of its stage, and not before the loss on the first stage",
        source="core/transformer/pipeline_parallel_layer_layout.py:122-132",
        repairs=resplit,
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


RULES: tuple[Rule, ...] = _SPLIT + _LAYOUT
