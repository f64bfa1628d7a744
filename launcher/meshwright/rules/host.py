"""What a node's host memory and NVMe disks must hold: processes, data workers, copies while saving, offloaded states.

Lower bounds, by the backends' own buffers. The page cache, which the kernel gives back, is not counted. Places:
DeepSpeed 0.19.8, below ``deepspeed/``; megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.model.count import routed_parameters, total_parameters
from meshwright.model.offload import MASTER, Kept, hybrid, kept, weight_bytes
from meshwright.model.optimizer_state import saved_bytes, state_bytes
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import DEEPSPEED, EVERY, Layout, Number, Rule

__all__ = [
    "RULES",
    "host_bytes",
    "nvme_bytes",
    "offload",
    "offloaded_bytes",
    "offloads",
    "owned",
    "process_bytes",
    "ranks_of_node",
    "save_bytes",
    "stages_whole",
    "worker_bytes",
]

_GIB = 2**30

_PROCESS = 0.6 * _GIB
"""A rank and the process that hands over its checkpoints' results, measured on a CPU: 0.49 and 0.12 GiB."""

_CUDA = 2.4 * _GIB
"""What a GPU adds to it. Inferred: 1.7 of a CUDA context with one tensor (pytorch/pytorch#113326); the rest, for NCCL,
cuBLAS and Transformer Engine, by judgement."""

_WORKER = 0.1 * _GIB
"""A worker that is forked from such a rank, with its share of what is common, measured on a CPU: 0.09 GiB. In weeks it
may copy all that the rank has, 0.47, as it counts references (pytorch/pytorch#13246)."""

_LOADERS = 2
"""Of training and of validation: Megatron starts the workers of both (training/training.py:4569)."""


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


def process_bytes(r: Layout) -> Number:
    """Of one node's ranks by themselves."""
    return ranks_of_node(r) * (_PROCESS + _CUDA * (r.cluster.accelerator.platform != "cpu"))


def worker_bytes(r: Layout) -> Number:
    """Of one node's data workers. Megatron's first tensor-parallel ranks have them, DeepSpeed's program has none."""
    if r.backend.name != "megatron":
        return 0 * r.tp
    readers = -(-ranks_of_node(r) // r.tp)
    return readers * _LOADERS * r.training.data.workers * _WORKER


def stages_whole(r: Layout) -> bool:
    """Whether a rank copies all that it saves to the host, pinned, before it writes (so does Megatron's torch_dist).

    core/dist_checkpointing/strategies/filesystem_async.py:227, whether or not training goes on meanwhile.
    """
    return r.backend.name == "megatron" and r.backend.megatron.checkpoint_format != "torch"


def save_bytes(r: Layout) -> Number:
    """Of one node's copies while a checkpoint is written; what its GPUs could not hold is not there to be copied.

    DeepSpeed copies one storage of its states after the other, and below stage 3 the first rank copies all weights
    (runtime/engine.py:5353, :5564). What Megatron's format torch gathers on some ranks is not counted.
    """
    t, ranks = r.training, ranks_of_node(r)
    if not t.logging.checkpoints:
        return 0 * r.tp
    if stages_whole(r):
        states = ranks * owned(r) * saved_bytes(t, r.backend.megatron.optimizer_moments)
        beyond = states - ranks * r.cluster.accelerator.memory_gib * _GIB
        return states - (beyond > 0) * beyond + _gathered_bytes(r)
    if r.backend.name == "megatron":
        return 0 * r.tp
    weights = weight_bytes(t) * total_parameters(r.model) * (r.zero < 3)
    return weights + ranks * MASTER * owned(r) * (r.backend.deepspeed.offload_optimizer.device == "none")


def _gathered_bytes(r: Layout) -> Number:
    """Of one node: each rank gathers masters and states of all its weights, in fp32, to save them for any layout.

    core/optimizer/distrib_optimizer.py:1315, on all ranks; were the stages even.
    """
    if not r.backend.megatron.checkpoint_reshardable:
        return 0 * r.tp
    routed = routed_parameters(r.model)
    whole = (total_parameters(r.model) - routed) / (r.tp * r.gtp) + routed / (r.etp * r.ep * r.egtp)
    return ranks_of_node(r) * whole / r.pp * (4 + state_bytes(r.training.optimizer.name))


def offloaded_bytes(r: Layout) -> Number:
    """Of one node's memory, by what leaves its GPUs; activations apart."""
    if not offloads(r):
        return 0 * r.tp
    states = offload(r)
    return ranks_of_node(r) * (states.host * owned(r) + states.buffers)


def host_bytes(r: Layout) -> Number:
    """Of one node's memory in all; activations apart."""
    return process_bytes(r) + worker_bytes(r) + save_bytes(r) + offloaded_bytes(r)


def nvme_bytes(r: Layout) -> Number:
    """Of one node's disks."""
    return ranks_of_node(r) * offload(r).nvme * owned(r)


def _fits(r: Layout) -> Number:
    limit = r.cluster.host_memory_gib
    return (limit == 0) or (host_bytes(r) <= limit * _GIB)


def _fits_on_disk(r: Layout) -> Number:
    limit = r.cluster.nvme_gib
    return (not offloads(r)) or (limit is None) or (nvme_bytes(r) <= limit * _GIB)


def _too_much(r: Layout) -> str:
    parts = {
        "of offloaded states": offloaded_bytes(r),
        "of ranks": process_bytes(r),
        "of data workers": worker_bytes(r),
        "of copies while saving": save_bytes(r),
    }
    limit = f"{r.cluster.host_memory_gib:,.0f}"
    said = ", ".join(f"{size / _GIB:,.0f} {name}" for name, size in parts.items() if size >= _GIB)
    return f"a node's memory must hold {host_bytes(r) / _GIB:,.0f} GiB ({said}), and {r.cluster.name} has {limit}"


def _too_much_on_disk(r: Layout) -> str:
    return (
        f"offloaded states take {nvme_bytes(r) / _GIB:,.0f} GiB of a node's NVMe, "
        f"and {r.cluster.name} has {r.cluster.nvme_gib:,.0f}"
    )


def _more_nodes(r: Layout) -> Iterable[Repair]:
    """The world doubled until its nodes hold the states."""
    return ({"cluster.gpus": r.world * more, "cluster.nodes": None} for more in (2, 4, 8, 16, 32, 64))


_STAY = change(backend__deepspeed__offload_param__device="none", backend__deepspeed__offload_param__nvme_path=None)
_NO_WORKERS = change(training__data__workers=0)
_BOUND = change(backend__megatron__checkpoint_reshardable=False)
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
        "core/optimizer/cpu_offloading/hybrid_optimizer.py; core/dist_checkpointing/strategies/filesystem_async.py:227",
        repairs=any_of(_STAY, _OPTIMIZER_STAYS, _HYBRID_STAYS, _BOUND, _NO_WORKERS, _more_nodes),
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
