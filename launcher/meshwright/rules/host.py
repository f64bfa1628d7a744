"""What a node's host memory and NVMe disks must hold of offloaded states: lower bounds, by the backends' own buffers.

Places: DeepSpeed 0.19.8, below ``deepspeed/``; megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.model.count import total_parameters
from meshwright.model.offload import Kept, hybrid, kept
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import DEEPSPEED, EVERY, Layout, Number, Rule

__all__ = ["RULES", "host_bytes", "nvme_bytes", "offload", "offloads", "owned", "ranks_of_node"]

_GIB = 2**30


def offloads(r: Layout) -> bool:
    """Whether parameters or the optimizer's states leave the GPU."""
    if r.backend.name == "megatron":
        return r.backend.megatron.optimizer_offload.fraction > 0
    o = r.backend.deepspeed
    return o.offload_optimizer.device != "none" or o.offload_param.device != "none"


def owned(r: Layout) -> Number:
    """Parameters in one rank's shard of ZeRO, were the stages even."""
    return total_parameters(r.model) / r.world


def offload(r: Layout) -> Kept:
    """Bytes of one owned parameter, by place."""
    if r.backend.name == "megatron":
        return hybrid(r.backend.megatron.optimizer_offload.fraction, r.training)
    return kept(r.backend.deepspeed, r.training, r.zero, r.microbatches, owned(r))


def ranks_of_node(r: Layout) -> Number:
    """GPUs of the fullest node."""
    fewer = r.world < r.cluster.gpus_per_node
    return fewer * r.world + (1 - fewer) * r.cluster.gpus_per_node


def host_bytes(r: Layout) -> Number:
    """Of one node's memory."""
    states = offload(r)
    return ranks_of_node(r) * (states.host * owned(r) + states.buffers)


def nvme_bytes(r: Layout) -> Number:
    """Of one node's disks."""
    return ranks_of_node(r) * offload(r).nvme * owned(r)


def _fits(r: Layout) -> Number:
    limit = r.cluster.host_memory_gib
    return (not offloads(r)) or (limit == 0) or (host_bytes(r) <= limit * _GIB)


def _fits_on_disk(r: Layout) -> Number:
    limit = r.cluster.nvme_gib
    return (not offloads(r)) or (limit is None) or (nvme_bytes(r) <= limit * _GIB)


def _too_much(r: Layout) -> str:
    return (
        f"offloaded states take {host_bytes(r) / _GIB:,.0f} GiB of a node's memory, "
        f"and {r.cluster.name} has {r.cluster.host_memory_gib:,.0f}"
    )


def _too_much_on_disk(r: Layout) -> str:
    return (
        f"offloaded states take {nvme_bytes(r) / _GIB:,.0f} GiB of a node's NVMe, "
        f"and {r.cluster.name} has {r.cluster.nvme_gib:,.0f}"
    )


def _more_nodes(r: Layout) -> Iterable[Repair]:
    """The world doubled until its nodes hold the states."""
    return ({"cluster.gpus": r.world * more, "cluster.nodes": None} for more in (2, 4, 8, 16, 32, 64))


_STAY = change(backend__deepspeed__offload_param__device="none", backend__deepspeed__offload_param__nvme_path=None)
_HYBRID_STAYS = change(
    backend__megatron__optimizer_offload__fraction=0.0, backend__megatron__optimizer_offload__overlap=False
)
_OPTIMIZER_STAYS = change(
    backend__deepspeed__offload_optimizer__device="none",
    backend__deepspeed__offload_optimizer__nvme_path=None,
    backend__deepspeed__offload_optimizer__ratio=1.0,
)

RULES: tuple[Rule, ...] = (
    Rule(
        id="host.memory",
        path="cluster.host_memory_gib",
        backends=EVERY,
        needs=("deepspeed.offload_optimizer", "deepspeed.offload_param", "megatron.host_optimizer"),
        holds=_fits,
        message=_too_much,
        source="runtime/zero/stage3.py:791, :1157, :1338; runtime/zero/stage_1_and_2.py:560-573: buffers on the CPU; "
        "core/optimizer/cpu_offloading/hybrid_optimizer.py",
        repairs=any_of(_STAY, _OPTIMIZER_STAYS, _HYBRID_STAYS, _more_nodes),
    ),
    Rule(
        id="host.nvme",
        path="cluster.nvme_gib",
        backends=DEEPSPEED,
        needs=("deepspeed.nvme", "deepspeed.offload_param"),
        holds=_fits_on_disk,
        message=_too_much_on_disk,
        source="runtime/swap_tensor/optimizer_utils.py:171: a file a state",
        repairs=any_of(_STAY, _OPTIMIZER_STAYS, _more_nodes),
    ),
)
