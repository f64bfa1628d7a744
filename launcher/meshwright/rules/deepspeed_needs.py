"""What DeepSpeed's options need on the nodes. Places: DeepSpeed 0.19.8 and transformers 5."""

from __future__ import annotations

from meshwright.rules._requirement import Requirement
from meshwright.spec import Spec

__all__ = ["NEEDS"]


def _compiled_adam(spec: Spec) -> bool:
    """DeepSpeed's own Adam, which is compiled on first use, on the GPU as on the CPU."""
    return spec.training.optimizer.name in ("adam", "adamw") and not spec.backend.deepspeed.torch_adam


def _compiled_lion(spec: Spec) -> bool:
    """The same of its Lion, which has no other version."""
    return spec.training.optimizer.name == "lion"


_COMPILED = (
    (_compiled_adam, "backend.deepspeed.torch_adam=false", "backend.deepspeed.torch_adam=true"),
    (_compiled_lion, "training.optimizer.name=lion", "training.optimizer.name=adamw"),
)


def _offloads(spec: Spec) -> bool:
    """DeepSpeed's Adam for the CPU, compiled on first use, too."""
    return spec.backend.deepspeed.offload_optimizer.device != "none"


def _deepep(spec: Spec) -> bool:
    """AutoEP by DeepEP's second version, whose buffers NCCL's own kernels fill."""
    return spec.backend.deepspeed.moe_dispatcher == "deepep"


NEEDS: tuple[Requirement, ...] = (
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
            option=option,
            asked=asked,
            install=install,
            instead=instead,
            source="DeepSpeed 0.19.8, op_builder/builder.py",
            note="compiled on first use, 30 to 50 s; the variable TORCH_CUDA_ARCH_LIST may not hold 9.0a",
        )
        for asked, option, instead in _COMPILED
        for component, install in (
            ("nvcc", "the CUDA toolkit of PyTorch's CUDA version"),
            ("ninja", "pip install ninja"),
        )
    ),
    Requirement(
        component="deep_ep",
        backend="deepspeed",
        option="backend.deepspeed.moe_dispatcher=deepep",
        asked=_deepep,
        install="build deepseek-ai/DeepEP",
        instead="backend.deepspeed.moe_dispatcher=alltoall",
        source="DeepSpeed 0.19.8, module_inject/auto_ep_comm.py",
    ),
    Requirement(
        component="nccl",
        backend="deepspeed",
        option="backend.deepspeed.moe_dispatcher=deepep",
        asked=_deepep,
        install="install nvidia-nccl-cu13 of at least 2.30.4",
        instead="backend.deepspeed.moe_dispatcher=alltoall",
        source="DeepSpeed 0.19.8, module_inject/auto_ep_comm.py:39",
        least="2.30.4",
    ),
    Requirement(
        component="nvcc",
        backend="deepspeed",
        option="backend.deepspeed.deep_compile.enabled=true",
        asked=lambda spec: spec.backend.deepspeed.deep_compile.enabled,
        install="the CUDA toolkit of PyTorch's CUDA version",
        instead="backend.deepspeed.deep_compile.enabled=false",
        source="DeepSpeed 0.19.8, op_builder/dc.py: its passes call compiled operations",
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
