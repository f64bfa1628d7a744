"""What the nodes must have beside the backend itself: one row a component that an option needs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from meshwright.errors import Problem
from meshwright.spec import Software, Spec
from meshwright.spec.software import COMPONENTS, HERE

__all__ = ["DEFAULTS", "REQUIREMENTS", "Default", "Requirement", "lacking", "needed"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """``asked`` says whether a Spec uses ``option`` (as a user writes it), for which ``component`` must be there."""

    component: str  # of spec.software.COMPONENTS
    backend: str
    option: str
    asked: Callable[[Spec], bool]
    install: str
    instead: str  # the change that does without it
    source: str
    least: str | None = None  # its oldest version that will do
    note: str = ""

    @property
    def name(self) -> str:
        """The component as people call it, with the version that is needed."""
        return COMPONENTS[self.component].name + (f" {self.least}" if self.least else "")

    @property
    def probe(self) -> str:
        """How a node is asked for it (train/health.py): ``module:NAME`` or ``program:NAME``."""
        component = COMPONENTS[self.component]
        return f"module:{component.module}" if component.module else f"program:{component.program}"

    def met_by(self, software: Software) -> bool | None:
        """Whether ``software`` has it, new enough; None where it does not say."""
        version = software.components.get(self.component)
        if self.least is None or version in (None, HERE):
            return software.has(self.component)
        from packaging.version import InvalidVersion, Version

        try:
            return Version(str(version)) >= Version(self.least)
        except InvalidVersion:
            return None


@dataclass(frozen=True, kw_only=True)
class Default:
    """An option that is null in conf/backend: its value follows from whether the nodes have ``component``."""

    backend: str
    option: str
    component: str
    there: Any
    absent: Any
    unknown: Any

    def value(self, software: Software) -> Any:
        """What it is with ``software``."""
        return {True: self.there, False: self.absent, None: self.unknown}[software.has(self.component)]


DEFAULTS = (
    Default(
        backend="megatron",
        option="transformer",
        component="transformer_engine",
        there="transformer_engine",
        absent="local",
        unknown="transformer_engine",
    ),
    Default(
        backend="megatron",
        option="gradient_accumulation_fusion",
        component="apex",
        there=True,
        absent=False,
        unknown=False,
    ),
    Default(backend="deepspeed", option="torch_adam", component="nvcc", there=False, absent=True, unknown=False),
)


def _eight_bit(*recipes: str) -> Callable[[Spec], bool]:
    return lambda spec: spec.training.precision in recipes


def _fused_gradients(spec: Spec) -> bool:
    """With either kind of FSDP the flag is turned off again (emit.megatron)."""
    return spec.backend.megatron.gradient_accumulation_fusion and spec.parallelism.zero < 2


def _flex(spec: Spec, backend: str) -> bool:
    options = spec.backend.megatron
    return spec.model.moe is not None and options.moe_dispatcher == "flex" and options.moe_flex_backend == backend


def _compiled_adam(spec: Spec) -> bool:
    """DeepSpeed's own Adam, which is compiled on first use, on the GPU as on the CPU."""
    return spec.training.optimizer.name in ("adam", "adamw") and not spec.backend.deepspeed.torch_adam


def _offloads(spec: Spec) -> bool:
    """DeepSpeed's Adam for the CPU, compiled on first use, too."""
    return spec.backend.deepspeed.offload_optimizer.device != "none"


_TE = "pip install --no-build-isolation 'transformer-engine[pytorch]'"
_FP8 = "megatron-core 0.19.2, core/fp8_utils.py:732"

_TECHNIQUES: tuple[tuple[str, Callable[[Spec], bool], str, str, str | None], ...] = (
    (
        "moe_router_fusion=true",
        lambda spec: spec.model.moe is not None and spec.backend.megatron.moe_router_fusion,
        "moe_router_fusion=false",
        "core/extensions/transformer_engine.py fused_topk_with_score_function",
        "2.7.0",
    ),
    (
        "cuda_graphs.kind=transformer_engine",
        lambda spec: spec.backend.megatron.cuda_graphs.kind == "transformer_engine",
        "cuda_graphs.kind=local",
        "core/transformer/cuda_graphs.py make_graphed_callables",
        None,
    ),
    (
        "delay_wgrad=true",
        lambda spec: spec.backend.megatron.delay_wgrad,
        "delay_wgrad=false",
        "training/arguments.py:1825",
        "2.8.0",
    ),
    (
        "optimizer_offload.fraction=1",
        lambda spec: spec.backend.megatron.optimizer_offload.fraction > 0,
        "optimizer_offload.fraction=0",
        "core/optimizer/__init__.py:511",
        None,
    ),
)

REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement(
        component="transformer_engine",
        backend="megatron",
        option="backend.megatron.transformer=transformer_engine",
        asked=lambda spec: spec.backend.megatron.transformer == "transformer_engine",
        install=_TE,
        instead="backend.megatron.transformer=local",
        source="megatron-core 0.19.2, core/models/gpt/gpt_layer_specs.py",
    ),
    *(
        Requirement(
            component="transformer_engine",
            backend="megatron",
            option=f"training.precision={precision}",
            asked=_eight_bit(precision),
            install=_TE,
            instead="training.precision=bf16",
            source=_FP8,
            least=least,
        )
        for precision, least in (
            ("fp8_delayed", None),
            ("fp8_tensorwise", "2.2.0"),
            ("fp8_blockwise", "2.3.0"),
            ("mxfp8", "2.1.0"),
            ("nvfp4", "2.7.0"),
        )
    ),
    Requirement(
        component="transformer_engine",
        backend="megatron",
        option="backend.megatron.precision_aware_optimizer=true",
        asked=lambda spec: spec.backend.megatron.precision_aware_optimizer,
        install=_TE,
        instead="backend.megatron.precision_aware_optimizer=false",
        source="megatron-core 0.19.2, core/optimizer/optimizer_config.py:430",
    ),
    Requirement(
        component="apex",
        backend="megatron",
        option="backend.megatron.gradient_accumulation_fusion=true",
        asked=_fused_gradients,
        install="build NVIDIA/apex with --cpp_ext --cuda_ext, or use NVIDIA's PyTorch container",
        instead="backend.megatron.gradient_accumulation_fusion=false",
        source="megatron-core 0.19.2, core/tensor_parallel/layers.py:1070",
    ),
    Requirement(
        component="deep_ep",
        backend="megatron",
        option="backend.megatron.moe_dispatcher=flex",
        asked=lambda spec: _flex(spec, "deepep") or _flex(spec, "hybridep"),
        install="build deepseek-ai/DeepEP",
        instead="backend.megatron.moe_dispatcher=alltoall",
        source="megatron-core 0.19.2, core/transformer/moe/fused_a2a.py",
    ),
    Requirement(
        component="transformer_engine",
        backend="megatron",
        option="backend.megatron.moe_permute_fusion=true",
        asked=lambda spec: spec.model.moe is not None and spec.backend.megatron.moe_permute_fusion,
        install=_TE,
        instead="backend.megatron.moe_permute_fusion=false",
        source="megatron-core 0.19.2, core/transformer/moe/moe_utils.py",
        least="2.1.0",
    ),
    Requirement(
        component="transformer_engine",
        backend="megatron",
        option="backend.megatron.moe_flex_backend=ncclep",
        asked=lambda spec: _flex(spec, "ncclep"),
        install=f"NVTE_BUILD_WITH_NCCL_EP=1 {_TE}",
        instead="backend.megatron.moe_flex_backend=deepep",
        source="megatron-core 0.19.2, core/transformer/moe/token_dispatcher.py:1559",
    ),
    *(
        Requirement(
            component="transformer_engine",
            backend="megatron",
            option=f"backend.megatron.{option}",
            asked=asked,
            install=_TE,
            instead=f"backend.megatron.{instead}",
            source=f"megatron-core 0.19.2, {source}",
            least=least,
        )
        for option, asked, instead, source, least in _TECHNIQUES
    ),
    Requirement(
        component="emerging_optimizers",
        backend="megatron",
        option="training.optimizer.name=muon",
        asked=lambda spec: spec.training.optimizer.name == "muon",
        install="pip install 'emerging-optimizers>=0.2'",
        instead="training.optimizer.name=adamw",
        source="megatron-core 0.19.2, core/optimizer/__init__.py:43",
    ),
    Requirement(
        component="flash_attn",
        backend="deepspeed",
        option="backend.deepspeed.attention=flash_attention_2",
        asked=lambda spec: spec.backend.deepspeed.attention == "flash_attention_2",
        install="pip install --no-build-isolation flash-attn",
        instead="backend.deepspeed.attention=sdpa",
        source="transformers 5, utils/import_utils.py is_flash_attn_2_available",
    ),
    Requirement(
        component="flash_attn_3",
        backend="deepspeed",
        option="backend.deepspeed.attention=flash_attention_3",
        asked=lambda spec: spec.backend.deepspeed.attention == "flash_attention_3",
        install="build Dao-AILab/flash-attention's hopper folder",
        instead="backend.deepspeed.attention=sdpa",
        source="transformers 5, utils/import_utils.py is_flash_attn_3_available",
    ),
    *(
        Requirement(
            component=component,
            backend="deepspeed",
            option="backend.deepspeed.torch_adam=false",
            asked=_compiled_adam,
            install=install,
            instead="backend.deepspeed.torch_adam=true",
            source="DeepSpeed 0.19.8, op_builder/builder.py",
            note="compiled on first use, 30 to 50 s; the variable TORCH_CUDA_ARCH_LIST may not hold 9.0a",
        )
        for component, install in (
            ("nvcc", "the CUDA toolkit of PyTorch's CUDA version"),
            ("ninja", "pip install ninja"),
        )
    ),
    Requirement(
        component="nvcc",
        backend="deepspeed",
        option="backend.deepspeed.offload_optimizer.device=cpu",
        asked=_offloads,
        install="the CUDA toolkit of PyTorch's CUDA version",
        instead="backend.deepspeed.offload_optimizer.device=none",
        source="DeepSpeed 0.19.8, op_builder/cpu_adam.py",
    ),
)


