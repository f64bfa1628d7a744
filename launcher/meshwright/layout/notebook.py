"""What an object shows of itself in a session and in a notebook: a line, or a small table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]

Row = Sequence[str]


def html_table(title: str, rows: Iterable[Row], head: Row = ()) -> str:
    """A table in HTML with ``title`` above it; every text is escaped, the first of a row names it."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption>{f'<thead><tr>{heads}</tr></thead>' * bool(head)}{body}</table>"


def _cells(row: Row) -> str:
    name, *values = row
    return f"<th>{escape(name)}</th>" + "".join(f"<td>{escape(value)}</td>" for value in values)
