"""Plan -> DeepSpeed's JSON, and what the JSON cannot say, for the program on the nodes.

Nothing is emitted that DeepSpeed does not read, and no null (several sections crash on it). Three traps decide what
stands here:

* ``train_batch_size`` is left out: with AutoTP DeepSpeed counts the ranks of a tensor group as data parallel. The real
  global batch is ``micro * accumulation * dp``; both factors are stated.
* ``gradient_clipping`` is always stated, because DeepSpeed clips at 1.0 unless told otherwise (runtime/constants.py).
* ``scheduler`` is left out: DeepSpeed's begin with two steps at a learning rate of 0 and lack most shapes
  (runtime/lr_schedules.py:757, :904). The program on the nodes sets the rate of every step.

Names and defaults: DeepSpeed 0.19.8, deepspeed/runtime/config.py and runtime/zero/config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from meshwright.emit import deepspeed_techniques as techniques
from meshwright.layout.plan import Plan
from meshwright.model.architecture_table import ARCHITECTURES, architecture_of
from meshwright.spec import DeepSpeedOptions, Model, Optimizer

__all__ = ["attention", "config", "program"]


def config(plan: Plan) -> dict[str, Any]:
    """The whole ``ds_config.json``."""
    training = plan.spec.training
    own = {
        "train_micro_batch_size_per_gpu": plan.batch.micro_batch,
        "gradient_accumulation_steps": plan.batch.microbatches,
        "gradient_clipping": training.optimizer.clip,
        "steps_per_print": training.logging.interval,
        "optimizer": _optimizer(plan),
        "zero_optimization": _zero(plan),
        **_untested_optimizer(plan),
        **_precision(plan),
        **_layout(plan),
        **techniques.compiled(plan.spec.backend.deepspeed.deep_compile),
        **techniques.checkpoint(plan.spec),
        **_monitors(plan),
    }
    return merge(own, plan.spec.backend.deepspeed.extra)


def program(plan: Plan) -> dict[str, Any]:
    """What our program on the nodes needs beside the two JSON files: the run's length, schedule, data, logging."""
    spec = plan.spec
    return {
        "name": spec.name,
        "seed": spec.training.seed,
        "sequence": plan.batch.sequence,
        "steps": plan.steps,
        "tp": plan.grid.tp,
        "cp": plan.grid.cp,
        "dp": plan.grid.dp,
        "attention": attention(spec.model, spec.backend.deepspeed),
        "recompute": spec.parallelism.recompute != "none",
        "ramp": [asdict(step) for step in spec.training.ramp],
        "schedule": {**asdict(spec.training.schedule), "lr": spec.training.optimizer.lr},
        "data": asdict(spec.training.data),
        "evaluation": asdict(spec.training.evaluation),
        "logging": asdict(spec.training.logging),
        "watchdog": asdict(spec.launch.watchdog),
        **techniques.for_program(spec.backend.deepspeed),
        **_looked_at(spec.model),
    }


def _looked_at(model: Model) -> dict[str, Any]:
    """Of a model known by its modules alone: its loss is computed from the logits, its code may be in a folder."""
    if model.measured is None:
        return {}
    return {"vocab": model.vocab, "loss": "logits", "remote": model.measured.remote}


def attention(model: Model, options: DeepSpeedOptions) -> str:
    """The attention kernel: as chosen, else PyTorch's where the architecture has it."""
    if options.attention != "auto":
        return options.attention
    known = model.measured is not None or model.transformers in ARCHITECTURES
    return "sdpa" if not known or architecture_of(model).sdpa else "eager"


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``under``, mappings key by key."""
    merged = dict(under)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def _optimizer(plan: Plan) -> dict[str, Any]:
    o = plan.spec.training.optimizer
    if o.name == "sgd":
        params = {"lr": o.lr, "momentum": o.momentum, "weight_decay": o.weight_decay}
        return {"type": "SGD", "params": params}
    if o.name == "lion":
        return {"type": "Lion", "params": {"lr": o.lr, "betas": [o.beta1, o.beta2], "weight_decay": o.weight_decay}}
    name = {"adam": "Adam", "adamw": "AdamW", "muon": "Muon"}[o.name]
    return {"type": name, "params": _adam(o, plan.spec.backend.deepspeed)}


def _adam(o: Optimizer, options: DeepSpeedOptions) -> dict[str, Any]:
    """Adam with decay in the gradient needs saying so: DeepSpeed's Adam decouples it unless told (engine.py:2488).

    Muon's betas are of what Adam steps: embeddings, head and what is no matrix (deepspeed/__init__.py:369).
    """
    return {
        "lr": o.lr,
        **({"momentum": o.momentum} if o.name == "muon" else {}),
        "betas": [o.beta1, o.beta2],
        "eps": o.eps,
        "weight_decay": o.weight_decay,
        **({"torch_adam": True} if options.torch_adam else {}),
        **({"adam_w_mode": False} if o.name == "adam" else {}),
    }


def _untested_optimizer(plan: Plan) -> dict[str, Any]:
    """ZeRO shards torch's SGD only on demand (runtime/engine.py:2299)."""
    untested = plan.spec.training.optimizer.name == "sgd" and plan.spec.parallelism.zero > 0
    return {"zero_allow_untested_optimizer": True} if untested else {}


