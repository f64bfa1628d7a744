"""A pattern says of each layer what it is; its short forms resolve alike, and what Megatron gets reads back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import small_model, spec
from meshwright.emit.megatron_model import windows
from meshwright.emit.megatron_moe import moe_pattern
from meshwright.errors import ConfigError
from meshwright.layout.plan import Plan
from meshwright.model.kinds import kinds, layer_kinds, running_counts
from meshwright.model.layers import FEED_FORWARDS, MIXERS, LayerKind
from meshwright.model.pattern import read_pattern, write_pattern
from meshwright.resolver import resolve
from meshwright.spec.model import Model, Moe

MOE = Moe(experts=8, topk=2, ffn=64)
WHOLE = st.sampled_from([LayerKind(mixer, ffn) for mixer in MIXERS for ffn in FEED_FORWARDS])


@given(st.lists(WHOLE, min_size=2, max_size=12))
def test_what_is_written_is_read_back(layers: list[LayerKind]) -> None:
    assert list(read_pattern(write_pattern(layers))) == layers


def test_without_spaces_each_symbol_is_a_layer_of_one_part() -> None:
    assert read_pattern("*-E") == (LayerKind("attention"), LayerKind(ffn="mlp"), LayerKind(ffn="experts"))


def test_repeats_nest() -> None:
    attention, windowed = LayerKind("attention", "mlp"), LayerKind("windowed_attention", "mlp")
    assert read_pattern("2x(2xW- *-) W-") == (windowed, windowed, attention) * 2 + (windowed,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3x", "nothing follows 3x"),
        ("2x(*-", "a parenthesis is open"),
        ("*- )", "that was not opened"),
        ("*Q *-", "'*Q' is no layer"),
        ("-* *-", "'-*' is no layer"),
        ("999999999x*-", "more than 100,000 layers"),
        ("99999x(99999x*-)", "more than 100,000 layers"),
        ("*- 7", "'7' is no layer, repeat or group"),
    ],
)
def test_what_is_no_pattern_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(spec(small_model(pattern=text), 8))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (small_model(pattern="7x*-"), "model.pattern: writes 7 layers, model.layers = 8"),
        (small_model(pattern="8x*E"), "model.moe: not set, and model.pattern has E"),
        (small_model(pattern="8xW-"), "model.sliding_window: not set, and model.pattern has W"),
        (small_model(pattern="8x*E", moe=replace(MOE, first_dense=1)), "model.moe.first_dense: 1 says again"),
    ],
)
def test_a_pattern_agrees_with_the_rest_of_the_model(model: Model, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(spec(model, 8))
    assert said in str(refused.value)


SHORT: dict[str, tuple[Model, str]] = {
    "dense first": (small_model(moe=replace(MOE, first_dense=3)), "3x*- 5x*E"),
    "every second": (small_model(moe=replace(MOE, every=2)), "4x(*- *E)"),
    "windows": (small_model(sliding_window=128, full_attention_every=4), "2x(3xW- *-)"),
    "one kind": (small_model(), "8x*-"),
}


def written(name: str) -> tuple[Plan, Plan]:
    short, pattern = SHORT[name]
    moe = short.moe and replace(short.moe, first_dense=0, every=1)
    plans = (short, replace(short, pattern=pattern, moe=moe, full_attention_every=0))
    first, second = (resolve(spec(model, 8, pp=2, global_batch=16)) for model in plans)
    return first, second


@pytest.mark.parametrize("name", SHORT)
def test_the_short_form_and_the_pattern_resolve_alike(name: str) -> None:
    short, long = written(name)
    assert layer_kinds(short.spec.model) == layer_kinds(long.spec.model)
    assert short.stages == long.stages
    assert moe_pattern(short.spec.model) == moe_pattern(long.spec.model)


def test_windows_that_no_frequency_says_are_a_list() -> None:
    assert windows(small_model(pattern="*- 7xW-", sliding_window=128)) == [0, 1, 1, 1, 1, 1, 1, 1]
    assert windows(small_model(pattern="8xW-", sliding_window=128)) is None
    assert windows(small_model(sliding_window=128, full_attention_every=4)) == 4


def test_counts_run_up_to_each_layer() -> None:
    model = small_model(moe=replace(MOE, first_dense=3))
    dense, routed = kinds(model)
    assert running_counts(model)[dense] == (0, 1, 2, 3, 3, 3, 3, 3, 3)
    assert running_counts(model)[routed] == (0, 0, 0, 0, 1, 2, 3, 4, 5)
