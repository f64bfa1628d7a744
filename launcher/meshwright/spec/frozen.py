"""Frozen dataclasses that are made in a fifth of the time.

The standard library writes and compiles six functions for each, 0.7 ms; a command makes more than a hundred such
classes before it does anything. Five of the six differ in the names of the fields only: here they close over them,
and ``__init__`` alone is compiled. What can be asked of such a class (``fields``, ``replace``, ``asdict``) is
unchanged, and type checkers see the standard decorator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: Any = None, /, *, frozen: bool, kw_only: bool = False, repr: bool = True) -> Any:
        """As ``dataclasses.dataclass`` with these arguments, ``frozen`` being true."""
        assert frozen, "a class that is changed is the standard library's"
        if cls is None:
            return lambda later: dataclass(later, frozen=frozen, kw_only=kw_only, repr=repr)
        return _frozen(dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls), repr)


def _frozen(cls: Any, shown: bool) -> Any:
    fields = dataclasses.fields(cls)
    values = _values([field.name for field in fields if field.compare])
    cls.__init__ = _init(cls, fields)
    cls.__setattr__, cls.__delattr__ = _refusal("assign to"), _refusal("delete")
    cls.__eq__, cls.__hash__ = _equal(values), lambda self: hash(values(self))
    if shown:
        cls.__repr__ = _shown([field.name for field in fields if field.repr])
    return cls


def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What is compared of an object."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _equal(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, Any], bool]:
    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _shown(names: list[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:  # noqa: N807
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _refusal(doing: str) -> Callable[..., NoReturn]:
    def refuse(self: Any, name: str, *_: Any) -> NoReturn:
        raise FrozenInstanceError(f"cannot {doing} field {name!r}")

    return refuse


def _init(cls: type, fields: tuple[Field[Any], ...]) -> Callable[..., None]:
    """``__init__``, compiled: it runs too often to look at the fields."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": MISSING}
    known |= {f"_default_{field.name}": field.default for field in fields if field.default is not MISSING}
    known |= {f"_make_{field.name}": field.default_factory for field in fields}
    ordered = [field for field in fields if not field.kw_only]
    named = [field for field in fields if field.kw_only]
    parameters = ["self", *map(_parameter, ordered), *(["*"] if named else []), *map(_parameter, named)]
    body = [f" _set(self, {field.name!r}, {_assigned(field)})" for field in fields] or [" pass"]
    exec("\n".join([f"def __init__({', '.join(parameters)}):", *body]), known)
    made: Any = known["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return made  # type: ignore[no-any-return]


def _parameter(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"{field.name}=_default_{field.name}"
    return field.name if field.default_factory is MISSING else f"{field.name}=_MISSING"


def _assigned(field: Field[Any]) -> str:
    if field.default_factory is MISSING:
        return field.name
    return f"_make_{field.name}() if {field.name} is _MISSING else {field.name}"
