"""Files that Megatron's flags name, laid out for the proof and read by its own code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from meshwright.emit.megatron_files import megatron_files
from meshwright.layout.plan import Plan
from meshwright.model.megatron_classes import is_hybrid
from meshwright.model.module_names import MODULES, names, precision_of
from meshwright.spec.techniques import ModulePrecision

__all__ = ["files_of", "misnamed", "read_overlap", "unlike_recipe"]


@contextmanager
def files_of(plan: Plan) -> Iterator[str]:
    """A folder with what a run folder would hold of them."""
    with TemporaryDirectory(prefix="meshwright-") as folder:
        for name, text in megatron_files(plan).items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        yield folder


def read_overlap(arguments: Any) -> None:
    """As Megatron does once it starts (training/initialize.py:204): the content takes the place of the path."""
    import yaml

    if arguments.tp_comm_overlap_cfg is not None:
        arguments.tp_comm_overlap_cfg = yaml.safe_load(Path(arguments.tp_comm_overlap_cfg).read_text())


def unlike_recipe(found: Any, plan: Plan) -> Iterator[str]:
    """Where Megatron's reader gives a module another precision than the plan, or cannot read the one it gives."""
    from megatron.core.extensions.transformer_engine import TEQuantizationParams
    from megatron.core.quantization.quant_config import MatchContext

    rules = plan.spec.backend.megatron.quantization.modules
    for name in _all_names(plan) if rules else ():
        matched = found.match(MatchContext(module_path=name, layer_number=None)) if found else None
        said = _kind(TEQuantizationParams.parse_from_config(matched).training_recipe) if matched else None
        if said != precision_of(name, rules):
            yield f"{name} is {said or 'as the run'} to Megatron, the plan says {precision_of(name, rules)}"


def _kind(recipe: Any) -> str:
    """The precision by our name."""
    kind = recipe.fp8_quantization_recipe or recipe.fp4_quantization_recipe
    word = getattr(kind, "value", kind)
    return {None: "bf16", "tensorwise": "fp8_tensorwise", "blockwise": "fp8_blockwise"}.get(word, str(word))


def _all_names(plan: Plan) -> Iterator[str]:
    hybrid = is_hybrid(plan.spec.model, plan.spec.backend.megatron)
    for operation in MODULES:
        yield from names(operation, range(plan.stages[0].chunks[0].layers), plan.spec.model.mtp, hybrid)


def misnamed(rules: tuple[ModulePrecision, ...], made: Iterable[str]) -> Iterator[str]:
    """Globs that match no module of what was built on any stage: ``made`` are their names, each expert's among them."""
    there = {re.sub(r"\.local_experts\.\d+", "", name) for name in made}
    for rule in rules:
        if not any(precision_of(name, (rule,)) for name in there):
            yield f"{rule.match} matches no module that Megatron built"
