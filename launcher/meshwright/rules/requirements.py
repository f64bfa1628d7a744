"""What the nodes must have beside the backend itself: one row a component that an option needs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from meshwright.spec import Spec

__all__ = ["REQUIREMENTS", "Requirement", "needed"]


@dataclass(frozen=True)
class Requirement:
    """``probe`` is a module that must be found or a program on the PATH: ``module:NAME``, ``program:NAME``."""

    component: str
    probe: str
    option: str  # what asks for it, as a user says it
    asked: Callable[[Spec], bool]
    install: str
    instead: str  # the change that does without it
    source: str
    rocm: str | None = None  # how to get it on AMD's GPUs; None: it is not made for them
    only: str | None = None  # the one platform that needs it


def _megatron(asked: Callable[[Spec], bool]) -> Callable[[Spec], bool]:
    return lambda spec: spec.backend.name == "megatron" and asked(spec)


def _deepspeed(asked: Callable[[Spec], bool]) -> Callable[[Spec], bool]:
    return lambda spec: spec.backend.name == "deepspeed" and asked(spec)


def _fused_gradients(spec: Spec) -> bool:
    """With either kind of FSDP the flag is turned off again (emit.megatron)."""
    return spec.backend.megatron.gradient_accumulation_fusion and spec.parallelism.zero < 2


def _compiled_adam(spec: Spec) -> bool:
    """DeepSpeed's own Adam, which is compiled on first use, on the GPU as on the CPU."""
    return spec.training.optimizer.name in ("adam", "adamw") and not spec.backend.deepspeed.torch_adam


_TE = "pip install --no-build-isolation 'transformer-engine[pytorch]'"
_ROCM_TE = "build ROCm/TransformerEngine"
_FLASH = "pip install --no-build-isolation flash-attn"

REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement(
        "Transformer Engine",
        "module:transformer_engine",
        "backend.megatron.transformer=transformer_engine",
        _megatron(lambda spec: spec.backend.megatron.transformer == "transformer_engine"),
        _TE,
        "backend.megatron.transformer=local",
        "megatron-core 0.19.2, core/models/gpt/gpt_layer_specs.py",
        rocm=_ROCM_TE,
    ),
    Requirement(
        "Transformer Engine",
        "module:transformer_engine",
        "training.precision=fp8_*",
        _megatron(lambda spec: spec.training.precision not in ("fp32", "fp16", "bf16")),
        _TE,
        "training.precision=bf16",
        "megatron-core 0.19.2, core/fp8_utils.py",
        rocm=_ROCM_TE,
    ),
    Requirement(
        "Transformer Engine",
        "module:transformer_engine",
        "backend.megatron.precision_aware_optimizer=true",
        _megatron(lambda spec: spec.backend.megatron.precision_aware_optimizer),
        _TE,
        "backend.megatron.precision_aware_optimizer=false",
        "megatron-core 0.19.2, core/optimizer/optimizer_config.py:430",
        rocm=_ROCM_TE,
    ),
    Requirement(
        "APEX",
        "module:fused_weight_gradient_mlp_cuda",
        "backend.megatron.gradient_accumulation_fusion=true",
        _megatron(_fused_gradients),
        "build NVIDIA/apex with --cpp_ext --cuda_ext, or use NVIDIA's PyTorch container",
        "backend.megatron.gradient_accumulation_fusion=false",
        "megatron-core 0.19.2, core/tensor_parallel/layers.py:1070",
        rocm="build ROCm/apex with --cpp_ext --cuda_ext",
    ),
    Requirement(
        "DeepEP",
        "module:deep_ep",
        "backend.megatron.moe_dispatcher=flex",
        _megatron(lambda spec: spec.model.moe is not None and spec.backend.megatron.moe_dispatcher == "flex"),
        "build deepseek-ai/DeepEP",
        "backend.megatron.moe_dispatcher=alltoall",
        "megatron-core 0.19.2, core/transformer/moe/fused_a2a.py",
    ),
    Requirement(
        "Emerging-Optimizers",
        "module:emerging_optimizers",
        "training.optimizer.name=muon",
        _megatron(lambda spec: spec.training.optimizer.name == "muon"),
        "pip install 'emerging-optimizers>=0.2'",
        "training.optimizer.name=adamw",
        "megatron-core 0.19.2, core/optimizer/__init__.py:43",
        rocm="pip install 'emerging-optimizers>=0.2'",
    ),
    Requirement(
        "flash-attn",
        "module:flash_attn",
        "backend.deepspeed.attention=flash_attention_2",
        _deepspeed(lambda spec: spec.backend.deepspeed.attention == "flash_attention_2"),
        _FLASH,
        "backend.deepspeed.attention=sdpa",
        "transformers 5, utils/import_utils.py is_flash_attn_2_available",
        rocm="build Dao-AILab/flash-attention on ROCm (its README, AMD ROCm Support)",
    ),
    Requirement(
        "flash-attn 3",
        "module:flash_attn_interface",
        "backend.deepspeed.attention=flash_attention_3",
        _deepspeed(lambda spec: spec.backend.deepspeed.attention == "flash_attention_3"),
        "build Dao-AILab/flash-attention's hopper folder",
        "backend.deepspeed.attention=sdpa",
        "transformers 5, utils/import_utils.py is_flash_attn_3_available",
    ),
    Requirement(
        "nvcc",
        "program:nvcc",
        "DeepSpeed's Adam, compiled on first use (30 to 50 s; TORCH_CUDA_ARCH_LIST may not hold 9.0a)",
        _deepspeed(_compiled_adam),
        "the CUDA toolkit of PyTorch's CUDA version",
        "backend.deepspeed.torch_adam=true",
        "DeepSpeed 0.19.8, op_builder/builder.py",
        only="cuda",
    ),
    Requirement(
        "hipcc",
        "program:hipcc",
        "DeepSpeed's Adam, compiled on first use",
        _deepspeed(_compiled_adam),
        "ROCm's development packages",
        "backend.deepspeed.torch_adam=true",
        "DeepSpeed 0.19.8, op_builder/builder.py",
        rocm="ROCm's development packages",
        only="rocm",
    ),
    Requirement(
        "ninja",
        "program:ninja",
        "DeepSpeed's Adam, compiled on first use",
        _deepspeed(_compiled_adam),
        "pip install ninja",
        "backend.deepspeed.torch_adam=true",
        "DeepSpeed 0.19.8, op_builder/builder.py",
        rocm="pip install ninja",
    ),
)


def needed(spec: Spec) -> tuple[Requirement, ...]:
    """What this run's nodes must have; nothing where they have no GPUs, since nothing of it runs there.

    On AMD's GPUs each row says how to get it there.
    """
    platform = spec.cluster.accelerator.platform
    if platform == "cpu":
        return ()
    rows = tuple(row for row in REQUIREMENTS if row.only in (None, platform) and row.asked(spec))
    return tuple(map(_on_rocm, rows)) if platform == "rocm" else rows


def _on_rocm(row: Requirement) -> Requirement:
    return replace(row, install=row.rocm or "do without: it is not made for AMD's GPUs")
