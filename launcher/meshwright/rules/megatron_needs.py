"""What Megatron's options need on the nodes. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.rules._requirement import Requirement
from meshwright.spec import Spec
from meshwright.spec.training import MATRIX_OPTIMIZERS

__all__ = ["NEEDS"]

_TE = "pip install --no-build-isolation 'transformer-engine[pytorch]'"
_B = "backend.megatron."


def _row(
    component: str,
    option: str,
    asked: Callable[[Spec], bool],
    instead: str,
    source: str,
    install: str,
    least: str | None = None,
) -> Requirement:
    return Requirement(
        component=component,
        backend="megatron",
        option=option,
        asked=asked,
        install=install,
        instead=instead,
        source=f"megatron-core 0.19.2, {source}",
        least=least,
    )


def _engine(
    option: str,
    asked: Callable[[Spec], bool],
    instead: str,
    source: str,
    least: str | None = None,
    install: str = _TE,
) -> Requirement:
    """Transformer Engine, from version ``least`` on."""
    return _row("transformer_engine", option, asked, instead, source, install, least)


def _precision(*recipes: str) -> Callable[[Spec], bool]:
    return lambda spec: spec.training.precision in recipes


def _steps_by(optimizer: str) -> Callable[[Spec], bool]:
    return lambda spec: spec.training.optimizer.name == optimizer


def _fused_gradients(spec: Spec) -> bool:
    """With either kind of FSDP the flag is turned off again (emit.megatron)."""
    return spec.backend.megatron.gradient_accumulation_fusion and spec.parallelism.zero < 2


def _experts(spec: Spec, option: str) -> bool:
    return spec.model.moe is not None and bool(getattr(spec.backend.megatron, option))


def _offloads_captured(spec: Spec) -> bool:
    options = spec.backend.megatron
    inside = {"core_attn", "attn_proj", "qkv_linear"} & set(options.activation_offload.modules)
    return bool(inside) and options.cuda_graphs.kind == "transformer_engine" and "attn" in options.cuda_graphs.modules


def _flex(spec: Spec, backend: str) -> bool:
    options = spec.backend.megatron
    return spec.model.moe is not None and options.moe_dispatcher == "flex" and options.moe_flex_backend == backend


def _reports_stragglers(spec: Spec) -> bool:
    """Megatron's report reads each GPU's temperature and clock; on AMD's by another way (amdsmi, which ROCm has)."""
    asked = "--log-straggler" in spec.backend.megatron.extra
    return asked and spec.cluster.accelerator.platform == "cuda"


_PRECISIONS = (
    ("fp8_delayed", None),
    ("fp8_tensorwise", "2.2.0"),
    ("fp8_blockwise", "2.3.0"),
    ("mxfp8", "2.1.0"),
    ("nvfp4", "2.7.0"),
)

