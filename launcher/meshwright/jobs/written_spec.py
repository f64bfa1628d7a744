"""The Spec that a run folder was compiled from."""

from __future__ import annotations

from pathlib import Path

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.spec import Spec
from meshwright.spec.decode import decode

__all__ = ["read_spec"]


def read_spec(folder: Path, said: str = "") -> Spec:
    """What config.yaml in ``folder`` says; ``said`` is the key that named the folder.

    Raises:
        ConfigError: where ``folder`` is none of ours.

    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError([Problem(said, f"{folder} is no run folder: no config.yaml in it", "run_folder")])
    try:
        return decode(Spec, yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ConfigError([Problem(said, f"cannot read {path}: {why}; compile the run again", "run_folder")]) from None
