"""Files of a run folder that a person or a full disk may have damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["json_object", "reading"]


def reading[T](problems: list[str], name: str, attempt: Callable[[], T]) -> T | None:
    """What ``attempt`` reads; None, with the file's name and what is wrong added to ``problems``, where it cannot."""
    try:
        return attempt()
    except KeyError as error:
        problems.append(f"{name}: lacks {error.args[0]}")
    except OSError as error:
        problems.append(f"{name}: {error.strerror or error}")
    except UnicodeDecodeError:
        problems.append(f"{name}: is no text")
    except json.JSONDecodeError as error:
        problems.append(f"{name}: is no JSON: {error}")
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        problems.append(f"{name}: {error}")
    return None


def json_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path``.

    Raises:
        ValueError: where it is none.
        OSError: where it cannot be read.

    """
    told: Any = json.loads(path.read_text())
    if not isinstance(told, Mapping):
        raise ValueError(f"holds {type(told).__name__}, not an object")
    return told
