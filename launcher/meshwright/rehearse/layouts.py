"""How a few processes are laid out so that they have every kind of parallelism that a Spec has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.spec import Parallelism, PipelineSplit, Spec

__all__ = ["layouts", "parallelism", "processes", "recomputed", "split"]


AXES = ("pp", "tp", "cp", "dp")


def layouts(spec: Spec, ranks: int) -> list[dict[str, int]]:
    """Degrees of each miniature: axes packed together while they fit, then filled up with those seen already."""
    sizes = {axis: size for axis, size in _sizes(spec, ranks).items() if size > 1}
    packed: list[dict[str, int]] = []
    for axis, size in sizes.items():
        home = next((p for p in packed if processes(p) * size <= ranks), None)
        if home is None:
            packed.append(home := {})
        home[axis] = size
    for degrees in packed:
        for axis, size in sizes.items():
            if axis not in degrees and axis != "pp" and processes(degrees) * size <= ranks:
                degrees[axis] = size
    return _room_for_experts(spec, packed or [{"dp": 1}], ranks)


def _sizes(spec: Spec, ranks: int) -> dict[str, int]:
    p = spec.parallelism
    sizes = {axis: min(2, getattr(p, axis) or 1) for axis in AXES}
    sizes["dp"] = min(2, (p.dp or 1) * p.gtp)  # which cuts weights, not the micro-batches
    if p.pp > 1 and p.vpp == 1 and ranks >= 4 and p.pipeline_split != PipelineSplit():
        sizes["pp"] = 4  # uneven stages have a first, a last and some between
    if p.optimizer_instances > 1 and ranks >= 4:
        sizes["dp"] = 4
    return sizes


def _room_for_experts(spec: Spec, packed: list[dict[str, int]], ranks: int) -> list[dict[str, int]]:
    """``ep*etp`` divides ``tp*cp*dp``; where no layout has that room, one more with a wider axis."""
    needed = min(ranks, min(2, spec.parallelism.ep) * min(2, spec.parallelism.etp))
    if any(_rows(degrees) % needed == 0 for degrees in packed):
        return packed
    widest = max(("dp", "cp", "tp"), key=lambda axis: getattr(spec.parallelism, axis) or 1)
    return [*packed, {widest: needed}]


def processes(degrees: Mapping[str, int]) -> int:
    """How many ``degrees`` need."""
    return _rows(degrees) * degrees.get("pp", 1)


def _rows(degrees: Mapping[str, int]) -> int:
    """Ranks of one pipeline stage."""
    return degrees.get("tp", 1) * degrees.get("cp", 1) * degrees.get("dp", 1)


def parallelism(spec: Spec, degrees: Mapping[str, int], division: PipelineSplit) -> Parallelism:
    """What a miniature of ``degrees`` has of the Spec's; what needs a GPU is left out."""
    p, pipelined = spec.parallelism, "pp" in degrees
    tp, pp, cp, dp = (degrees.get(axis, 1) for axis in ("tp", "pp", "cp", "dp"))
    ep, etp = _expert_degrees(p, tp * cp * dp)
    return replace(
        p,
        tp=tp,
        pp=pp,
        cp=cp,
        dp=dp,
        ep=ep,
        etp=etp,
        gtp=1,
        egtp=1,
        sp=p.sp and "tp" in degrees,
        vpp=min(p.vpp, 2) if pipelined else 1,
        zero=p.zero if dp * cp > 1 or spec.backend.name == "deepspeed" else 0,
        optimizer_instances=2 if p.optimizer_instances > 1 and dp >= 4 else 1,
        pipeline_split=division if pipelined else PipelineSplit(),
        recompute_modules=recomputed(p),
        recompute_layers=None if p.recompute_layers is None else 1,
        microbatch_group=None,
        cp_comm="all_gather" if cp > 1 and spec.backend.name == "megatron" else p.cp_comm,
        overlap_tp=False,
        overlap_ep=False,
    )


def _expert_degrees(p: Parallelism, rows: int) -> tuple[int, int]:
    """EP and ETP, as far as the ranks of a stage have room for them."""
    ep = 2 if p.ep > 1 and rows % 2 == 0 else 1
    return ep, 2 if p.etp > 1 and rows % (2 * ep) == 0 else 1


def recomputed(p: Parallelism) -> tuple[str, ...] | None:
    """Activations of experts in one grouped product are not recomputed: here each expert has its own."""
    return p.recompute_modules and tuple(module for module in p.recompute_modules if module != "moe_act")


def split(spec: Spec, ranks: int) -> tuple[int, PipelineSplit]:
    """Layers of the miniature, and an uneven split where the original has one: [1,2,2,1] over four chunks."""
    pp = _sizes(spec, ranks)["pp"]
    division, vpp = spec.parallelism.pipeline_split, min(spec.parallelism.vpp, 2)
    chunks, tail = pp * vpp, "m" * min(spec.model.mtp, 1) + "L"
    if pp == 1 or division == PipelineSplit():
        return max(4, chunks), PipelineSplit()
    if division.layout is not None:
        return 6, PipelineSplit(layout=f"Et|tt|tt|t{tail}" if chunks == 4 else f"Ett|tttt{tail}")
    if division.embedding or division.loss:
        return 2 * chunks - division.embedding - division.loss, replace(division)
    short = 1 if pp == 4 else 2  # two stages of two chunks each: 2 and 4 layers
    first, last = (short if end is not None else None for end in (division.first, division.last))
    if first is not None and last is not None:
        return 6, PipelineSplit(first=first, last=6 - first if pp == 2 else last)
    return 7 if pp == 4 else 6, PipelineSplit(first=first, last=last)
