"""Elementwise functions that take numbers or NumPy arrays, and import NumPy only when given arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["GIB", "Number", "clip", "interpolate", "log2", "maximum", "minimum", "where"]

GIB = 2**30
Number = Any  # an int, float or bool, or a NumPy array of them

_SCALARS = (int, float, bool)
_PLAIN = frozenset(_SCALARS)


def maximum(*values: Number) -> Number:
    """The largest, elementwise."""
    if _PLAIN.issuperset(map(type, values)):
        return max(values)
    import numpy as np

    result = values[0]
    for value in values[1:]:
        result = np.maximum(result, value)
    return result


def minimum(*values: Number) -> Number:
    """The smallest, elementwise."""
    return -maximum(*(-v for v in values))


def clip(value: Number, low: Number, high: Number) -> Number:
    """``value`` moved into ``low .. high``."""
    return minimum(maximum(value, low), high)


def where(condition: Number, then: Number, otherwise: Number) -> Number:
    """``then if condition else otherwise``, elementwise; both are evaluated."""
    if isinstance(condition, _SCALARS):
        return then if condition else otherwise
    import numpy as np

    return np.where(condition, then, otherwise)


def log2(value: Number) -> Number:
    """Binary logarithm."""
    if isinstance(value, _SCALARS):
        return math.log2(value)
    import numpy as np

    return np.log2(value)


def interpolate(table: Sequence[float], place: Number) -> Number:
    """``table[place]``, linearly between whole places."""
    if isinstance(place, _SCALARS):
        low = min(int(place), len(table) - 1)
        return table[low] + (place - low) * (table[min(low + 1, len(table) - 1)] - table[low])
    import numpy as np

    return np.interp(place, np.arange(len(table)), table)
