"""Repairs of a split: the slowest stage as fast as any split Megatron runs allows, by an independent search."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders import LLAMA_405B, spec
from meshwright.errors import Problem
from meshwright.layout.balance import NEAR, Work, best_splits, stage_works
from meshwright.layout.pipeline import split
from meshwright.loading import load
from meshwright.model.work import pipeline_work
from meshwright.resolver import override, refusals
from meshwright.spec import PipelineSplit, Spec


def uneven(layers: int, pp: int, vpp: int = 1, mtp: int = 0, **division: int) -> Spec:
    """405B's layers, another number of them, on ``pp`` stages."""
    model = replace(LLAMA_405B, layers=layers, mtp=mtp)
    chosen = PipelineSplit(**division)  # type: ignore[arg-type]
    return spec(model, 8 * pp, 8192, 8 * pp, tp=8, sp=True, pp=pp, vpp=vpp, overlap_p2p=True, pipeline_split=chosen)


def mended(candidate: Spec) -> list[Spec]:
    """The candidate after each of its repairs that changes only the split."""
    found = refusals(candidate, "megatron")
    changes = [r for p in found for r in p.repairs if all(path.startswith("parallelism.pipeline_split") for path in r)]
    result = []
    for change in changes:
        changed = candidate
        for path, value in change.items():
            changed = override(changed, path, value)
        result.append(changed)
    return result


def counts(candidate: Spec) -> list[int]:
    p = candidate.parallelism
    return [sum(c.layers for c in stage) for stage in split(candidate.model, p.pp, p.vpp, p.pipeline_split)]


@pytest.mark.parametrize(
    ("layers", "pp", "best"),
    [
        (30, 4, [7, 8, 8, 7]),
        (46, 4, [11, 12, 12, 11]),
        (62, 4, [15, 16, 16, 15]),
        (94, 8, [11, 12, 12, 12, 12, 12, 12, 11]),
        (29, 4, [8, 7, 7, 7]),
        (61, 4, [16, 15, 15, 15]),  # the last stage has the head as well
    ],
)
def test_the_first_repair_is_the_most_even_split(layers: int, pp: int, best: list[int]) -> None:
    assert counts(mended(uneven(layers, pp))[0]) == best


def test_ends_that_leave_too_little_are_mended_evenly() -> None:
    assert counts(mended(uneven(30, 4, first=11, last=12))[0]) == [7, 8, 8, 7]


def least(work: Work, pp: int, vpp: int, mtp: int) -> float:
    """The lowest maximum over stages of equal layers, without looking at how a backend spells a split."""
    limits = []
    chunks = pp * vpp
    for tail in (0, 1) if mtp and pp > 1 else (0,):
        end = chunks - 1 - tail
        fixed = [0.0] * pp
        fixed[end % pp] += mtp * work.mtp
        fixed[-1] += work.head
        needed = [sum(0 < i < end for i in range(p, chunks, pp)) for p in range(pp)]
        open_ = [any(i <= end for i in range(p, chunks, pp)) for p in range(pp)]
        each, total = work.layers[0], len(work.layers)
        if sum(needed) <= total:
            possible = {f + n * each for f in fixed for n in range(total + 1)}
            limits.append(min(m for m in possible if _fits(m * (1 + 1e-9), fixed, needed, open_, each, total)))
    return min(limits)


def _fits(most: float, fixed: list[float], needed: list[int], open_: list[bool], each: float, total: int) -> bool:
    room = [int((most - f) // each) if o else 0 for f, o in zip(fixed, open_, strict=True)]
    enough = all(most >= f and n <= r for f, n, r in zip(fixed, needed, room, strict=True))
    return enough and sum(room) >= total


@settings(max_examples=120, deadline=None)
@example(layers=98, pp=2, vpp=2, mtp=1)  # the string whose chunks are alike is slower than the other one
@example(layers=56, pp=2, vpp=2, mtp=1)
@given(
    st.integers(8, 130), st.sampled_from([2, 3, 4, 6, 8, 16]), st.sampled_from([1, 1, 2, 3, 4]), st.sampled_from([0, 1])
)
def test_no_proposed_split_is_slower_than_the_best_by_more_than_2_percent(
    layers: int, pp: int, vpp: int, mtp: int
) -> None:
    if layers < pp * vpp:
        return
    candidate = uneven(layers, pp, vpp, mtp)
    work = pipeline_work(candidate.model, 8192)
    proposed = [b.division for b in best_splits(candidate.model, work, pp, vpp)]
    assert proposed
    for division in [*proposed, *(m.parallelism.pipeline_split for m in mended(candidate))]:
        chosen = replace(candidate, parallelism=replace(candidate.parallelism, pipeline_split=division))
        assert refusals(chosen, "megatron") == []
        assert sum(counts(chosen)) == layers
        works = stage_works(work, split(chosen.model, pp, vpp, division))
        assert max(works) <= NEAR * least(work, pp, vpp, mtp) * (1 + 1e-6)


def test_layers_that_differ_are_balanced_by_work() -> None:
    """Six light layers in front: the first stage takes more of them."""
    work = Work((0.5,) * 6 + (1.0,) * 15, 0.0, 0.0)
    best = best_splits(replace(LLAMA_405B, layers=21), work, 3, 1)[0]
    assert best.slowest == 6.0
    assert best.division == PipelineSplit(first=9)


@pytest.mark.parametrize(("pp", "dealt"), [(4, [8] * 7 + [5]), (8, [4] * 15 + [1]), (16, [2] * 30 + [1, 0])])
def test_stages_that_wait_for_one_long_chunk_are_slow(pp: int, dealt: list[int]) -> None:
    """A last chunk of the loss alone makes another of its stage twice as long, and all stages wait for that one."""
    words = ["model=deepseek_v3", "cluster=dgx_h100", f"cluster.gpus={16 * pp}", "training.global_batch=480"]
    asked = load([*words, "parallelism.tp=8", f"parallelism.pp={pp}", "parallelism.vpp=2", "parallelism.zero=1"])
    (candidate,) = asked.stages
    work = pipeline_work(candidate.model, candidate.training.sequence)
    (best,) = best_splits(candidate.model, work, pp, 2)
    stages = split(candidate.model, pp, 2, best.division)
    assert [stage[v].layers for v in (0, 1) for stage in stages] == dealt


def test_a_layout_string_is_shown_quoted() -> None:
    """As a shell hands it on, Hydra's grammar reads it."""
    line = str(Problem("parallelism.pp", "uneven", repairs=({"parallelism.pipeline_split.layout": "Et|(tt|)*2L"},)))
    assert shlex.split(line)[-1] == "parallelism.pipeline_split.layout='Et|(tt|)*2L'"
