"""Decoding is closed and typed, and says everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from meshwright.errors import ConfigError
from meshwright.spec.decode import decode


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    rate: float = 1.0
    on: bool = False
    limit: int | None = None
    many: tuple[Inner, ...] = ()
    table: Mapping[str, Inner] = field(default_factory=dict)


def errors(data: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decode(Outer, data)
    return str(caught.value).splitlines()


def test_nested_values_arrive() -> None:
    data = {
        "name": "x",
        "inner": {"size": 2},
        "rate": 3,
        "many": [{"size": 1}],
        "table": {"k": {"size": 5, "kind": "b"}},
    }
    assert decode(Outer, data) == Outer("x", Inner(2), 3.0, many=(Inner(1),), table={"k": Inner(5, "b")})


def test_a_key_that_belongs_deeper_is_named_there() -> None:
    found = errors({"name": "x", "inner": {"size": 2}, "kind": "b"})
    assert found == ["kind: unknown key; did you mean inner.kind?"]


def test_all_problems_at_once() -> None:
    data = {"nam": "x", "inner": {"size": "2", "kind": "c"}, "rate": "fast", "on": 1, "many": [{}], "table": 3}
    assert errors(data) == [
        "nam: unknown key; did you mean name?",
        "name: not set; give it a value",
        "inner.size: expected a whole number, got '2'",
        "inner.kind: expected one of a, b, got 'c'",
        "rate: expected a number, got 'fast'",
        "on: expected true or false, got 1",
        "many[0].size: not set; give it a value",
        "table: expected a mapping, got 3; write 'table={a:1,b:2}' with its quotes",
    ]


def test_a_missing_value_is_not_set() -> None:
    assert errors({"name": "???", "inner": {"size": 1}}) == ["name: not set; give it a value"]


def test_whole_floats_are_whole_numbers() -> None:
    assert decode(Inner, {"size": 15.6e12}).size == 15_600_000_000_000
    assert errors({"name": "x", "inner": {"size": 1.5}}) == ["inner.size: expected a whole number, got 1.5"]


def test_booleans_are_not_numbers() -> None:
    assert errors({"name": "x", "inner": {"size": True}}) == ["inner.size: expected a whole number, got True"]


def test_text_that_yaml_took_for_a_number() -> None:
    assert errors({"name": 43200, "inner": {"size": 1}}) == [
        "name: expected text, got 43200; quote it, YAML read it as something else (on the command line '\"43200\"')"
    ]


def test_not_a_number_is_no_number() -> None:
    assert errors({"name": "x", "inner": {"size": 1}, "rate": float("nan")}) == [
        "rate: expected a finite number, got nan"
    ]


@pytest.mark.parametrize(
    ("size", "said"),
    [(1e30, "below 9.2e+18, got 1e+30"), (-(10**30), "got one of 100 bits"), (10**5000, "got one of 16610 bits")],
    ids=["float", "whole", "thousands of digits"],
)
def test_a_number_beyond_all_sizes(size: float, said: str) -> None:
    (line,) = errors({"name": "x", "inner": {"size": size}})
    assert line.startswith("inner.size: expected a number")
    assert line.endswith(said)


def test_a_value_cannot_draw_on_the_terminal() -> None:
    assert "\x1b" not in errors({"name": "x", "inner": {"size": 1}, "\x1b[31mred": 1})[0]
