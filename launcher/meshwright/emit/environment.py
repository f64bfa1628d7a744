"""The environment of a run: what the cluster wants, what the backend insists on, what the user says; with reasons."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.emit import megatron
from meshwright.layout.plan import Plan
from meshwright.spec import EnvVariable, Spec

__all__ = ["variables"]


def variables(plan: Plan) -> dict[str, EnvVariable]:
    """Variables by name. The user's win over the backend's, the backend's over the cluster's."""
    return dict(sorted(_layers(plan)))


def _layers(plan: Plan) -> Iterator[tuple[str, EnvVariable]]:
    merged = dict(plan.spec.cluster.environment)
    merged |= {"OMP_NUM_THREADS": _threads(plan.spec)}
    if plan.spec.backend.name == "megatron":
        merged |= megatron.environment(plan)
    said = plan.spec.launch.environment
    merged |= {name: EnvVariable(value=value, why="launch.environment") for name, value in said.items()}
    yield from merged.items()


def _threads(spec: Spec) -> EnvVariable:
    """Of one rank. The CPU's Adam runs on as many (deepspeed/csrc/adam: omp parallel)."""
    cores = spec.cluster.cpus_per_node // spec.cluster.gpus_per_node
    offloaded = spec.backend.name == "deepspeed" and spec.backend.deepspeed.offload_optimizer.device != "none"
    if offloaded and cores > 1:
        return EnvVariable(value=str(cores), why="the offloaded optimizer steps on this rank's share of the cores")
    return EnvVariable(value="1", why="ranks share a node's cores; torchrun's own default")