NEEDS: tuple[Requirement, ...] = (
    _engine(
        f"{_B}transformer=transformer_engine",
        lambda spec: spec.backend.megatron.transformer == "transformer_engine",
        f"{_B}transformer=local",
        "core/models/gpt/gpt_layer_specs.py",
    ),
    _engine(
        "parallelism.gtp=2",
        lambda spec: spec.parallelism.gtp > 1 or spec.parallelism.egtp > 1,
        "parallelism.gtp=1 parallelism.egtp=1",
        "core/tensor_parallel/generalized_tensor_parallelism.py:44; training/initialize.py:365",
        "2.19.0",
    ),
    *(
        _engine(
            f"training.precision={precision}",
            _precision(precision),
            "training.precision=bf16",
            "core/fp8_utils.py:732",
            least,
        )
        for precision, least in _PRECISIONS
    ),
    _engine(
        f"{_B}precision_aware_optimizer=true",
        lambda spec: spec.backend.megatron.precision_aware_optimizer,
        f"{_B}precision_aware_optimizer=false",
        "core/optimizer/optimizer_config.py:430",
    ),
    _row(
        "apex",
        f"{_B}gradient_accumulation_fusion=true",
        _fused_gradients,
        f"{_B}gradient_accumulation_fusion=false",
        "core/tensor_parallel/layers.py:1070",
        "build NVIDIA/apex with --cpp_ext --cuda_ext, or use NVIDIA's PyTorch container",
    ),
    _row(
        "deep_ep",
        f"{_B}moe_dispatcher=flex",
        lambda spec: _flex(spec, "deepep") or _flex(spec, "hybridep"),
        f"{_B}moe_dispatcher=alltoall",
        "core/transformer/moe/fused_a2a.py",
        "build deepseek-ai/DeepEP",
    ),
    _engine(
        f"{_B}moe_permute_fusion=true",
        lambda spec: _experts(spec, "moe_permute_fusion"),
        f"{_B}moe_permute_fusion=false",
        "core/transformer/moe/moe_utils.py",
        "2.1.0",
    ),
    _engine(
        f"{_B}moe_flex_backend=ncclep",
        lambda spec: _flex(spec, "ncclep"),
        f"{_B}moe_flex_backend=deepep",
        "core/transformer/moe/token_dispatcher.py:1559",
        install=f"NVTE_BUILD_WITH_NCCL_EP=1 {_TE}",
    ),
    _row(
        "tilelang",
        f"{_B}dsa_kernels=tilelang",
        lambda spec: spec.backend.megatron.dsa_kernels == "tilelang",
        f"{_B}dsa_kernels=none",
        "core/utils.py:499",
        "pip install tilelang",
    ),
    _row(
        "flash_mla",
        f"{_B}dsa_kernels=cudnn",
        lambda spec: spec.backend.megatron.dsa_kernels == "cudnn",
        f"{_B}dsa_kernels=none",
        "core/utils.py:512, beside nvidia-cudnn-frontend[cutedsl]",
        "pip install --no-build-isolation git+https://github.com/deepseek-ai/FlashMLA",
    ),
    _engine(
        f"{_B}moe_router_fusion=true",
        lambda spec: _experts(spec, "moe_router_fusion"),
        f"{_B}moe_router_fusion=false",
        "core/extensions/transformer_engine.py fused_topk_with_score_function",
        "2.7.0",
    ),
    _engine(
        f"{_B}cuda_graphs.kind=transformer_engine",
        lambda spec: spec.backend.megatron.cuda_graphs.kind == "transformer_engine",
        f"{_B}cuda_graphs.kind=local",
        "core/transformer/cuda_graphs.py make_graphed_callables",
    ),
    _engine(
        f"{_B}activation_offload.modules=[core_attn,attn_proj]",
        _offloads_captured,
        f"{_B}activation_offload.modules=[]",
        "core/transformer/transformer_layer.py:1509",
        "2.14.0",
    ),
    _engine(
        f"{_B}delay_wgrad=true",
        lambda spec: spec.backend.megatron.delay_wgrad,
        f"{_B}delay_wgrad=false",
        "training/arguments.py:1825",
        "2.8.0",
    ),
    _engine(
        f"{_B}moe_router_fusion=true",
        lambda spec: (
            spec.backend.megatron.moe_router_fusion
            and spec.model.moe is not None
            and spec.model.moe.score == "sqrtsoftplus"
        ),
        f"{_B}moe_router_fusion=false",
        "core/transformer/moe/moe_utils.py:777",
        "2.13.0",
    ),
    _engine(
        f"{_B}experts.wgrad_beside_dispatch=true",
        lambda spec: spec.backend.megatron.experts.wgrad_beside_dispatch,
        f"{_B}experts.wgrad_beside_dispatch=false",
        "core/transformer/transformer_config.py:2764",
        "2.3.0",
    ),
    _engine(
        f"{_B}optimizer_offload.fraction=1",
        lambda spec: spec.backend.megatron.optimizer_offload.fraction > 0,
        f"{_B}optimizer_offload.fraction=0",
        "core/optimizer/__init__.py:511",
    ),
    _engine(
        "training.optimizer.qk_clip",
        lambda spec: spec.training.optimizer.qk_clip is not None,
        "training.optimizer.qk_clip=null",
        "training/arguments.py:1558",
        "2.9.0",
    ),
    *(
        _row(
            "emerging_optimizers",
            f"training.optimizer.name={name}",
            _steps_by(name),
            "training.optimizer.name=adamw",
            "core/optimizer/__init__.py:43",
            "pip install 'emerging-optimizers>=0.2'",
        )
        for name in MATRIX_OPTIMIZERS
    ),
    _row(
        "nvml",
        f"{_B}extra=[--log-straggler]",
        _reports_stragglers,
        f"{_B}extra=[]",
        "core/utils.py:1717 (torch.cuda.temperature)",
        "pip install nvidia-ml-py",
    ),
)
