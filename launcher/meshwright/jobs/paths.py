"""Paths of a run, made absolute, because a job works in its run folder; and looked for before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from meshwright.errors import Problem
from meshwright.layout.plan import Plan
from meshwright.spec import Backend, Data, Launch, Logging, Spec
from meshwright.train.stages import SAVED

__all__ = ["absent", "absolute"]


def absolute(spec: Spec) -> Spec:
    """``spec`` with every relative path of the user's as seen from here."""
    training = spec.training
    training = replace(training, data=_data(training.data), logging=_logging(training.logging))
    return replace(spec, training=training, launch=_launch(spec.launch), backend=_backend(spec.backend))


def _backend(backend: Backend) -> Backend:
    """Where DeepSpeed writes what it offloads to a disk."""
    o = backend.deepspeed
    optimizer = replace(o.offload_optimizer, nvme_path=_here(o.offload_optimizer.nvme_path))
    param = replace(o.offload_param, nvme_path=_here(o.offload_param.nvme_path))
    return replace(backend, deepspeed=replace(o, offload_optimizer=optimizer, offload_param=param))


def _data(data: Data) -> Data:
    paths = tuple(str(Path(path).absolute()) for path in data.paths)
    tokenizer = replace(data.tokenizer, path=_here(data.tokenizer.path))
    return replace(data, paths=paths, cache=_here(data.cache), tokenizer=tokenizer)


def _logging(logging: Logging) -> Logging:
    return replace(logging, save=_here(logging.save), load=_here(logging.load), tensorboard=_here(logging.tensorboard))


def _launch(launch: Launch) -> Launch:
    """In a container, its programs have paths of its own."""
    slurm = replace(launch.slurm, workdir=_here(launch.slurm.workdir))
    image = slurm.image
    if image is not None and Path(image).is_file():
        slurm = replace(slurm, image=_here(image))
    if slurm.container != "none":
        return replace(launch, slurm=slurm)
    python = launch.python if "/" not in launch.python else str(Path(launch.python).absolute())
    ours = launch.entry == "meshwright" or launch.entry.startswith("-")  # which is refused
    entry = launch.entry if ours else str(Path(launch.entry).absolute())
    return replace(launch, slurm=slurm, python=python, entry=entry)


def _here(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def absent(plan: Plan) -> Iterator[Problem]:
    """Programs and checkpoints that a launch names and that are not there: without them weights would be random."""
    launch, load = plan.spec.launch, plan.spec.training.logging.load
    inside = launch.kind == "slurm" and launch.slurm.container != "none"  # whose programs have paths of their own
    for name, what in (("python", "the Python that runs the nodes' program"), ("entry", "Megatron-LM's program")):
        path = getattr(launch, name)
        if "/" in path and not inside and not os.access(path, os.R_OK):
            yield Problem(f"launch.{name}", f"{path} does not exist; give the path of {what}", "launch.absent")
    if load is not None and not any((Path(load) / name).is_file() for name in SAVED):
        message = f"no whole checkpoint lies in {load}; give the folder that holds {' or '.join(SAVED)}"
        yield Problem("training.logging.load", message, "launch.absent")
