"""torchtitan: its ConfigManager reads the function, its ParallelDims the degrees; its model is built and counted."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshwright.emit.torchtitan import files
from meshwright.layout.plan import Plan
from meshwright.train.schedule import learning_rate
from meshwright.verify.said import said
from meshwright.verify.schedule import compared as rates_compared
from meshwright.verify.trainer import compared
from meshwright.verify.verdict import Check

__all__ = ["CHECKS", "check", "versions", "warm"]

CHECKS = ("parsed", "built", "scheduled")


def warm() -> None:
    """Import what the checks need, once, before forking."""
    import torchtitan.config.manager
    import torchtitan.models.llama3
    import torchtitan.trainer  # noqa: F401


def versions() -> dict[str, str]:
    """Of what judges."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torchtitan", "torch")}


def check(item: tuple[str, Plan]) -> Check:
    """One check of one plan. Run it in a fork."""
    name, plan = item
    try:
        with _configured(plan) as config:
            return {"parsed": _parsed, "built": _built, "scheduled": _scheduled}[name](plan, config)
    except Exception as error:
        return Check(name, False, said(error))


@contextmanager
def _configured(plan: Plan) -> Iterator[Any]:
    """The Trainer.Config that torchtitan's command line makes of the files."""
    from torchtitan.config.manager import ConfigManager

    with tempfile.TemporaryDirectory() as folder:
        for name, text in files(plan).items():
            (Path(folder) / name).write_text(text)
        sys.path.insert(0, folder)
        try:
            yield ConfigManager().parse_args(["--module", "config_registry", "--config", "run"])
        finally:
            sys.path.remove(folder)
            sys.modules.pop("config_registry", None)


def _parsed(plan: Plan, config: Any) -> Check:
    """Read back, with the degrees as they divide the world."""
    from torchtitan.distributed.parallel_dims import ParallelDims

    dims = ParallelDims.from_config(config.parallelism, plan.grid.world)
    settings = [group.optimizer_kwargs for group in config.optimizer.param_groups]
    found = {
        "world": dims.dp_replicate * dims.dp_shard * dims.cp * dims.tp * dims.pp,
        "dp": dims.dp_replicate * dims.dp_shard,
        "degrees": (dims.tp, dims.cp, dims.pp, dims.ep),
        "batch": config.training.global_batch_size,
        "sequence": config.training.seq_len,
        "steps": config.training.steps,
        "clip": config.training.max_norm,
        "computes in": config.training.mixed_precision_param,
        "recompute": config.activation_checkpoint is not None,
        "decays": [of["weight_decay"] for of in settings],
        "adam": [(of["lr"], *of["betas"], of["eps"]) for of in settings],
        "stages": len(config.parallelism.module_fqns_per_model_part or [0]),
        "seed": config.debug.seed,
    }
    wrong = compared(found, _expected(plan))
    return Check("parsed", not wrong, "; ".join(wrong) or f"{len(found)} values read back")


def _expected(plan: Plan) -> dict[str, Any]:
    training, grid = plan.spec.training, plan.grid
    o = training.optimizer
    return {
        "world": grid.world,
        "dp": grid.dp,
        "degrees": (grid.tp, grid.cp, grid.pp, 1),
        "batch": plan.batch.global_batch,
        "sequence": plan.batch.sequence,
        "steps": plan.steps,
        "clip": o.clip,
        "computes in": "float32" if training.precision == "fp32" else "bfloat16",
        "recompute": plan.spec.parallelism.recompute == "full",
        "decays": [0.0, o.weight_decay],
        "adam": [(o.lr, o.beta1, o.beta2, o.eps)] * 2,
        "stages": grid.pp * plan.spec.parallelism.vpp,
        "seed": training.seed,
    }


def _built(plan: Plan, config: Any) -> Check:
    """The whole model on the meta device, after torchtitan's own checks; every module lies on one stage."""
    import torch

    config.model_spec.model.update_from_config(config=config)
    with torch.device("meta"):
        model = config.model_spec.model.build()
    theirs = sum(parameter.numel() for parameter in model.parameters())
    wrong = (
        [] if theirs == plan.total_parameters else [f"{theirs:,} parameters, the plan has {plan.total_parameters:,}"]
    )
    parts = config.parallelism.module_fqns_per_model_part
    if parts is not None:
        placed = sorted(name for part in parts for name in part)
        whole = sorted(("tok_embeddings", "norm", "lm_head", *(f"layers.{i}" for i in range(len(model.layers)))))
        wrong += [] if placed == whole else ["the stages do not hold every module once"]
    return Check("built", not wrong, "; ".join(wrong) or f"{theirs:,} parameters, as the plan counts")


def _scheduled(plan: Plan, config: Any) -> Check:
    """Torchtitan's schedule against Megatron's formulas; in the warm-up it is one step ahead."""
    import torch

    peak, warmup = plan.spec.training.optimizer.lr, plan.spec.training.schedule.warmup_steps
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=peak)
    built = config.lr_scheduler.build(optimizers=[optimizer], training_steps=config.training.steps)
    factor = built.schedulers[0].lr_lambdas[0]
    schedule = {**vars(plan.spec.training.schedule), "lr": peak}

    def ours(step: int) -> float:
        return learning_rate(step + (step < warmup), plan.steps or 0, schedule)

    return rates_compared(plan, lambda step: peak * factor(step), ours)
