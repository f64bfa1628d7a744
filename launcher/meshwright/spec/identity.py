"""Which run a folder, a script or a job belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from meshwright.spec import Spec

__all__ = ["as_json", "identity", "plain"]


def identity(spec: Spec) -> str:
    """Eight hex digits of what is trained. How and with what it is launched may change from one start to the next."""
    trained = {name: value for name, value in asdict(spec).items() if name not in ("launch", "software")}
    return hashlib.sha256(as_json(trained).encode()).hexdigest()[:8]


def as_json(value: Any) -> str:
    """``value`` as it stands in the files of a run folder."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """Mappings and tuples as YAML and JSON know them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
