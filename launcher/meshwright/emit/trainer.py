"""Plan -> the Hugging Face Trainer's arguments, and what they have no word for, for the script that makes the Trainer.

The Trainer's schedules give every step the rate that ours do (``verify`` asks transformers). Names and defaults:
transformers 5.24, training_args.py, optimization.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from meshwright.emit.deepspeed import attention
from meshwright.layout.plan import Plan

__all__ = ["arguments", "environment", "script_arguments"]

Values = dict[str, Any]


def arguments(plan: Plan) -> Values:
    """TrainingArguments, as ``HfArgumentParser.parse_json_file`` reads them."""
    training, optimizer = plan.spec.training, plan.spec.training.optimizer
    return {
        "output_dir": training.logging.folder,
        "per_device_train_batch_size": plan.batch.micro_batch,
        "gradient_accumulation_steps": plan.batch.microbatches,
        "max_steps": plan.steps,
        "optim": "adamw_torch_fused",
        "learning_rate": optimizer.lr,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_epsilon": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.clip,
        **_schedule(plan),
        "bf16": training.precision == "bf16",
        "fp16": training.precision == "fp16",
        "seed": training.seed,
        "dataloader_num_workers": training.data.workers,
        "dataloader_drop_last": True,
        **_logging(plan),
    }


def script_arguments(plan: Plan) -> Values:
    """What the script that makes the model, the data and the Trainer needs to know beside them."""
    training = plan.spec.training
    return {
        "model_config": "config.json",
        "attn_implementation": attention(plan.spec.model, plan.spec.backend.deepspeed),
        "sequence": plan.batch.sequence,
        "data": asdict(training.data),
    }


def environment(plan: Plan) -> dict[str, str]:
    """What the cluster wants, what the Trainer's loggers read, and what the user says."""
    logging = plan.spec.training.logging
    said = {"TENSORBOARD_LOGGING_DIR": logging.tensorboard, "WANDB_PROJECT": logging.wandb_project}
    return {
        **{name: variable.value for name, variable in plan.spec.cluster.environment.items()},
        **{name: value for name, value in said.items() if value is not None},
        **plan.spec.launch.environment,
    }


_DECAYS = {"linear": "linear", "cosine": "cosine", "minus_sqrt": "1-sqrt"}


def _schedule(plan: Plan) -> Values:
    schedule, peak = plan.spec.training.schedule, plan.spec.training.optimizer.lr
    name, options = _shape(plan)
    if schedule.style == "wsd":
        last = schedule.wsd_decay_steps or 0
        whole = schedule.decay_steps or plan.steps or 0
        options = {
            "num_stable_steps": whole - last - schedule.warmup_steps,
            "num_decay_steps": last,
            "decay_type": _DECAYS[schedule.wsd_decay_style],
            "min_lr_ratio": schedule.min_lr / peak if peak else 0.0,
        }
    return {"lr_scheduler_type": name, "lr_scheduler_kwargs": options, "warmup_steps": schedule.warmup_steps}


def _shape(plan: Plan) -> tuple[str, Values]:
    """The Trainer's name for a schedule, and what it wants to know; a decay to 0 has names of its own."""
    schedule = plan.spec.training.schedule
    to_zero: dict[str, tuple[str, Values]] = {
        "constant": ("constant_with_warmup", {}),
        "linear": ("linear", {}),
        "cosine": ("cosine", {}),
        "inverse_sqrt": ("inverse_sqrt", {"timescale": schedule.warmup_steps}),
        "wsd": ("warmup_stable_decay", {}),
    }
    if schedule.min_lr > 0 and schedule.style == "cosine":
        return "cosine_with_min_lr", {"min_lr": schedule.min_lr}
    if schedule.min_lr > 0 and schedule.style == "linear":
        return "polynomial", {"lr_end": schedule.min_lr, "power": 1.0}
    return to_zero[schedule.style]


def _logging(plan: Plan) -> Values:
    logging = plan.spec.training.logging
    loggers = ["tensorboard"] * bool(logging.tensorboard) + ["wandb"] * bool(logging.wandb_project)
    saves = {"save_strategy": "steps", "save_steps": logging.save_interval or plan.steps}
    return {
        "logging_steps": logging.interval,
        "report_to": loggers or ["none"],
        "run_name": logging.wandb_name or plan.spec.name,
        **(saves if logging.checkpoints else {"save_strategy": "no"}),
        **({"resume_from_checkpoint": logging.load} if logging.load else {}),
    }
