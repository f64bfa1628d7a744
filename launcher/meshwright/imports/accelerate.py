"""accelerate's YAML -> values of ours (accelerate 1.15 commands/config, utils/dataclasses.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.found import Remark, Source
from meshwright.imports.keyed import Row, carried, fates
from meshwright.imports.trainer_values import SHARDING, asks, recompute, reshards, switch

__all__ = ["ACCELERATE", "of_accelerate"]

_DS, _FSDP, _LM, _ND = "deepspeed_config.", "fsdp_config.", "megatron_lm_config.megatron_lm_", "parallelism_config."

ACCELERATE: Mapping[str, Row] = {
    "num_processes": Row("cluster.gpus", int),
    "mixed_precision": Row(
        "training.precision", {"no": "fp32", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8_delayed"}.__getitem__
    ),
    f"{_DS}zero_stage": Row("parallelism.zero", int),
    f"{_DS}gradient_accumulation_steps": Row("training.microbatches", int),
    f"{_DS}gradient_clipping": Row("training.optimizer.clip", float),
    f"{_DS}offload_optimizer_device": Row("backend.deepspeed.offload_optimizer.device", str),
    f"{_DS}offload_param_device": Row("backend.deepspeed.offload_param.device", str),
    f"{_DS}offload_optimizer_nvme_path": Row("backend.deepspeed.offload_optimizer.nvme_path", str),
    f"{_FSDP}fsdp_sharding_strategy": Row("parallelism.zero", lambda word: SHARDING[str(word)]),
    f"{_FSDP}fsdp_reshard_after_forward": Row("parallelism.zero", reshards),
    f"{_FSDP}fsdp_activation_checkpointing": Row("parallelism.recompute", recompute),
    f"{_FSDP}fsdp_offload_params": Row(
        "backend.deepspeed.offload_param.device", lambda on: "cpu" if switch(on) else "none"
    ),
    f"{_LM}tp_degree": Row("parallelism.tp", int),
    f"{_LM}pp_degree": Row("parallelism.pp", int),
    f"{_LM}num_micro_batches": Row("training.microbatches", int),
    f"{_LM}gradient_clipping": Row("training.optimizer.clip", float),
    f"{_LM}recompute_activations": Row("parallelism.recompute", lambda on: "selective" if switch(on) else "none"),
    f"{_LM}sequence_parallelism": Row("parallelism.sp", switch),
    f"{_LM}use_distributed_optimizer": Row("parallelism.zero", lambda on: int(switch(on))),
    f"{_ND}parallelism_config_tp_size": Row("parallelism.tp", int),
    f"{_ND}parallelism_config_cp_size": Row("parallelism.cp", int),
    f"{_ND}parallelism_config_dp_replicate_size": Row("parallelism.optimizer_instances", int),
    f"{_ND}parallelism_config_dp_shard_size": Row("parallelism.zero", lambda count: 3 if int(count) > 1 else 0),
}
_HOW = "it says how accelerate starts or finds its processes; launch.sh and job.sbatch do that"
_ACCELERATE_LOST = {
    **dict.fromkeys(
        (
            *("compute_environment", "machine_rank", "main_process_ip", "main_process_port", "main_training_function"),
            *("rdzv_backend", "same_network", "gpu_ids", "debug", "use_cpu", "tpu_env", "tpu_use_cluster"),
            *("tpu_use_sudo", "enable_cpu_affinity", "num_machines", "distributed_type", "downcast_bf16"),
        ),
        _HOW,
    ),
    "deepspeed_config.deepspeed_config_file": "a further file: give it, too",
    "deepspeed_config": "how accelerate starts DeepSpeed, or loads weights",
    "fsdp_config": "how accelerate wraps, saves or loads; DeepSpeed needs no such word",
    "megatron_lm_config": "no value of ours",
    "dynamo_config": "torch.compile is not described here",
    "fp8_config": "which library computes in 8 bits, and how; DeepSpeed has no 8-bit training",
    **dict.fromkeys(("tpu_name", "tpu_zone", "commands", "command_file", "mpirun_config", "fp16"), _HOW),
    "tp_config": "parallelism.tp says it",
}


def of_accelerate(leaves: Leaves) -> Source:
    """The file that ``accelerate config`` writes."""
    kind = str(leaves["distributed_type"].value) if "distributed_type" in leaves else "MULTI_GPU"
    backend = "megatron" if kind == "MEGATRON_LM" else "deepspeed"
    values: dict[str, Any] = {"backend.name": backend}
    if f"{_DS}deepspeed_config_file" not in leaves:  # which says these
        values |= {"training.precision": "fp32", "training.grad_reduce": "fp32"}
        values |= {"parallelism.zero": 3 if kind == "FSDP" else 0}
    values |= {**carried(leaves, ACCELERATE), **_nodes(leaves)}
    return Source(
        kind="accelerate configuration",
        values=values,
        found=tuple(fates(leaves, ACCELERATE, _ACCELERATE_LOST, lambda _: "", "accelerate")),
        asks=tuple(asks("accelerate's file says")),
        remarks=tuple(_remarks(leaves, kind)),
    )


def _nodes(leaves: Leaves) -> dict[str, Any]:
    """Processes are all of them, over all machines."""
    counts = [leaves[name].value for name in ("num_processes", "num_machines") if name in leaves]
    whole = len(counts) == 2 and all(isinstance(count, int) and count > 0 for count in counts)
    return {"cluster.gpus_per_node": counts[0] // counts[1]} if whole and counts[1] > 1 else {}


def _remarks(leaves: Leaves, kind: str) -> Iterator[Remark]:
    if kind == "FSDP":
        message = "FSDP is read as the ZeRO stage of DeepSpeed that shards the same states"
        yield Remark("warning", "import.fsdp", message, leaves["distributed_type"].place)
    degrees = {name.rpartition("config_")[2]: one for name, one in leaves.items() if name.startswith(_ND)}
    product, world = 1, leaves.get("num_processes")
    for one in degrees.values():
        product *= one.value if isinstance(one.value, int) and one.value > 0 else 1
    if degrees and world is not None and isinstance(world.value, int) and product != world.value:
        message = f"the sizes of parallelism_config multiply to {product}, num_processes is {world.value}"
        yield Remark("error", "accelerate.world", message, world.place)
