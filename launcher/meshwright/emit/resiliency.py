"""``ft_launcher`` of NVIDIA's resiliency extension in torchrun's place (nvidia-resiliency-ext 0.6.0).

It takes torchrun's words but for the rendezvous, which is c10d's, and watches each rank by what Megatron tells it
(megatron-core 0.19.2, training/ft_integration.py). Ranks that fail or hang are started again within the job, and go on
from the last checkpoint; when ``restarts`` are used up it ends with code 1, as torchrun does, and the job is put back
into the queue as after any failure. A rank that is asked to stop ends with 0, because anything else is a failure to it.
"""

from __future__ import annotations

from meshwright.layout.plan import Plan

__all__ = ["MODULE", "launcher", "megatron_flags", "replaces_torchrun"]

MODULE = "nvidia_resiliency_ext.fault_tolerance.launcher"  # what the program ft_launcher runs


def replaces_torchrun(plan: Plan) -> bool:
    """Whether ranks are started by ``ft_launcher``."""
    return plan.spec.launch.resiliency.launcher == "ft_launcher"


def megatron_flags(plan: Plan) -> tuple[str, ...]:
    """What Megatron must be told besides its command line; how a run is launched is no part of that."""
    if not replaces_torchrun(plan):
        return ()
    learns = plan.spec.launch.resiliency.learn_timeouts
    return ("--enable-ft-package", *["--calc-ft-timeouts"] * learns)


def launcher(plan: Plan, first: str, where: str, run: str, processes: str) -> str:
    """``-m MODULE`` and its words, on several lines, for bash.

    ``where`` is the address and port at which nodes meet, ``first`` whether this is the node there (1 or 0), ``run`` a
    name that all nodes say; one node alone needs none of them.
    """
    asked = plan.spec.launch.resiliency
    meet = f'--rdzv-backend=c10d --rdzv-endpoint="{where}" --rdzv-conf="is_host={first}" --rdzv-id="{run}"'
    sections = {"setup": asked.setup_seconds, "step": asked.step_seconds, "checkpointing": asked.checkpointing_seconds}
    times = ",".join(f"{name}:{seconds:g}" for name, seconds in sections.items())
    lines = (
        f"-m {MODULE} --nnodes={plan.grid.nodes}",
        "--standalone" if plan.grid.nodes == 1 else meet,
        f'--nproc-per-node="{processes}" --max-restarts={asked.restarts}',
        f"--term-timeout={asked.checkpointing_seconds:.0f}",  # asked to end, a rank may save
        f"--ft-rank-section-timeouts={times} --ft-rank-out-of-section-timeout={asked.other_seconds:g}",
    )
    return " \\\n    ".join(lines)
