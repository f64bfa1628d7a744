"""The same model built by transformers on the meta device: its parameters are what ours must add up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.emit.huggingface import config, mismatches
from meshwright.layout.plan import Plan
from meshwright.verify.verdict import Check

__all__ = ["build", "count", "counted", "warm"]


def warm() -> None:
    """Import what the checks need, once, before forking."""
    import transformers
    import transformers.models.llama.modeling_llama  # with all that every architecture imports

    transformers.utils.logging.set_verbosity_error()


def count(config: Mapping[str, Any]) -> int:
    """Parameters of the model that transformers builds from ``config``, tied ones once."""
    return sum(parameter.numel() for parameter in build(config, "meta", "eager").parameters())


def build(config: Mapping[str, Any], device: str, attention: str) -> Any:
    """The model in training mode on ``device``; random weights unless that is ``meta``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(**config)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(settings, attn_implementation=attention).train()


def counted(plan: Plan) -> Check:
    """Whether transformers' own model has ``plan.total_parameters``."""
    model = plan.spec.model
    if mismatches(model):
        return Check("counted", True, f"transformers has no architecture of {model.name}; nothing to compare")
    theirs, ours = count(config(model)), plan.total_parameters
    details = f"transformers builds {theirs:,} parameters, the plan counts {ours:,}"
    return Check("counted", theirs == ours, details)
