"""accelerate with FSDP2 or DDP: the launch file and the Trainer's arguments, parsed and read back by their own code."""

from __future__ import annotations

from typing import Any

from meshwright.emit.accelerate import with_fsdp
from meshwright.layout.plan import Plan
from meshwright.verify import trainer, transformers
from meshwright.verify.said import said
from meshwright.verify.trainer import versions
from meshwright.verify.verdict import Check

__all__ = ["CHECKS", "check", "versions", "warm"]

CHECKS = ("parsed", "scheduled", "counted")


def warm() -> None:
    """Import what the checks need, once, before forking."""
    import accelerate.commands.launch  # noqa: F401

    transformers.warm()


def check(item: tuple[str, Plan]) -> Check:
    """One check of one plan. Run it in a fork."""
    name, plan = item
    if name == "counted":
        return transformers.counted(plan)
    return trainer.scheduled(plan, with_fsdp(plan)) if name == "scheduled" else parsed(plan)


def parsed(plan: Plan) -> Check:
    """The arguments in the environment of a rank, and what accelerate makes of that environment."""
    try:
        with trainer.launched(with_fsdp(plan)):
            arguments = trainer.parsed_arguments(plan)
            found = {**vars(arguments), **_sharding(plan)}
    except Exception as error:
        return Check("parsed", False, said(error), trainer.SUBSTITUTED)
    wanted = {**trainer.expected(plan), **_wanted(plan)}
    wrong = trainer.compared(found, wanted)
    return Check("parsed", not wrong, "; ".join(wrong) or f"{len(wanted)} values read back", trainer.SUBSTITUTED)


def _wanted(plan: Plan) -> dict[str, Any]:
    p, training = plan.spec.parallelism, plan.spec.training
    if p.zero == 0:
        return {"gradient_checkpointing": p.recompute == "full"}
    computes = {"fp32": None, "bf16": "torch.bfloat16"}[training.precision]
    return {
        "fsdp_version": 2,
        "reshard_after_forward": p.zero == 3,
        "activation_checkpointing": p.recompute == "full",
        "param_dtype": computes,
        "reduce_dtype": computes,
        "degrees": (1, plan.grid.dp if plan.grid.cp > 1 else 1, 1, plan.grid.cp),
    }


def _sharding(plan: Plan) -> dict[str, Any]:
    """What accelerate reads from its environment, as Accelerator() does."""
    if plan.spec.parallelism.zero == 0:
        return {}
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin, degrees = FullyShardedDataParallelPlugin(), ParallelismConfig()
    precision = trainer.expected(plan)["mixed_precision"]
    if precision != "no":
        plugin.set_mixed_precision(precision)
    policy = plugin.mixed_precision_policy
    return {
        **{
            name: getattr(plugin, name)
            for name in ("fsdp_version", "reshard_after_forward", "activation_checkpointing")
        },
        **{name: policy and str(getattr(policy, name)) for name in ("param_dtype", "reduce_dtype")},
        "degrees": (degrees.dp_replicate_size, degrees.dp_shard_size, degrees.tp_size, degrees.cp_size),
    }
