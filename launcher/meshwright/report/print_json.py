"""JSON for programs, on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["print_json"]


def print_json(document: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    print()
