"""Files of a run folder that Megatron's flags name: how products overlap, and which module has which precision.

Flags name them below ``$folder`` (``layout.in_folder``).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from meshwright.layout.in_folder import FOLDER
from meshwright.layout.plan import Plan
from meshwright.model.user_buffers import products

__all__ = ["file_flags", "megatron_files", "precision_recipe", "quoted"]

_OVERLAP, _PRECISION = "megatron/tp_overlap.yaml", "megatron/te_precision.yaml"


def megatron_files(plan: Plan) -> dict[str, str]:
    """Texts by their paths in the run folder."""
    overlap, recipe = products(plan.spec.backend.megatron.tp_overlap), precision_recipe(plan)
    return {**({_OVERLAP: _yaml(overlap)} if overlap else {}), **({_PRECISION: _yaml(recipe)} if recipe else {})}


def file_flags(plan: Plan) -> Iterator[str]:
    """What names them."""
    if products(plan.spec.backend.megatron.tp_overlap):
        yield from ("--tp-comm-overlap-cfg", f"{FOLDER}/{_OVERLAP}")
    if plan.spec.backend.megatron.quantization.modules:
        yield from ("--te-precision-config-file", f"{FOLDER}/{_PRECISION}")


def quoted(word: str) -> str:
    """As a shell reads it that has set ``folder``."""
    own = word.startswith(f"{FOLDER}/")
    return f'"{FOLDER}"{shlex.quote(word.removeprefix(FOLDER))}' if own else shlex.quote(word)


_RECIPES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "fp8_tensorwise": {"fp8_quantization_recipe": "tensorwise", "fp8_format": "hybrid"},
    "fp8_blockwise": {"fp8_quantization_recipe": "blockwise"},
    "mxfp8": {"fp8_quantization_recipe": "mxfp8"},
    "nvfp4": {"fp4_quantization_recipe": "nvfp4"},
}


def precision_recipe(plan: Plan) -> dict[str, Any] | None:
    """What core/quantization/quant_config.py reads: configurations by precision, and matchers in their order."""
    details = plan.spec.backend.megatron.quantization
    used = dict.fromkeys(rule.precision for rule in details.modules)
    if not used:
        return None
    matchers = {
        f"rule_{i}": {"config": rule.precision, "type": "glob", "pattern": rule.match, "enabled": True}
        for i, rule in enumerate(details.modules)
    }
    return {"configs": {kind: _config(kind, details.param_gather) for kind in used}, "matchers": matchers}


def _config(kind: str, gathered: bool) -> dict[str, Any]:
    """Weights are kept as they are multiplied where all others are."""
    recipe = _RECIPES[kind]
    kept = {f"{'fp4' if kind == 'nvfp4' else 'fp8'}_param": True} if gathered and recipe else {}
    return {"transformer_engine_config_type": "TEQuantizationParams", "training_recipe": {**recipe, **kept}}


def _yaml(value: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False)
