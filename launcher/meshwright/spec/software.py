"""What is installed on the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from meshwright.spec.frozen import dataclass

__all__ = ["COMPONENTS", "HERE", "Component", "Software"]

HERE = "here"  # stands for a version where there is one that does not say which


@dataclass(frozen=True)
class Component:
    """How a component is recognised: by a module, else by a program, else by a package or by what its image says."""

    name: str  # as people call it
    module: str = ""
    program: str = ""
    distributions: tuple[str, ...] = ()
    variable: str = ""  # of NVIDIA's images, which build some of these from source


COMPONENTS: Mapping[str, Component] = {
    "torch": Component("PyTorch", distributions=("torch",)),
    "cuda": Component("CUDA", variable="CUDA_VERSION"),
    "driver": Component("NVIDIA's driver"),
    "nccl": Component("NCCL", distributions=("nvidia-nccl-cu13", "nvidia-nccl-cu12"), variable="NCCL_VERSION"),
    "cudnn": Component("cuDNN", distributions=("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"), variable="CUDNN_VERSION"),
    "transformer_engine": Component("Transformer Engine", "transformer_engine", "", ("transformer-engine",)),
    "apex": Component("APEX", "fused_weight_gradient_mlp_cuda", "", ("apex",)),
    "flash_attn": Component("flash-attn", "flash_attn", "", ("flash-attn",)),
    "flash_attn_3": Component("flash-attn 3", "flash_attn_interface", "", ("flash-attn-3",)),
    "deep_ep": Component("DeepEP", "deep_ep", "", ("deep-ep",)),
    "tilelang": Component("TileLang", "tilelang", "", ("tilelang",)),
    "flash_mla": Component("FlashMLA", "flash_mla", "", ("flash-mla", "flash_mla")),
    "emerging_optimizers": Component("Emerging-Optimizers", "emerging_optimizers", "", ("emerging-optimizers",)),
    "nvml": Component("nvidia-ml-py", "pynvml", "", ("nvidia-ml-py",)),
    "resiliency": Component("nvidia-resiliency-ext", "nvidia_resiliency_ext", "", ("nvidia-resiliency-ext",)),
    "nvcc": Component("nvcc", program="nvcc"),
    "hipcc": Component("hipcc", program="hipcc"),
    "ninja": Component("ninja", program="ninja", distributions=("ninja",)),
    "megatron_core": Component("megatron-core", distributions=("megatron-core",)),
    "deepspeed": Component("DeepSpeed", distributions=("deepspeed",)),
    "transformers": Component("transformers", distributions=("transformers",)),
}


@dataclass(frozen=True, kw_only=True)
class Software:
    """Versions by component (of ``COMPONENTS``): None where it is absent, unlisted where nobody says."""

    name: str = "unknown"
    components: Mapping[str, str | None] = field(default_factory=dict)
    source: str = ""

    def has(self, component: str) -> bool | None:
        """Whether it is there; None where that is not known."""
        return self.components[component] is not None if component in self.components else None
