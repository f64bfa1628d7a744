"""How Megatron makes its process groups: as flags, and for ``initialize_model_parallel``.

Places: megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.emit._flags import flag, switch
from meshwright.layout.plan import Plan

__all__ = ["LINKS", "group_flags", "group_kwargs", "prioritised"]

LINKS = ("high_priority_stream_groups", "nccl_communicator_config_path", "use_sharp", "sharp_enabled_group")
"""Keyword arguments that say how links are used: a group without any takes none."""


def group_flags(plan: Plan) -> Iterator[str]:
    """Nothing of what Megatron does by itself."""
    groups = plan.spec.backend.megatron.groups
    if groups.high_priority:
        yield from ("--high-priority-stream-groups", *groups.high_priority)
    yield from flag("--nccl-communicator-config-path", groups.nccl_config)
    yield from switch("--use-sharp", groups.sharp != "none")
    yield from flag("--sharp-enabled-group", groups.sharp, "none")
    yield from flag("--distributed-timeout-minutes", groups.timeout_minutes, 10)


def group_kwargs(plan: Plan) -> dict[str, Any]:
    """The time stands here always: the function waits 30 minutes where the command line waits 10."""
    groups = plan.spec.backend.megatron.groups
    first = prioritised(plan)
    sharp = {"use_sharp": True, "sharp_enabled_group": groups.sharp} if groups.sharp != "none" else {}
    return {
        "distributed_timeout_minutes": groups.timeout_minutes,
        **({"high_priority_stream_groups": list(first)} if first else {}),
        **({"nccl_communicator_config_path": groups.nccl_config} if groups.nccl_config else {}),
        **sharp,
    }


def prioritised(plan: Plan) -> tuple[str, ...]:
    """Groups with streams of high priority: those asked for, then those that the command line adds by itself.

    Those of FSDP (torch's always, Megatron's on Blackwell) and of weights in parts there (training/arguments.py:1444,
    :1489).
    """
    p, grid = plan.spec.parallelism, plan.grid
    newer = float(plan.spec.cluster.accelerator.capability) >= 10
    sharded = p.zero >= 2 and (newer or plan.spec.backend.megatron.fsdp == "torch")
    parts = newer and grid.gtp * grid.egtp > 1
    added = {
        "dp_cp": sharded,
        "ep_dp": sharded and grid.ep > 1,
        "gtp_remat": parts,
        "expt_gtp_remat": parts and grid.egtp > 1,
    }
    asked = plan.spec.backend.megatron.groups.high_priority
    return tuple(dict.fromkeys((*asked, *(name for name, on in added.items() if on))))
