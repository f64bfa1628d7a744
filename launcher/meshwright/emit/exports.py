"""Programs that others launch: what of a run folder ``export`` writes for each one, in a folder of its name.

Beside the backends (emit/backends.py), since nothing here is compiled for every run, launched, rehearsed or costed.
"""

from __future__ import annotations

from collections.abc import Callable

from meshwright.layout.plan import Plan

__all__ = ["EXPORTS"]


def _accelerate_deepspeed(plan: Plan) -> dict[str, str]:
    from meshwright.emit.accelerate import with_deepspeed

    return with_deepspeed(plan)


def _accelerate_fsdp(plan: Plan) -> dict[str, str]:
    from meshwright.emit.accelerate import with_fsdp

    return with_fsdp(plan)


def _bridge(plan: Plan) -> dict[str, str]:
    from meshwright.emit.bridge import files

    return files(plan)


def _torchtitan(plan: Plan) -> dict[str, str]:
    from meshwright.emit.torchtitan import files

    return files(plan)


EXPORTS: dict[str, Callable[[Plan], dict[str, str]]] = {
    "accelerate_deepspeed": _accelerate_deepspeed,
    "accelerate_fsdp": _accelerate_fsdp,
    "bridge": _bridge,
    "torchtitan": _torchtitan,
}
"""By name: file names and their texts. ``verify`` judges them in ``meshwright.verify.NAME``."""
