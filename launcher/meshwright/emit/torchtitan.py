"""Plan -> torchtitan's configuration: values.json, and the function that makes a Trainer.Config of it.

torchtitan's schedules agree with ours in every step but those of the warm-up, where they are one step ahead (a step is
counted before it is taken). Names and defaults: torchtitan 0.3, config/configs.py, components/, models/llama3/.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files as resources
from typing import Any

from meshwright.layout.plan import Chunk, Plan
from meshwright.spec.identity import as_json

__all__ = ["files", "values"]

Values = dict[str, Any]


def files(plan: Plan) -> dict[str, str]:
    """Files for ``torchrun ... -m torchtitan.train --module config_registry --config run`` in their folder."""
    registry = resources("meshwright").joinpath("train", "torchtitan_config.py").read_text("utf-8")
    return {
        "config_registry.py": registry,
        "values.json": as_json(values(plan)),
        "environment.json": as_json(_environment(plan)),
    }


def values(plan: Plan) -> Values:
    """What config_registry.py reads."""
    training = plan.spec.training
    return {
        "name": plan.spec.name,
        "model": _model(plan),
        "training": _training(plan),
        "parallelism": {**_degrees(plan), **(_pipeline(plan) if plan.grid.pp > 1 else {})},
        "recompute": plan.spec.parallelism.recompute == "full",
        "optimizer": _optimizer(plan),
        "lr_scheduler": _schedule(plan),
        "metrics": _metrics(plan),
        "checkpoint": _checkpoint(plan),
        "debug": {"seed": training.seed},
        "workers": training.data.workers,
        "folders": {"dump_folder": ".", "hf_assets_path": training.data.tokenizer.path or "."},
    }


def _model(plan: Plan) -> Values:
    m, scaling = plan.spec.model, plan.spec.model.rope.scaling
    stretched = (
        {
            "scaling": "llama",
            "scaling_factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_positions,
        }
        if scaling
        else {"scaling": "none"}
    )
    return {
        "layers": m.layers,
        "dim": m.hidden,
        "ffn": m.ffn,
        "heads": m.heads,
        "kv_heads": m.kv_heads,
        "head_dim": m.head_dim,
        "vocab": m.vocab,
        "eps": m.norm_eps,
        "tied": m.tied_embeddings,
        "std": m.init_std,
        "rope": {"dim": m.head_dim, "max_seq_len": m.max_positions, "theta": m.rope.base, **stretched},
    }


def _training(plan: Plan) -> Values:
    """Under a pipeline a local batch is all micro-batches of a step; else they accumulate."""
    training, batch = plan.spec.training, plan.batch
    return {
        "local_batch_size": batch.micro_batch * (batch.microbatches if plan.grid.pp > 1 else 1),
        "global_batch_size": batch.global_batch,
        "seq_len": batch.sequence,
        "max_norm": training.optimizer.clip,
        "steps": plan.steps,
        "disable_cuda_graphs": plan.grid.pp > 1,  # torchtitan refuses both together
        "mixed_precision_param": {"fp32": "float32", "bf16": "bfloat16"}[training.precision],
    }


def _degrees(plan: Plan) -> Values:
    """ZeRO 2 and 3 shard over dp, in whole instances where there are several; DDP replicates."""
    p, grid = plan.spec.parallelism, plan.grid
    sharded = p.zero >= 2
    replicas = p.optimizer_instances if sharded else grid.dp
    return {
        "data_parallel_replicate_degree": replicas,
        "data_parallel_shard_degree": grid.dp // replicas,
        "fsdp_reshard_after_forward": "always" if p.zero == 3 else "never",
        "tensor_parallel_degree": grid.tp,
        "enable_sequence_parallel": p.sp,
        "context_parallel_degree": grid.cp,
    }


def _pipeline(plan: Plan) -> Values:
    p, stages = plan.spec.parallelism, plan.stages
    return {
        "pipeline_parallel_degree": plan.grid.pp,
        "pipeline_parallel_schedule": "1F1B" if p.vpp == 1 else "Interleaved1F1B",
        "pipeline_parallel_microbatch_size": plan.batch.micro_batch,
        # virtual stages in the order of the model: chunk 0 of every stage, then chunk 1
        "module_fqns_per_model_part": [list(_modules(stage.chunks[v])) for v in range(p.vpp) for stage in stages],
    }


def _modules(chunk: Chunk) -> Iterator[str]:
    """Names of the modules of a chunk."""
    if chunk.embedding:
        yield "tok_embeddings"
    yield from (f"layers.{layer}" for layer in range(chunk.first, chunk.first + chunk.layers))
    if chunk.final_norm:
        yield "norm"
    if chunk.loss:
        yield "lm_head"


def _optimizer(plan: Plan) -> Values:
    o = plan.spec.training.optimizer
    settings = {"lr": o.lr, "betas": [o.beta1, o.beta2], "eps": o.eps, "weight_decay": o.weight_decay}
    return {"name": {"adamw": "AdamW", "adam": "Adam"}[o.name], "settings": settings}


_DECAYS = {"linear": "linear", "cosine": "cosine", "minus_sqrt": "sqrt"}


def _schedule(plan: Plan) -> Values:
    """A decay that begins after the warm-up is the default; a ratio is the last part of the schedule's steps."""
    schedule, peak = plan.spec.training.schedule, plan.spec.training.optimizer.lr
    whole = schedule.decay_steps or plan.steps or 0
    ratios = {"constant": 0.0, "wsd": (schedule.wsd_decay_steps or 0) / whole}
    shape = schedule.wsd_decay_style if schedule.style == "wsd" else schedule.style
    return {
        "warmup_steps": schedule.warmup_steps,
        "total_steps": whole,
        "decay_ratio": ratios.get(schedule.style),
        "decay_type": _DECAYS.get(shape, "linear"),
        "min_lr_factor": schedule.min_lr / peak if peak and schedule.style != "constant" else 0.0,
    }


def _metrics(plan: Plan) -> Values:
    logging = plan.spec.training.logging
    board = {"enable_tensorboard": True, "save_tb_folder": logging.tensorboard} if logging.tensorboard else {}
    return {"log_freq": logging.interval, "enable_wandb": bool(logging.wandb_project), **board}


def _checkpoint(plan: Plan) -> Values:
    logging = plan.spec.training.logging
    return {
        "enable": logging.checkpoints,
        "folder": logging.folder,
        "interval": logging.save_interval or plan.steps,
        "last_save_model_only": False,
        **({"initial_load_path": logging.load, "initial_load_model_only": False} if logging.load else {}),
    }


def _environment(plan: Plan) -> dict[str, str]:
    logging = plan.spec.training.logging
    said = {"WANDB_PROJECT": logging.wandb_project, "WANDB_RUN_NAME": logging.wandb_name}
    return {
        **{name: variable.value for name, variable in plan.spec.cluster.environment.items()},
        **{name: value for name, value in said.items() if value is not None},
        **plan.spec.launch.environment,
    }
