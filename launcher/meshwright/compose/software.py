"""``software=auto`` asks this machine; options that are null in the configuration take what the software allows."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from meshwright.rules.requirements import DEFAULTS
from meshwright.spec import Software
from meshwright.spec.decode import decode

__all__ = ["asked", "settled"]


def asked(described: Any) -> Any:
    """The group ``software`` with this machine's components where ``auto`` asks for them."""
    if not isinstance(described, Mapping) or described.get("auto") is not True:
        return described
    from meshwright.train.installed import installed

    found = {name: said for name, said in installed().items() if name not in ("cuda", "driver") or said}
    plain = {key: value for key, value in described.items() if key != "auto"}
    return {**plain, "components": found, "source": f"asked on {platform.node()}"}


def settled(backend: Any, described: Any) -> Any:
    """The group ``backend`` with every option that the software decides; what is set stays as it is."""
    if not isinstance(backend, Mapping):
        return backend
    software = decode(Software, described or {}, "software")
    result = dict(backend)
    for default in DEFAULTS:
        options = result.get(default.backend)
        if isinstance(options, Mapping) and options.get(default.option, "set") is None:
            result[default.backend] = {**options, default.option: default.value(software)}
    return result
