"""Forward passes that a stage has under way when its first backward begins, chunk by chunk, in Megatron's own order."""

from __future__ import annotations

import pytest

from meshwright.cost.inputs import scene
from meshwright.cost.stage_loads import load_of, stages_of
from meshwright.resolver import layout
from test_cost import planned


def outstanding(pp: int, vpp: int, index: int) -> list[int]:
    """Of each chunk; groups of ``pp`` micro-batches go through one chunk after the other."""
    done = [0] * vpp
    for k in range(2 * (pp - index - 1) + (vpp - 1) * pp + 1):
        done[k % (pp * vpp) // pp] += 1
    return done


@pytest.mark.parametrize("vpp", [2, 4])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_chunks_that_lack_a_layer_hold_less_by_their_own_passes(index: int, vpp: int) -> None:
    """Two slots a chunk, of which embedding and loss have one each: of the first chunk of all, and of the last."""
    plan = planned(
        f"model.layers={8 * vpp - 2}",
        "cluster.gpus=4",
        "training.global_batch=64",
        "parallelism.pp=4",
        f"parallelism.vpp={vpp}",
        "parallelism.pipeline_split.embedding=true",
        "parallelism.pipeline_split.loss=true",
    )
    chunks = plan.stages[index].chunks
    assert [chunk.layers for chunk in chunks] == [2 - (index == 0), *[2] * (vpp - 2), 2 - (index == 3)]
    held = sum(n * chunk.layers for n, chunk in zip(outstanding(4, vpp, index), chunks, strict=True))
    s = scene(layout(plan.spec))
    place = next(place for place in stages_of(s).places if place.load.index <= index <= place.latest)
    for load in (load_of(s, index, chunks), place.load):
        assert load.in_flight * load.layers == pytest.approx(held)
