"""Frozen dataclasses of our own making answer as the standard library's do."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from typing import Any

import pytest

from meshwright.spec.frozen import dataclass


@dataclass(frozen=True)
class Ours:
    """With a default, a list made for each, and a field that is neither compared nor shown."""

    a: int
    b: str = "b"
    c: list[int] = field(default_factory=list, hash=False)
    d: float = field(default=0.0, compare=False, repr=False)

    def twice(self) -> int:
        return 2 * self.a


@dataclasses.dataclass(frozen=True)
class Theirs:
    """The same."""

    a: int
    b: str = "b"
    c: list[int] = field(default_factory=list, hash=False)
    d: float = field(default=0.0, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Named:
    one: int
    other: int = 2


@dataclass(frozen=True, repr=False)
class Quiet:
    only: int

    def __repr__(self) -> str:
        return "hush"


@dataclass(frozen=True)
class Empty:
    """No field at all."""


ASKED: list[Callable[[Any], object]] = [
    lambda of: [(f.name, f.type, f.kw_only) for f in fields(of)],
    lambda of: asdict(of(1, c=[2])),
    lambda of: repr(of(1, "x")),
    lambda of: (of(1) == of(1), of(1) == of(2), of(1, d=1.0) == of(1, d=2.0), of(1) == 1, of(1) != of(1)),
    lambda of: asdict(replace(of(1, "x"), a=3)),
    lambda of: of(1).c is of(1).c,
    lambda of: of.__match_args__,
]


@pytest.mark.parametrize("asked", ASKED)
def test_the_same_as_the_standard_librarys(asked: Callable[[Any], object]) -> None:
    assert str(asked(Ours)).replace("Ours", "Theirs") == str(asked(Theirs))


@pytest.mark.parametrize("wrong", [{}, {"a": 1, "e": 2}])
def test_wrong_arguments_are_refused_in_the_same_words(wrong: dict[str, int]) -> None:
    with pytest.raises(TypeError) as ours:
        Ours(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError) as theirs:
        Theirs(**wrong)  # type: ignore[arg-type]
    assert str(ours.value).replace("Ours", "Theirs") == str(theirs.value)


@pytest.mark.parametrize("change", [lambda x: setattr(x, "a", 2), lambda x: delattr(x, "a")])
def test_nothing_is_changed(change: Callable[[Any], None]) -> None:
    with pytest.raises(FrozenInstanceError) as ours:
        change(Ours(1))
    with pytest.raises(FrozenInstanceError) as theirs:
        change(Theirs(1))
    assert str(ours.value) == str(theirs.value)


def test_equal_ones_are_one_key() -> None:
    assert len({Named(one=1), Named(one=1, other=2), Named(one=2)}) == 2
    assert {Quiet(1): "x"}[Quiet(1)] == "x"
    assert Empty() == Empty()
    assert repr((Empty(), Quiet(1), Named(one=1))) == "(Empty(), hush, Named(one=1, other=2))"


def test_fields_by_name_only_and_a_copy_by_pickle() -> None:
    with pytest.raises(TypeError, match="positional"):
        Named(1)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(Ours(1, c=[2]))) == Ours(1, c=[2])
    assert Ours(4).twice() == 8
