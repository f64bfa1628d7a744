"""What a backend's own code said as it refused."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

__all__ = ["said"]


def said(error: Exception) -> str:
    """Its own words, one line, with their place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f"{f.filename.split('site-packages/')[-1]}:{f.lineno}" for f in reversed(frames)), "")
    return "; ".join(_lines(error)) + f" ({place})"


def _lines(error: Exception) -> Iterator[str]:
    listed = getattr(error, "errors", None)
    if not callable(listed):
        yield f"{type(error).__name__}: {' '.join(str(error).split())}"
        return
    for item in listed():  # pydantic's
        yield f"{getattr(error, 'title', '')}.{'.'.join(map(str, item['loc']))}: {item['msg']}"
