"""Words of a command line."""

from __future__ import annotations

__all__ = ["flag", "switch"]


def flag(name: str, value: object, default: object = None) -> tuple[str, ...]:
    """``name value``, or nothing where ``value`` is the default."""
    return () if value is None or value == default else (name, str(value))


def switch(name: str, on: bool) -> tuple[str, ...]:
    """``name`` where it is on."""
    return (name,) if on else ()
