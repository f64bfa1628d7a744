"""The backends: what of a run folder each one writes. ``compile`` writes for all that can express a plan."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.layout.plan import Plan
from meshwright.spec.identity import as_json

__all__ = ["FILES", "trainer"]


def _megatron(plan: Plan) -> dict[str, str]:
    from meshwright.emit.megatron import environment, flags
    from meshwright.emit.megatron_files import megatron_files, quoted
    from meshwright.emit.megatron_kwargs import kwargs

    return {
        "megatron/args.txt": "".join(f"{quoted(word)}\n" for word in flags(plan)),
        "megatron/kwargs.json": as_json(kwargs(plan)),
        "megatron/environment.json": as_json({name: one.value for name, one in environment(plan).items()}),
        **megatron_files(plan),
    }


def _deepspeed(plan: Plan) -> dict[str, str]:
    from meshwright.emit.deepspeed import config, program
    from meshwright.emit.huggingface import config as architecture

    return {
        "deepspeed/ds_config.json": as_json(config(plan)),
        "deepspeed/config.json": as_json(architecture(plan.spec.model)),
        "deepspeed/program.json": as_json(program(plan)),
    }


FILES: dict[str, Callable[[Plan], dict[str, str]]] = {"megatron": _megatron, "deepspeed": _deepspeed}
"""By name: file names in the run folder and their texts. ``verify`` judges them in ``meshwright.verify.NAME``."""


def trainer(backend: str) -> str:
    """The module that every rank of a run runs."""
    return f"meshwright.train.{backend}"
