"""Megatron's own code on a machine without a GPU: the few names it asks the hardware for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from meshwright.layout.plan import Plan
from meshwright.rules.requirements import needed
from meshwright.spec.software import HERE
from meshwright.train.installed import found

__all__ = ["arguments_module", "emulate_gpu", "engine", "silence", "substitutions"]

UNSAID = "2.13.0"  # the version that is assumed where neither this machine nor the plan's software has one


def silence() -> None:
    """Megatron warns of every optional package that is absent."""
    warnings.filterwarnings("ignore")


def arguments_module() -> Any:
    """``megatron.training.arguments`` without ``megatron.training``'s own imports (training loop, tokenizers, RL).

    The wheel's package imports all of them in its ``__init__``; the parser needs none.
    """
    name = "megatron.training.arguments"
    if name in sys.modules:
        return sys.modules[name]
    import megatron.core  # type: ignore[import-untyped,unused-ignore]

    home = Path(megatron.core.__file__).parent.parent / "training"
    getters = dict.fromkeys(
        ("get_args", "get_timers", "get_adlr_autoresume", "get_tokenizer", "get_signal_handler"), _nothing
    )
    _package("megatron.training", str(home), **getters)
    _package("megatron.training.global_vars", None, set_global_variables=_nothing, **getters)
    _package("megatron.legacy", str(home.parent / "legacy"))
    _package("megatron.legacy.model", None)
    _package("megatron.legacy.model.module", None, param_is_not_shared=lambda p: not getattr(p, "shared", False))
    module = importlib.import_module(name)
    _read_help_once()
    return module


def _read_help_once() -> None:
    """Each parser reads the help of its flags from the source of thirteen dataclasses anew: most of its time."""
    factory = importlib.import_module("megatron.training.argument_utils").ArgumentGroupFactory
    theirs, known = factory._get_field_docstrings, dict[type, dict[str, str]]()

    def read(self: Any, described: type) -> dict[str, str]:
        if described not in known:
            known[described] = theirs(self, described)
        return known[described]

    factory._get_field_docstrings = read


def engine(plan: Plan) -> tuple[str, str]:
    """The version of Transformer Engine that Megatron is told of, and who says so: it is installed, or assumed."""
    here = found("transformer_engine")
    if here not in (None, HERE):
        return str(here), "installed here"
    said = plan.spec.software.components.get("transformer_engine")
    known = said if said not in (None, HERE) else _new_enough(plan)
    return str(known), f"assumed, as in software={plan.spec.software.name}" if known == said else "assumed"


def _new_enough(plan: Plan) -> str:
    """What is assumed where nobody says is new enough for what the plan asks of it."""
    from packaging.version import Version

    needs = (row.least for row in needed(plan.spec) if row.component == "transformer_engine")
    return max((UNSAID, *(least for least in needs if least)), key=Version)


def emulate_gpu(plan: Plan) -> None:
    """Answer for the plan's GPU with Transformer Engine installed. For a process that ends after the check."""
    import torch
    from packaging.version import Version

    major, minor = (int(part) for part in _nvidia(plan.spec.cluster.accelerator.capability).split("."))
    properties = types.SimpleNamespace(
        major=major, minor=minor, total_memory=80 << 30, name="emulated", multi_processor_count=132
    )
    torch.cuda.get_device_capability = lambda *_: (major, minor)
    torch.cuda.get_device_properties = lambda *_: properties  # type: ignore[assignment]
    utils = importlib.import_module("megatron.core.utils")
    utils.get_te_version = lambda: Version(engine(plan)[0])  # type: ignore[attr-defined]
    _fill("megatron.core.models.common.embeddings.rope_utils", "fused_apply_rotary_pos_emb")
    _fill("megatron.core.models.common.embeddings.rope_utils", "fused_apply_rotary_pos_emb_thd")
    for kernel in (
        "permute",
        "permute_with_probs",
        "sort_chunks_by_index",
        "sort_chunks_by_index_with_probs",
        "unpermute",
    ):
        _fill("megatron.core.transformer.moe.moe_utils", f"fused_{kernel}")
    config = importlib.import_module("megatron.core.transformer.transformer_config")
    config._validate_dsa_kernel_backend_dependencies = _nothing  # type: ignore[attr-defined]


def substitutions(plan: Plan) -> tuple[str, ...]:
    """What ``emulate_gpu`` pretended for ``plan``."""
    accelerator = plan.spec.cluster.accelerator
    version, whence = engine(plan)
    capability = _nvidia(accelerator.capability)
    emulated = [f"compute capability {capability} pretended, Transformer Engine {version} {whence}"]
    if accelerator.capability == "0.0":
        emulated.append(f"{accelerator.name} has no CUDA compute capability: Hopper's stands in")
    kernels = plan.spec.backend.megatron.dsa_kernels
    if kernels != "none":
        emulated.append(f"the kernels of {kernels} assumed, without which Megatron refuses them (core/utils.py:522)")
    return tuple(emulated)


def _nvidia(capability: str) -> str:
    return "9.0" if capability == "0.0" else capability


def _fill(module: str, name: str) -> None:
    """A kernel that must exist to be configured and is never called here."""
    home = importlib.import_module(module)
    if getattr(home, name, None) is None:
        setattr(home, name, _kernel)


def _kernel(*_: object, **__: object) -> None:
    raise AssertionError("a kernel of the GPU was called during a check")


def _nothing(*_: object, **__: object) -> None:
    return None


def _package(name: str, path: str | None, **attributes: Callable[..., object]) -> None:
    """Stands in for what a package's own ``__init__`` makes, with a spec: who looks for it finds where it lies."""
    spec = ModuleSpec(name, None)
    spec.submodule_search_locations = None if path is None else [path]
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
