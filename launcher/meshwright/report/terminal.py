"""The terminal that reports are printed to."""

from __future__ import annotations

from rich.console import Console

__all__ = ["terminal"]


def terminal() -> Console:
    """Plain text, lines as long as they are; the terminal is asked for its size once, not at every line."""
    console = Console(highlight=False, soft_wrap=True)
    console.size = console.size
    return console