def _zero(plan: Plan) -> dict[str, Any]:
    stage, options = plan.spec.parallelism.zero, plan.spec.backend.deepspeed
    if stage == 0:
        return {"stage": 0}
    common = {
        "stage": stage,
        "reduce_bucket_size": options.reduce_bucket,
        "overlap_comm": plan.spec.parallelism.overlap_grad_reduce,
        **techniques.offload_optimizer(options, stage),
        **techniques.zenflow(options.zenflow),
    }
    own = _stage_3(plan) if stage == 3 else {"allgather_bucket_size": options.allgather_bucket}
    return {**common, **own}


def _stage_3(plan: Plan) -> dict[str, Any]:
    options = plan.spec.backend.deepspeed
    gathers_ahead = plan.spec.parallelism.overlap_param_gather
    return {
        "stage3_prefetch_bucket_size": options.prefetch_bucket if gathers_ahead else 0,
        "stage3_param_persistence_threshold": options.persistence_threshold,
        "stage3_max_live_parameters": options.max_live_parameters,
        "stage3_max_reuse_distance": options.max_reuse_distance,
        "sub_group_size": options.sub_group_size,
        **techniques.offload("offload_param", options.offload_param, 3),
        **({"reduce_scatter": False} if plan.spec.training.optimizer.name == "muon" else {}),  # stage3.py:360
        **({"zero_hpz_partition_size": options.hpz} if options.hpz > 1 else {}),
        **({"zero_quantized_weights": True} if options.quantized_weights else {}),
        **({"zero_quantized_gradients": True} if options.quantized_gradients else {}),
    }


def _precision(plan: Plan) -> dict[str, Any]:
    """16-bit weights with fp32 masters; gradients are summed and sent in ``grad_reduce``."""
    training = plan.spec.training
    autocast = plan.spec.backend.deepspeed.autocast
    if training.precision == "fp32":
        return {"torch_autocast": {"enabled": True, "dtype": autocast}} if autocast != "none" else {}
    reduction = {"communication_data_type": training.grad_reduce}
    sums = {"data_types": {"grad_accum_dtype": training.grad_reduce}}
    names = ("bf16_master_weights_and_grads", "bf16_optimizer_states")
    low = dict.fromkeys(names, True) if plan.spec.backend.deepspeed.bf16_states else {}
    return {training.precision: {"enabled": True, **low}, **reduction, **sums}


def _layout(plan: Plan) -> dict[str, Any]:
    """AutoTP, Ulysses and AutoEP. cp is Ulysses' degree."""
    layout: dict[str, Any] = {}
    if plan.grid.tp > 1:
        layout["tensor_parallel"] = {"autotp_size": plan.grid.tp, **techniques.autotp(plan.spec)}
    if plan.grid.cp > 1:
        layout["sequence_parallel_size"] = plan.grid.cp
    if plan.grid.ep > 1:
        preset = architecture_of(plan.spec.model).expert_preset
        layout["expert_parallel"] = {"enabled": True, "autoep_size": plan.grid.ep, "preset_model": preset}
        layout["expert_parallel"] |= techniques.dispatcher(plan)
    return layout


def _monitors(plan: Plan) -> dict[str, Any]:
    logging, monitors = plan.spec.training.logging, {}
    if logging.tensorboard:
        monitors["tensorboard"] = {
            "enabled": True,
            "output_path": logging.tensorboard,
            "job_name": plan.spec.name,
        }
    if logging.wandb_project:
        monitors["wandb"] = {"enabled": True, "project": logging.wandb_project}
    return monitors
