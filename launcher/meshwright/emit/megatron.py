"""Plan -> Megatron-LM: the command line, the same as keyword arguments, and the environment it needs.

A flag is left out only where Megatron's default already equals the value. Where Megatron would silently change a value,
the effective one is emitted (an unset ETP means TP there; FSDP's sharding strategy changed its default).
Names and defaults: megatron-core 0.19.2, megatron/training/arguments.py and megatron/training/config/.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.emit._flags import flag, switch
from meshwright.emit.megatron_files import file_flags
from meshwright.emit.megatron_groups import group_flags
from meshwright.emit.megatron_hybrid import hybrid
from meshwright.emit.megatron_model import model_flags
from meshwright.emit.megatron_techniques import technique_flags, technique_variables
from meshwright.emit.megatron_training import training_flags
from meshwright.layout.plan import Plan
from meshwright.spec import EnvVariable, Parallelism
from meshwright.spec.backend import CheckpointFormat
from meshwright.spec.training import MATRIX_OPTIMIZERS

__all__ = ["checkpoint_format", "distributes", "environment", "flags", "shards", "uses_fsdp"]


def flags(plan: Plan) -> list[str]:
    """The whole command line after ``pretrain_gpt.py``."""
    return [
        *model_flags(plan),
        *_layout(plan),
        *_sharding(plan),
        *_recompute(plan.spec.parallelism),
        *training_flags(plan),
        *_checkpoints(plan),
        *group_flags(plan),
        *technique_flags(plan),
        *file_flags(plan),
        *plan.spec.backend.megatron.extra,
    ]


def environment(plan: Plan) -> dict[str, EnvVariable]:
    """Environment variables Megatron and its techniques want for this layout, with the reason for each."""
    return {**_queues(plan), **dict(technique_variables(plan))}


def _queues(plan: Plan) -> dict[str, EnvVariable]:
    """Hardware queues.

    One keeps communication and GEMM kernels in the order they were issued: asked for before Blackwell where TP or
    CP > 1 (arguments.py:1437), and forbidden with FSDP (arguments.py:1014).
    """
    name, why = "CUDA_DEVICE_MAX_CONNECTIONS", "Megatron refuses this layout without it"
    if uses_fsdp(plan):
        return {name: EnvVariable(value="8", why=why)}
    older = float(plan.spec.cluster.accelerator.capability) < 10
    if plan.spec.parallelism.overlap_ep:
        return {name: EnvVariable(value="32", why="streams of two micro-batches run side by side (arguments.py:1426)")}
    return {name: EnvVariable(value="1", why=why)} if (plan.grid.tp > 1 or plan.grid.cp > 1) and older else {}


def uses_fsdp(plan: Plan) -> bool:
    """ZeRO 2 and 3 are realised by FSDP."""
    return plan.spec.parallelism.zero >= 2


def shards(plan: Plan) -> bool:
    """Whether Megatron's distributed optimizer runs (also below Megatron-FSDP, not below torch's)."""
    zero, fsdp = plan.spec.parallelism.zero, plan.spec.backend.megatron.fsdp
    return zero == 1 or (zero >= 2 and fsdp == "megatron")


def distributes(plan: Plan) -> bool:
    """Whether it is the distributed optimizer that shards: optimizers of matrices take a layer-wise one instead.

    The flag is the same (training/arguments.py:1679).
    """
    return shards(plan) and plan.spec.training.optimizer.name not in MATRIX_OPTIMIZERS


def checkpoint_format(plan: Plan) -> CheckpointFormat:
    """As chosen, or the one that fits: Megatron-FSDP saves only fsdp_dtensor (arguments.py:1146)."""
    megatron = plan.spec.backend.megatron
    fitting: CheckpointFormat = "fsdp_dtensor" if uses_fsdp(plan) and megatron.fsdp == "megatron" else "torch_dist"
    return megatron.checkpoint_format or fitting


def _checkpoints(plan: Plan) -> Iterator[str]:
    options = plan.spec.backend.megatron
    yield from flag("--ckpt-format", checkpoint_format(plan), "torch_dist")
    yield from switch("--ckpt-fully-parallel-load", options.checkpoint_parallel_load)
    yield from switch("--dist-ckpt-optim-fully-reshardable", options.checkpoint_reshardable)


def _layout(plan: Plan) -> Iterator[str]:
    grid, p = plan.grid, plan.spec.parallelism
    yield from flag("--tensor-model-parallel-size", grid.tp, 1)
    yield from switch("--sequence-parallel", p.sp)
    yield from flag("--tensor-parallel-num-weight-shards", grid.tp * grid.gtp, grid.tp)
    yield from flag("--pipeline-model-parallel-size", grid.pp, 1)
    if not hybrid(plan):  # whose pattern says it
        yield from _pipeline(p)
    yield from flag("--microbatch-group-size-per-virtual-pipeline-stage", p.microbatch_group)
    yield from switch("--no-overlap-p2p-communication", p.vpp > 1 and not p.overlap_p2p)
    yield from flag("--context-parallel-size", grid.cp, 1)
    yield from flag("--cp-comm-type", p.cp_comm, "p2p")
    if p.cp_levels:
        yield from ("--hierarchical-context-parallel-sizes", *map(str, p.cp_levels))
    if plan.spec.model.moe:
        yield from flag("--expert-model-parallel-size", grid.ep, 1)
        yield from flag("--expert-tensor-parallel-size", grid.etp)
        yield from flag("--expert-tensor-parallel-num-weight-shards", grid.etp * grid.egtp, grid.etp)
    yield from switch("--use-tp-pp-dp-mapping", p.order == "tp-cp-ep-pp-dp")
    yield from switch("--tp-comm-overlap", p.overlap_tp)
    yield from switch("--overlap-moe-expert-parallel-comm", p.overlap_ep)


def _pipeline(p: Parallelism) -> Iterator[str]:
    division = p.pipeline_split
    yield from flag("--pipeline-model-parallel-layout", division.layout)
    if division.layout is None:  # which itself says how many chunks there are
        yield from flag("--num-virtual-stages-per-pipeline-rank", p.vpp, 1)
    yield from flag("--decoder-first-pipeline-num-layers", division.first)
    yield from flag("--decoder-last-pipeline-num-layers", division.last)
    yield from switch("--account-for-embedding-in-pipeline-split", division.embedding)
    yield from switch("--account-for-loss-in-pipeline-split", division.loss)


_STRATEGY = {2: "optim_grads", 3: "optim_grads_params"}


def _sharding(plan: Plan) -> Iterator[str]:
    p, megatron = plan.spec.parallelism, plan.spec.backend.megatron
    torch_fsdp = uses_fsdp(plan) and megatron.fsdp == "torch"
    yield from switch("--use-distributed-optimizer", shards(plan))
    yield from flag("--num-distributed-optimizer-instances", p.optimizer_instances, 1)
    yield from switch("--overlap-grad-reduce", p.overlap_grad_reduce and not torch_fsdp)
    yield from switch("--overlap-param-gather", p.overlap_param_gather and p.overlap_grad_reduce and shards(plan))
    if uses_fsdp(plan) and megatron.fsdp == "megatron":
        yield "--use-megatron-fsdp"
        yield from flag("--data-parallel-sharding-strategy", _STRATEGY[p.zero])
    if torch_fsdp:
        yield "--use-torch-fsdp2"
        yield from switch("--torch-fsdp2-no-reshard-after-forward", p.zero == 2)
    fusion = megatron.gradient_accumulation_fusion and not uses_fsdp(plan)
    yield from switch("--no-gradient-accumulation-fusion", not fusion)


def _recompute(p: Parallelism) -> Iterator[str]:
    if p.recompute == "none":
        return
    yield from flag("--recompute-granularity", p.recompute)
    yield from flag("--recompute-method", p.recompute_method)
    yield from flag("--recompute-num-layers", p.recompute_layers)
    if p.recompute_modules:
        yield from ("--recompute-modules", *p.recompute_modules)
