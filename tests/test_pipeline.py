"""Layers on stages: even, with slots for the embedding and the loss, uneven ends, layout strings, chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import LLAMA_405B, small_model
from meshwright.layout.pipeline import parse_layout, split
from meshwright.spec import PipelineSplit


def layers(model_layers: int, pp: int, vpp: int = 1, **division: object) -> list[list[int]]:
    """Layers per chunk of every stage."""
    stages = split(replace(LLAMA_405B, layers=model_layers), pp, vpp, PipelineSplit(**division))  # type: ignore[arg-type]
    return [[chunk.layers for chunk in stage] for stage in stages]


def test_even() -> None:
    assert layers(8, 4) == [[2], [2], [2], [2]]


def test_llama_405b_gives_a_layer_to_the_embedding_and_one_to_the_loss() -> None:
    assert layers(126, 16, embedding=True, loss=True) == [[7], *[[8]] * 14, [7]]


def test_the_same_with_first_and_last() -> None:
    assert layers(126, 16, first=7, last=7) == [[7], *[[8]] * 14, [7]]


def test_interleaved_slots_empty_the_outer_chunks() -> None:
    stages = layers(126, 16, vpp=8, embedding=True, loss=True)
    assert stages[0] == [0, 1, 1, 1, 1, 1, 1, 1]
    assert stages[15] == [1, 1, 1, 1, 1, 1, 1, 0]


def test_deepseek_v3_first_four_last_one() -> None:
    assert layers(61, 16, first=4, last=1) == [[4]] * 15 + [[1]]


def test_chunks_are_walked_before_stages() -> None:
    stages = split(small_model(layers=8), pp=2, vpp=2, division=PipelineSplit())
    assert [[chunk.first for chunk in stage] for stage in stages] == [[0, 4], [2, 6]]


def test_layout_string() -> None:
    assert parse_layout("Et*3|(tt|)*2m|L") == ["Ettt", "tt", "tt", "m", "L"]
    assert parse_layout("(ab)*3") == ["ababab"]


def test_layout_places_mtp_and_the_final_norm() -> None:
    model = replace(LLAMA_405B, layers=61, mtp=1)
    stages = split(model, 16, 2, PipelineSplit(layout="Et*3|(tt|)*29m|L"))
    assert stages[14][1].mtp == 1
    assert stages[13][1].final_norm  # after the last decoder layer, not with the loss
    assert stages[15][1].loss
    assert not stages[15][1].final_norm


@pytest.mark.parametrize("vpp", [1, 2, 4])
def test_every_layer_stands_once(vpp: int) -> None:
    stages = split(small_model(layers=16), 4, vpp, PipelineSplit())
    held = [layer for s in stages for c in s for layer in range(c.first, c.first + c.layers)]
    assert sorted(held) == list(range(16))
