"""Layout strings in a search: proposed where simple splits are uneven, ranked beside them, and never worse."""

from __future__ import annotations

from dataclasses import replace

import builders
from meshwright.layout.pipeline import parse_layout
from meshwright.search.exact import search
from meshwright.search.objective import Goal
from meshwright.search.space import space
from meshwright.search.strings import strings
from meshwright.spec import Spec

FEW = {"parallelism.tp": (1,), "parallelism.cp": (1,), "parallelism.pp": (4,), "parallelism.recompute": ("none",)}


def predicting(layers: int = 13) -> Spec:
    """Thirteen layers and one that predicts a further token, on four stages."""
    model = builders.small_model(layers=layers, hidden=2048, ffn=8192, heads=16, head_dim=128, vocab=128_000, mtp=1)
    return builders.spec(model, 8, sequence=4096, global_batch=32)


def test_each_is_as_long_as_stages_and_chunks_and_holds_every_layer() -> None:
    found = list(strings(predicting(), {}))
    assert {pp for pp, _, _ in found} >= {4, 8}
    for pp, vpp, written in found:
        chunks = parse_layout(written)
        assert len(chunks) == pp * vpp
        assert "".join(chunks).count("t") == 13
        assert "".join(chunks).count("m") == 1


def test_even_models_and_stated_splits_want_none() -> None:
    assert not list(strings(builders.spec(builders.small_model(), 8), {}))
    assert not list(strings(predicting(), {"first": (3,)}))
    deepspeed = replace(predicting(), backend=replace(predicting().backend, name="deepspeed"))
    assert not list(strings(deepspeed, {}))


def test_the_best_string_beats_the_best_simple_split() -> None:
    free = search(space(predicting(), FEW), Goal(top=1)).best[0]
    plain = search(space(predicting(), {**FEW, "parallelism.pipeline_split.layout": (None,)}), Goal(top=1)).best[0]
    assert plain.spec.parallelism.pipeline_split.layout is None
    assert free.spec.parallelism.pipeline_split.layout
    assert free.step_time < plain.step_time


def test_the_modules_that_are_described_are_tried_beside_attention() -> None:
    described = predicting()
    parallelism = replace(described.parallelism, recompute="selective", recompute_modules=("mlp",))
    asked = space(replace(described, parallelism=parallelism), {**FEW, "parallelism.recompute": ("selective",)})
    found = {one.spec.parallelism.recompute_modules for one in search(asked, Goal(top=64)).best}
    assert found == {None, ("mlp",)}
