"""Cells of a measured row as what they mean; a cell that means nothing is a ValueError that says so."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

__all__ = ["count", "flag", "number", "refuse_misshapen", "said"]

_TRUE, _FALSE = ("true", "1", "1.0", "yes", "on"), ("false", "0", "0.0", "no", "off")
_LARGEST = 10**9  # of a count: beyond it, products of counts leave 64 bits


def said(record: Mapping[str, str], column: str) -> str:
    """The cell without the space around it; empty where there is none."""
    return (record.get(column) or "").strip()


def number(record: Mapping[str, str], column: str) -> float | None:
    """A positive number, or None where the cell is empty."""
    cell = said(record, column)
    if not cell:
        return None
    value = _float(cell, column)
    if value <= 0:
        raise ValueError(f"{column} = {cell} is not positive; leave it empty where it was not measured")
    return value


def count(record: Mapping[str, str], column: str, default: int = 1, least: int = 1) -> int:
    """A whole number, ``16`` or ``16.0``; ``default`` where the cell is empty."""
    cell = said(record, column)
    value = _float(cell, column) if cell else default
    if value != int(value):
        raise ValueError(f"{column} = {cell} is no whole number")
    if not least <= value <= _LARGEST:
        raise ValueError(f"{column} = {cell} is not within {least} and {_LARGEST:,}")
    return int(value)


def flag(record: Mapping[str, str], column: str) -> bool | None:
    """True or false as YAML, Python and spreadsheets write them; None where the cell is empty."""
    cell = said(record, column).lower()
    if cell and cell not in _TRUE + _FALSE:
        raise ValueError(f"{column} = {cell} is neither true nor false")
    return cell in _TRUE if cell else None


def refuse_misshapen(record: Mapping[str, str]) -> None:
    """A line with fewer or more cells than the header has its values in the wrong columns.

    Raises:
        ValueError: where it is such a line.

    """
    absent = sum(cell is None for cell in record.values())
    if absent:
        raise ValueError(f"the line ends early: {absent} of {len(record)} columns have no cell")
    if None in set(record):
        raise ValueError("the line has more cells than the header has columns")


def _float(cell: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"{column} = {cell} is no number")
    return value
