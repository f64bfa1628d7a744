"""meshwright: one description of model x cluster x parallelism, proven DeepSpeed and Megatron-core configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshwright.errors import ConfigError

if TYPE_CHECKING:
    from meshwright.jobs.run_folder import compile
    from meshwright.loading import load
    from meshwright.resolver import resolve

__all__ = ["ConfigError", "__version__", "compile", "load", "resolve"]

__version__ = "0.1.0"

_HOMES = {"compile": "meshwright.jobs.run_folder", "load": "meshwright.loading", "resolve": "meshwright.resolver"}


def __getattr__(name: str) -> Any:
    """Import what is asked for and nothing else: the command line must start fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
