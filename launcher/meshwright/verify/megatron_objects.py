"""Keyword arguments as they stand in ``kwargs.json``, made what Megatron's configuration objects take."""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = ["objects"]


def objects(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's names turned into torch's and Megatron's objects."""
    import torch
    from megatron.core.activations import squared_relu
    from megatron.core.fusions.fused_bias_geglu import quick_gelu
    from megatron.core.quantization.quant_config import RecipeConfig
    from megatron.core.quantization.utils import load_quantization_recipe
    from megatron.core.transformer.enums import AttnBackend

    functions = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
        "relu": torch.nn.functional.relu,
        "quick_gelu": quick_gelu,
        "squared_relu": squared_relu,
    }
    made = dict(values)
    for name, value in values.items():
        if name.endswith("dtype") and isinstance(value, str) and name != "moe_router_dtype":
            made[name] = getattr(torch, value)
    if "activation_func" in made:
        made["activation_func"] = functions[made["activation_func"]]
    if "attention_backend" in made:
        made["attention_backend"] = AttnBackend[made["attention_backend"]]
    if isinstance(made.get("quant_recipe"), str):
        made["quant_recipe"] = load_quantization_recipe(made["quant_recipe"])
    elif "quant_recipe" in made:
        made["quant_recipe"] = RecipeConfig.from_config_dict(made["quant_recipe"])
    return made
