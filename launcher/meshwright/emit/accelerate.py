"""Plan -> accelerate's launch file with the Trainer's arguments, under DeepSpeed or under PyTorch's FSDP2 and DDP.

DeepSpeed's JSON says the precision, else the launch file does; the Trainer is told in its arguments.
Names and defaults: accelerate 1.15, commands/config/config_args.py, commands/launch.py.
"""

from __future__ import annotations

from typing import Any

import yaml

from meshwright.emit import deepspeed, trainer
from meshwright.emit.huggingface import config as architecture
from meshwright.layout.plan import Plan
from meshwright.spec.identity import as_json

__all__ = ["ds_config", "fsdp_launch", "with_deepspeed", "with_fsdp"]

Values = dict[str, Any]


def with_deepspeed(plan: Plan) -> dict[str, str]:
    """Files for ``accelerate launch --config_file accelerate.yaml script.py training_arguments.json``."""
    launch = {
        **_machines(plan),
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": "ds_config.json",
            "deepspeed_multinode_launcher": "standard",
            "zero3_init_flag": plan.spec.parallelism.zero == 3,
        },
    }
    settings = as_json(ds_config(plan))
    return {**_files(plan, launch, {"deepspeed": "ds_config.json", **_checkpointing(plan)}), "ds_config.json": settings}


def with_fsdp(plan: Plan) -> dict[str, str]:
    """The same with PyTorch's own: FSDP2 from ZeRO 2 on, else DDP."""
    own = {} if plan.spec.parallelism.zero >= 2 else _checkpointing(plan)
    return _files(plan, fsdp_launch(plan), own)


def ds_config(plan: Plan) -> Values:
    """DeepSpeed's JSON without its optimizer: the Trainer makes one that spares norms and biases from decay.

    An offloaded optimizer has to be DeepSpeed's own. ``zero_allow_untested_optimizer`` lets ZeRO shard PyTorch's.
    """
    settings = deepspeed.config(plan)
    if plan.spec.backend.deepspeed.offload_optimizer.device == "none":
        settings = {name: value for name, value in settings.items() if name != "optimizer"}
        return {**settings, "zero_allow_untested_optimizer": True}
    return settings


def fsdp_launch(plan: Plan) -> Values:
    """The launch file; a degree of context parallelism is a ParallelismConfig beside FSDP's."""
    precision = {"fp32": "no"}.get(plan.spec.training.precision, plan.spec.training.precision)
    common = {**_machines(plan), "mixed_precision": precision}
    if plan.spec.parallelism.zero == 0:
        return {**common, "distributed_type": "MULTI_GPU" if plan.grid.world > 1 else "NO"}
    context = {"parallelism_config": _degrees(plan)} if plan.grid.cp > 1 else {}
    return {**common, "distributed_type": "FSDP", "fsdp_config": _fsdp(plan), **context}


def _files(plan: Plan, launch: Values, own: Values) -> dict[str, str]:
    return {
        "accelerate.yaml": yaml.safe_dump(launch, sort_keys=False),
        "training_arguments.json": as_json({**trainer.arguments(plan), **own}),
        "script_arguments.json": as_json(trainer.script_arguments(plan)),
        "environment.json": as_json(trainer.environment(plan)),
        "config.json": as_json(architecture(plan.spec.model)),
    }


def _machines(plan: Plan) -> Values:
    """On the first node; on each other one ``accelerate launch --machine_rank N`` says which it is."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "num_machines": plan.grid.nodes,
        "num_processes": plan.grid.world,
        "machine_rank": 0,
        "rdzv_backend": "static",
        "same_network": True,
        "main_training_function": "main",
        "use_cpu": False,
        **({"main_process_port": plan.spec.launch.port} if plan.spec.launch.port else {}),
    }


def _fsdp(plan: Plan) -> Values:
    return {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": plan.spec.parallelism.zero == 3,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_activation_checkpointing": plan.spec.parallelism.recompute == "full",
        "fsdp_offload_params": False,
        "fsdp_cpu_ram_efficient_loading": False,
    }


def _degrees(plan: Plan) -> Values:
    return {
        "parallelism_config_dp_replicate_size": 1,
        "parallelism_config_dp_shard_size": plan.grid.dp,
        "parallelism_config_tp_size": 1,
        "parallelism_config_cp_size": plan.grid.cp,
    }


def _checkpointing(plan: Plan) -> Values:
    if plan.spec.parallelism.recompute == "none":
        return {}
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
