"""How values read that several frameworks on Megatron write in the same way, and reasons that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwright.imports.documents import Leaves

__all__ = ["KERNELS", "OWN", "POSITIONS", "STYLES", "activation", "first", "on", "paths", "second_beta", "switch"]


def on(value: Any) -> Any:
    """A switch: it says something where it is on."""
    return True if value is True else None


def switch(value: Any) -> bool:
    """A switch that says something on and off; what is neither is left for its reader to name."""
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def first(value: Any) -> Any:
    """The first of a list."""
    return value[0]


def second_beta(key: str) -> Callable[[Leaves], dict[str, Any]]:
    """Adam's second beta, which stands in a list with the first."""

    def of(leaves: Leaves) -> dict[str, Any]:
        betas = leaves[key].value if key in leaves else None
        return {"adam_beta2": betas[1]} if isinstance(betas, list) and len(betas) == 2 else {}

    return of


def paths(value: Any) -> Any:
    """One path, or several."""
    return value if isinstance(value, list) else [str(value)]


STYLES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "CosineAnnealing": "cosine"}
STYLES |= {"WarmupPolicy": "constant", "WarmupHoldPolicy": "constant", "SquareRootAnnealing": "inverse-square-root"}
POSITIONS = {"rotary": "rope", "learned": "learned_absolute", "none": "none", "alibi": "alibi", "rope": "rope"}
KERNELS = "a choice of kernels, of which ours are Megatron's"
OWN = "the framework's own: logging, launching, loading"


def activation(kind: str) -> Any:
    """A flag of that name, where the activation is it."""
    return lambda value: True if str(value).replace("-", "_").removeprefix("fast_") == kind else None
