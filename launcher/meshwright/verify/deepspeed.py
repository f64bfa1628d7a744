"""*Parsed* and *read back*: DeepSpeed's own DeepSpeedConfig at the plan's true world size; what it never read is wrong.

Then *built* (``deepspeed_build``) and *counted* (``transformers``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from unittest import mock

from meshwright.emit.deepspeed import config
from meshwright.layout.plan import Plan
from meshwright.verify.recorder import Recorder
from meshwright.verify.said import said
from meshwright.verify.verdict import Check

__all__ = ["CHECKS", "check", "expected", "parse", "parsed", "versions", "warm"]

CHECKS = ("parsed", "built", "counted")

FREE = ("optimizer.params.", "data_efficiency.", "datastates_ckpt.", "tensor_parallel.partition_config.")
"""Sections whose keys are read later: by the optimizer's constructor, by the engine."""


def warm() -> None:
    """Import what the checks need, once, before forking."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import logging

    logging.disable(logging.WARNING)
    import deepspeed.runtime.config
    import deepspeed.runtime.engine
    import deepspeed.runtime.sequence_parallel.ulysses_sp

    from meshwright.verify import transformers

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at every start otherwise
    transformers.warm()


def versions() -> dict[str, str]:
    """Of what judges."""
    import deepspeed
    import torch
    import transformers

    return {
        "deepspeed": str(deepspeed.__version__),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }


def check(item: tuple[str, Plan]) -> Check:
    """One check of one plan. Run it in a fork."""
    from meshwright.verify.deepspeed_build import built
    from meshwright.verify.transformers import counted

    name, plan = item
    return {"parsed": parsed, "built": built, "counted": counted}[name](plan)


def parsed(plan: Plan, settings: Mapping[str, Any] | None = None) -> Check:
    """Parse ``settings`` (default: what we emit) as DeepSpeed does, and read everything back."""
    settings = config(plan) if settings is None else settings
    try:
        found, unread = parse(settings, plan.grid.world)
    except Exception as error:
        return Check("parsed", False, said(error))
    wanted = expected(plan)
    wrong = [f"DeepSpeed never reads {path}" for path in unread]
    wrong += [
        f"{name}: {found[name]!r}, the plan has {value!r}" for name, value in wanted.items() if found[name] != value
    ]
    return Check("parsed", not wrong, "; ".join(wrong) or f"every key read, {len(wanted)} values read back")


def parse(settings: Mapping[str, Any], world: int) -> tuple[dict[str, Any], list[str]]:
    """(what DeepSpeed understood, keys it never looked at) on ``world`` ranks."""
    from deepspeed import comm
    from deepspeed.runtime.config import DeepSpeedConfig

    recorder = Recorder(settings)
    with (
        mock.patch.object(comm, "get_rank", return_value=0),
        mock.patch.object(comm, "get_world_size", return_value=world),
    ):
        understood = DeepSpeedConfig(recorder)
    unread = [path for path in recorder.unread() if not path.startswith(FREE)]
    return _understood(understood, world), unread


def expected(plan: Plan) -> dict[str, Any]:
    """What DeepSpeed must have understood, by the names of ``_understood``."""
    training, options, stage = plan.spec.training, plan.spec.backend.deepspeed, plan.spec.parallelism.zero
    o, zenflow = training.optimizer, options.zenflow
    sgd = o.name == "sgd"
    return {
        "stage": stage,
        "micro_batch": plan.batch.micro_batch,
        "accumulation": plan.batch.microbatches,
        "global_batch": plan.batch.global_batch,
        "tp": plan.grid.tp,
        "cp": plan.grid.cp,
        "ep": plan.grid.ep,
        "precision": training.precision,
        "grad_reduce": "fp32" if training.precision == "fp32" else training.grad_reduce,
        "clip": o.clip,
        "optimizer": "SGD" if sgd else o.name,
        "momentum": o.momentum if sgd or o.name == "muon" else None,
        "lr": o.lr,
        "weight_decay": o.weight_decay,
        "betas": None if sgd else [o.beta1, o.beta2],
        "offload_optimizer": options.offload_optimizer.device,
        "offload_param": options.offload_param.device,
        "hpz": options.hpz,
        "reduce_bucket": options.reduce_bucket if stage else None,
        "overlap": plan.spec.parallelism.overlap_grad_reduce if stage else None,
        "super_offload": options.super_offload,
        "zenflow": zenflow.topk and (zenflow.topk, zenflow.update_interval, zenflow.overlap),
        "compiled": options.deep_compile.enabled,
        "dispatcher": options.moe_dispatcher,
        "autocast": options.autocast,
        "vocabulary": options.autotp.vocabulary,
        "overlap_tp": options.autotp.overlap,
        "writer": options.checkpoint.writer,
        "async_save": training.logging.async_save,
        "node_local": options.checkpoint.node_local,
        "universal": options.checkpoint.load_universal,
    }


def _understood(c: Any, world: int) -> dict[str, Any]:
    tp = max(1, c.tensor_parallel_config.autotp_size)
    zero, params = c.zero_config, c.optimizer_params or {}
    data_parallel = c.train_batch_size // (c.train_micro_batch_size_per_gpu * c.gradient_accumulation_steps)
    return {
        "stage": int(c.zero_optimization_stage),
        "micro_batch": c.train_micro_batch_size_per_gpu,
        "accumulation": c.gradient_accumulation_steps,
        "global_batch": c.train_batch_size / tp,  # AutoTP's ranks are counted as data parallel
        "tp": tp,
        "cp": int(world // data_parallel),
        "ep": c.expert_parallel_config.autoep_size if c.expert_parallel_config.enabled else 1,
        "precision": _precision(c),
        "grad_reduce": c.grad_accum_dtype or "fp32",
        "clip": c.gradient_clipping,
        "optimizer": c.optimizer_name,
        "lr": params.get("lr"),
        "momentum": params.get("momentum"),
        "weight_decay": params.get("weight_decay"),
        "betas": params.get("betas"),
        "offload_optimizer": _device(zero.offload_optimizer),
        "offload_param": _device(zero.offload_param),
        "hpz": zero.zero_hpz_partition_size,
        "reduce_bucket": zero.reduce_bucket_size if zero.stage else None,
        "overlap": zero.overlap_comm if zero.stage else None,
        "super_offload": bool(zero.offload_optimizer and zero.offload_optimizer.super_offload),
        "zenflow": zero.zenflow and (zero.zenflow.topk_ratio, zero.zenflow.update_interval, zero.zenflow.overlap_step),
        "compiled": c.compile_config.deepcompile,
        **_saved(c),
        "autocast": _SHORT[str(c.torch_autocast_dtype)] if c.torch_autocast_enabled else "none",
        "vocabulary": c.tensor_parallel_config.vocab_parallel_lm_head,
        "overlap_tp": c.tensor_parallel_config.tp_overlap_comm,
        "dispatcher": "deepep" if c.expert_parallel_config.comm_backend == "deepep" else "alltoall",
    }


_SHORT = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


def _saved(c: Any) -> dict[str, Any]:
    """Who writes checkpoints, and what is read."""
    writer = c.checkpoint_config["writer"] or {"type": "TORCH", "decoupled": False}
    return {
        "writer": writer["type"].lower(),
        "async_save": writer["decoupled"],
        "node_local": c.use_node_local_storage,
        "universal": c.load_universal_checkpoint,
    }


def _precision(c: Any) -> str:
    return "bf16" if c.bfloat16_config.enabled else "fp16" if c.float16_config.enabled else "fp32"


def _device(offload: Any) -> str:
    return "none" if offload is None else str(getattr(offload.device, "value", offload.device))
