"""accelerate with DeepSpeed: the Trainer's arguments against DeepSpeed's JSON, and both by their own code."""

from __future__ import annotations

from meshwright.emit.accelerate import with_deepspeed
from meshwright.layout.plan import Plan
from meshwright.verify import deepspeed, trainer, transformers
from meshwright.verify.said import said
from meshwright.verify.verdict import Check

__all__ = ["CHECKS", "check", "versions", "warm"]

CHECKS = ("parsed", "scheduled", "counted")

READ_BACK = (
    *("stage", "micro_batch", "accumulation", "global_batch", "precision", "grad_reduce", "clip"),
    *("offload_optimizer", "offload_param", "hpz", "reduce_bucket", "overlap"),
)


def warm() -> None:
    """Import what the checks need, once, before forking."""
    import accelerate.commands.launch  # noqa: F401

    deepspeed.warm()


def versions() -> dict[str, str]:
    """Of what judges."""
    return {**deepspeed.versions(), **trainer.versions()}


def check(item: tuple[str, Plan]) -> Check:
    """One check of one plan. Run it in a fork."""
    name, plan = item
    if name == "counted":
        return transformers.counted(plan)
    return trainer.scheduled(plan, with_deepspeed(plan)) if name == "scheduled" else parsed(plan)


def parsed(plan: Plan) -> Check:
    """Both files together as the Trainer reads them, and the JSON it then hands to DeepSpeed."""
    try:
        with trainer.launched(with_deepspeed(plan)):
            arguments = trainer.parsed_arguments(plan)
            joint = arguments.hf_deepspeed_config
            joint.trainer_config_finalize(arguments, None, plan.steps)
            understood, unread = deepspeed.parse(joint.config, plan.grid.world)
    except Exception as error:
        return Check("parsed", False, said(error), trainer.SUBSTITUTED)
    of_deepspeed = {name: value for name, value in deepspeed.expected(plan).items() if name in READ_BACK}
    wrong = [f"DeepSpeed never reads {path}" for path in unread]
    wrong += trainer.compared(vars(arguments), trainer.expected(plan)) + trainer.compared(understood, of_deepspeed)
    count = len(of_deepspeed) + len(trainer.expected(plan))
    return Check("parsed", not wrong, "; ".join(wrong) or f"{count} values read back", trainer.SUBSTITUTED)
