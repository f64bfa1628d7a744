"""A config.json that no Model can say: transformers builds it in a process of its own, once, and its modules are read.

What was found is kept in the user's cache folder, by a hash of the file and of who built it: plans load neither torch
nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.model.huggingface import UnsayableError, name_of
from meshwright.model.transformers_names import names

__all__ = ["looked_at"]

FORMAT = 1
"""Of what is kept; a change to what is found asks for a new number."""

WORKER = "meshwright.verify.modules"
PATIENCE = 900  # seconds


def looked_at(found: UnsayableError, trusted: bool) -> dict[str, Any]:
    """The ``model`` mapping of a file that was ``found`` to be beyond a Model.

    Raises:
        ConfigError: where transformers cannot build it, or its code is remote and not ``trusted``.

    """
    config = dict(found.config)
    remote = _remote(found, trusted)
    text = json.dumps(config, sort_keys=True)
    numbers = _kept(text, remote) or _built(found, text, remote)
    measured = {**numbers["measured"], "config": text, "lacks": found.lacks, "remote": remote}
    return {
        **{"name": name_of(config, found.file), "transformers": str(config["model_type"])},
        **{"activation": "swiglu", "norm": "rmsnorm", "positions": "rope"},  # the layers' own numbers stand for these
        **numbers,
        "measured": measured,
    }


def _remote(found: UnsayableError, trusted: bool) -> str | None:
    """The folder whose code is to be run; None for transformers' own."""
    if names(found.config.get("model_type")):
        return None
    if not trusted:
        message = f"{found.lacks}; its own code runs only with model.trust_remote_code=true"
        raise ConfigError([Problem("model.trust_remote_code", message, "huggingface.remote")])
    return str(found.file.parent.resolve())


def _kept(text: str, remote: str | None) -> dict[str, Any] | None:
    try:
        kept: dict[str, Any] = json.loads(_place(text, remote).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return kept


def _place(text: str, remote: str | None) -> Path:
    """The file that keeps what was found."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    code = "".join(file.read_text("utf-8") for file in sorted(Path(remote).glob("*.py"))) if remote else ""
    asked = json.dumps([FORMAT, _version("transformers"), _version("torch"), text, remote, code])
    return cache / "meshwright" / "modules" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        message = f"it has to be built once to be looked at, and {package} is not here; install meshwright[deepspeed]"
        raise ConfigError([Problem("model.path", message, "huggingface.build")]) from None


def _built(found: UnsayableError, text: str, remote: str | None) -> dict[str, Any]:
    """Ask a process of its own, and keep the answer where that can be written."""
    request = json.dumps({"config": json.loads(text), "remote": remote})
    words = [sys.executable, "-m", WORKER]
    try:
        done = subprocess.run(words, input=request, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise _refused(found, f"building it took more than {PATIENCE} s") from None
    if done.returncode:
        raise _refused(found, (done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    numbers: dict[str, Any] = json.loads(done.stdout)
    _keep(_place(text, remote), numbers)
    return numbers


def _keep(place: Path, numbers: Mapping[str, Any]) -> None:
    """Whole or not at all: two processes may look at the same model."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(numbers), "utf-8")
        unfinished.replace(place)
    except OSError:
        return  # it is looked at again next time


def _refused(found: UnsayableError, why: str) -> ConfigError:
    cannot = f"{found.file}: transformers cannot build it: {why}"
    return ConfigError([*found.problems, Problem("model.path", cannot, "huggingface.build")])
