"""Megatron-core's training loop on a machine without a GPU: processes that talk over gloo.

Megatron takes CUDA for granted in a few dozen places. ``install`` redirects those to the CPU and nothing else:
parallel groups, schedules, gradient buffers, optimizers and checkpoints stay Megatron's own. It is used only where
there is no GPU, and holds nothing that a GPU needs as well: what the wheel lacks is in ``wheel`` and
``pytorch_optimizer``, which both ways go through.
What was substituted is said in ``SUBSTITUTIONS``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from meshwright.train.cpu_collectives import gather, reduce_scatter
from meshwright.train.cpu_layers import CpuAttention, CpuNorm

__all__ = ["SUBSTITUTIONS", "flags", "install"]

SUBSTITUTIONS = (
    "devices and streams: the CPU stands in for CUDA",
    "collectives: gloo; uneven all-gathers are padded, uneven reduce-scatters are all-reduces",
    "attention: PyTorch's, keys and values all-gathered over context parallelism",
    "norms: PyTorch's",
    "scans of Mamba and delta nets: PyTorch's, a short sequence at once",
    "fused kernels: off",
)

_GPU_ONLY = frozenset(
    (
        "--moe-grouped-gemm",
        "--moe-permute-fusion",
        "--cross-entropy-loss-fusion",
        "--tp-comm-overlap",
        "--log-throughput",
        "--log-straggler",  # by CUDA's events and the driver's temperatures
        "--async-save",  # its worker takes a GPU for granted (core/dist_checkpointing/strategies/async_utils.py:565)
        "--use-persistent-ckpt-worker",
    )
)
_PLAIN = (
    *("--transformer-impl", "local", "--attention-backend", "unfused", "--distributed-backend", "gloo"),
    *("--use-cpu-initialization", "--attention-softmax-in-fp32"),
    *("--no-gradient-accumulation-fusion", "--no-rope-fusion", "--no-masked-softmax-fusion", "--no-persist-layer-norm"),
    *("--no-bias-dropout-fusion", "--no-create-attention-mask-in-dataloader"),
)


def flags(words: Sequence[str]) -> list[str]:
    """The command line without kernels that only GPUs have."""
    return [*(word for word in words if word not in _GPU_ONLY), *_PLAIN]


def install() -> None:
    """Redirect CUDA to the CPU in this process, for good. Call it before anything of Megatron is built."""
    assert not torch.cuda.is_available()
    _devices()
    _streams()
    _random_numbers()
    _recompute()
    _tensors()
    _collectives()
    _experts()
    _layers()
    _pipeline()
    _loop()
    _checkpoints()
    _fsdp()
    CudaToCpu().__enter__()  # type: ignore[no-untyped-call]


class CudaToCpu(torch.overrides.TorchFunctionMode):
    """Puts on the CPU what asks for CUDA, and lets tensors pass for CUDA tensors where Megatron sorts by type."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of torch."""
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # "torch.cuda.FloatTensor": optimizer.py, distrib_optimizer.py and clip_grads.py sort parameters by it
            return str(func(*args)).replace("torch.", "torch.cuda.", 1)
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return type(device) is int or getattr(device, "type", device) == "cuda" or str(device).startswith("cuda:")


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _set(module: Any, **names: Any) -> None:
    for name, value in names.items():
        setattr(module, name, value)


def _devices() -> None:
    properties = SimpleNamespace(major=10, minor=0, total_memory=80 << 30, name="cpu", multi_processor_count=1)
    _set(
        torch.cuda,
        is_available=_constant(True),
        device_count=_constant(8),
        current_device=_constant(torch.device("cpu")),
        get_device_capability=_constant((10, 0)),
        get_device_properties=_constant(properties),
        memory_stats=_constant({}),
    )
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(torch.cuda, name, _constant(0))
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "ipc_collect"):
        setattr(torch.cuda, name, _constant(None))  # one function of several names is one too many for torch.compile