_ROCM = {
    "transformer_engine": "build ROCm/TransformerEngine",
    "apex": "build ROCm/apex with --cpp_ext --cuda_ext",
    "emerging_optimizers": "pip install 'emerging-optimizers>=0.2'",
    "flash_attn": "build Dao-AILab/flash-attention on ROCm (its README, AMD ROCm Support)",
    "hipcc": "ROCm's development packages",
    "ninja": "pip install ninja",
}
"""How to get a component on AMD's GPUs, where it is made for them."""


def needed(spec: Spec, backend: str | None = None) -> tuple[Requirement, ...]:
    """What this run's nodes must have for ``backend`` (the one launched); nothing where they have no GPUs.

    On AMD's GPUs each row says how to get it there, and hipcc compiles what nvcc does on NVIDIA's.
    """
    platform, chosen = spec.cluster.accelerator.platform, backend or spec.backend.name
    if platform == "cpu":
        return ()
    rows = tuple(row for row in REQUIREMENTS if row.backend == chosen and row.asked(spec))
    return tuple(map(_on_rocm, rows)) if platform == "rocm" else rows


def _on_rocm(row: Requirement) -> Requirement:
    component = "hipcc" if row.component == "nvcc" else row.component
    return replace(row, component=component, install=_ROCM.get(component, "do without: it is not made for AMD's GPUs"))


def lacking(spec: Spec, backend: str) -> Iterator[Problem]:
    """What the options ask for and the software says is absent or too old; and components that nobody knows."""
    for component in spec.software.components.keys() - COMPONENTS.keys():
        known = f"unknown component; known are {', '.join(COMPONENTS)}"
        yield Problem(f"software.components.{component}", known, "software.unknown")
    for row in needed(spec, backend):
        if row.met_by(spec.software) is False:
            has = spec.software.components.get(row.component)
            lacks = f"has {has}" if has else "lacks"
            text = f"needs {row.name}, which software={spec.software.name} {lacks}; set {row.instead}, or {row.install}"
            yield Problem(row.option.partition("=")[0], text, "software.lacks")
