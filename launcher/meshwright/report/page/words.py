"""Numbers as a page writes them: three digits that matter, and the unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from meshwright.cost.memory import GIB

__all__ = ["FILTERS", "MEMORY"]

MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "logits": "logits and loss",
    "workspace": "workspace of one layer",
    "communication": "buckets and gathered weights",
    "framework": "framework",
}
"""What fills a GPU's memory, by the fields of ``Memory``."""


def three(value: float) -> str:
    """Three digits that matter, thousands in full."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    """Seconds, or milli- or microseconds where they are few."""
    if value >= 0.1:
        return f"{three(value)} s"
    return f"{three(1e3 * value)} ms" if value >= 1e-3 or not value else f"{three(1e6 * value)} µs"


def gib(value: float) -> str:
    """Bytes as GiB, or MiB where they are few."""
    return f"{value / GIB:,.1f} GiB" if value >= 0.1 * GIB or not value else f"{three(value / 2**20)} MiB"


def gb(value: float) -> str:
    """Bytes as the GB that links are rated in."""
    return f"{three(value / 1e9)} GB" if value >= 1e8 else f"{three(value / 1e6)} MB"


def percent(value: float, digits: int = 1) -> str:
    """A part of one."""
    return f"{value:.{digits}%}"


def count(value: float) -> str:
    """A whole number with its thousands."""
    return f"{value:,.0f}"


def large(value: float) -> str:
    """A count of parameters or tokens: 405.9 B, 11.9 T."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return three(value)


def days(value: float) -> str:
    """Seconds as days, or hours or seconds where they are few."""
    if value < 360:
        return seconds(value)
    return f"{value / 86_400:,.1f} days" if value >= 86_400 else f"{value / 3600:,.1f} hours"


def literal(value: object) -> str:
    """A value of the configuration as Hydra reads it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {literal(one)}' for key, one in value.items())}}}"
    if isinstance(value, float):
        return f"{value:.12g}"  # a product of published numbers may end in a rounding's dust
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def breakable(path: str) -> Markup:
    """A dotted path that a narrow column may break after a dot."""
    return Markup(".<wbr>").join(path.split("."))


def at(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path."""
    value: Any = document
    for name in path.split("."):
        value = value[int(name)] if isinstance(value, (list, tuple)) else value[name]
    return value


FILTERS: Mapping[str, Callable[..., Any]] = {
    "at": at,
    "breakable": breakable,
    "count": count,
    "days": days,
    "gb": gb,
    "gib": gib,
    "large": large,
    "literal": literal,
    "percent": percent,
    "seconds": seconds,
    "three": three,
}
"""By the names that templates use."""