class _Stream:
    """A stream or an event: work on a CPU is done when the call returns."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {"query": True, "elapsed_time": 0.0, "record_event": self}
        return _constant(answers.get(name))


def _streams() -> None:
    only = _Stream()
    _set(
        torch.cuda,
        Stream=_Stream,
        Event=_Stream,
        current_stream=_constant(only),
        default_stream=_constant(only),
        set_stream=_constant(None),
        stream=lambda _: contextlib.nullcontext(),
    )
    torch.Tensor.record_stream = _constant(None)  # type: ignore[method-assign]


def _random_numbers() -> None:
    """The CPU's generator is the device's generator."""
    from megatron.core.tensor_parallel import random

    _set(torch.cuda, manual_seed=torch.manual_seed, manual_seed_all=_constant(None))
    _set(torch.cuda, get_rng_state=lambda *_: torch.get_rng_state(), set_rng_state=lambda s, *_: torch.set_rng_state(s))
    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    # forking its state warns when the CPU's generator moved, which here it must
    logging.getLogger(random.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())


def _recompute() -> None:
    """Recomputing a part of a layer takes ``fp8=False`` for fp8 (random.py:748) and then needs Transformer Engine."""
    from megatron.core.tensor_parallel.random import CheckpointWithoutOutput

    start = CheckpointWithoutOutput.__init__

    def without_fp8(self: Any, fp8: Any = False) -> None:
        start(self, fp8)
        self.fp8 = False

    CheckpointWithoutOutput.__init__ = without_fp8


def _tensors() -> None:
    torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    for kind in ("FloatTensor", "IntTensor", "LongTensor", "DoubleTensor", "ByteTensor"):
        setattr(torch.cuda, kind, getattr(torch, kind))
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        if hasattr(torch.optim.Optimizer, check):
            setattr(torch.optim.Optimizer, check, _constant(None))
    from torch.utils.data import DataLoader

    load = DataLoader.__init__
    DataLoader.__init__ = lambda *a, **k: load(*a, **{**k, "pin_memory": False})  # type: ignore[method-assign]


def _collectives() -> None:
    from megatron.core.tensor_parallel import mappings

    _set(
        mappings,
        _gather_along_first_dim=gather(mappings._gather_along_first_dim),
        _reduce_scatter_along_first_dim=reduce_scatter(mappings._reduce_scatter_along_first_dim),
    )


def _experts() -> None:
    """Split sizes leave the GPU as NumPy arrays; a CPU tensor would be passed on as it is, which gloo refuses.

    An expert's bias is added in place, to a view where no group reduces it (core/transformer/mlp.py:354). Its gradient
    is its own: Transformer Engine's experts are told of one tensor-parallel rank
    (core/extensions/transformer_engine.py:2191), while the plain layer has it summed over ranks with other experts.
    """
    from megatron.core.tensor_parallel.layers import RowParallelLinear
    from megatron.core.transformer.moe import moe_layer, token_dispatcher

    from meshwright.train.whole import Whole

    moe_layer.HAVE_TE, moe_layer.TELinear = True, Whole  # projections before and behind experts

    made, forward = RowParallelLinear.__init__, RowParallelLinear.forward

    def of_one_expert(self: Any, *words: Any, **named: Any) -> None:
        made(self, *words, **named)
        if self.is_expert and self.bias is not None:
            self.bias.sequence_parallel = False

    def writable(self: Any, x: torch.Tensor) -> Any:
        output, bias = forward(self, x)
        return (output if bias is None else output.clone()), bias

    RowParallelLinear.__init__ = of_one_expert
    RowParallelLinear.forward = writable
    token_dispatcher.maybe_move_tensor_to_cpu = lambda tensor, as_numpy=False, record_stream=False: (
        tensor.detach().numpy() if as_numpy and torch.is_tensor(tensor) else tensor
    )


def _layers() -> None:
    from megatron.core.models import backends
    from megatron.core.models.gpt import gpt_layer_specs
    from megatron.core.transformer import transformer_block
    from megatron.training.models import hybrid

    from meshwright.train import local_attention, local_layers, local_scans
    from meshwright.train.whole import Whole

    backends.LocalSpecProvider.layer_norm = lambda *_, **__: CpuNorm
    backends.LocalSpecProvider.core_attention = lambda _: CpuAttention
    gpt_layer_specs.LNImpl = CpuNorm
    transformer_block.LayerNormImpl = CpuNorm
    hybrid.default_hybrid_stack_spec = local_layers.hybrid_stack(CpuNorm, CpuAttention, Whole)
    local_layers.install_variants(CpuNorm, CpuAttention, Whole)
    local_attention.install_compression()
    local_scans.install()


def _pipeline() -> None:
    """A stage's output stays whole: gloo still sends from it when Megatron would free it."""
    from megatron.core.pipeline_parallel import schedules

    schedules.deallocate_output_tensor = _constant(None)
    schedules.custom_backward = lambda output, gradient: torch.autograd.backward(output, grad_tensors=gradient)


def _loop() -> None:
    """Warming up fused kernels draws random numbers, as many as the layout asks: the weights would depend on it."""
    from megatron.training import training

    training.set_jit_fusion_options = _constant(None)


def _checkpoints() -> None:
    """The queue of checkpoint writers, forked now: on first use a new Python would import everything again."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import get_write_results_queue

    get_write_results_queue("fork")


def _fsdp() -> None:
    from megatron.core import parallel_state
    from torch.distributed.device_mesh import DeviceMesh

    parallel_state.get_nccl_options = _constant(None)
    from_group = DeviceMesh.from_group
    DeviceMesh.from_group = staticmethod(  # type: ignore[method-assign]
        lambda group, device_type, *a, **k: from_group(group, "cpu", *a, **k)
    )
