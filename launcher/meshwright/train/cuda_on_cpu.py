"""``torch.cuda`` on a machine without a GPU: devices, streams, events and tensors are the CPU's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

__all__ = ["CudaToCpu", "constant", "install", "put"]


def install() -> None:
    """Redirect ``torch.cuda`` to the CPU in this process; what is called on tensors, ``CudaToCpu`` redirects."""
    _devices()
    _streams()
    _tensors()


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


def constant(value: Any) -> Callable[..., Any]:
    """A function that answers ``value``, whatever it is asked."""
    return lambda *_, **__: value


def put(module: Any, **names: Any) -> None:
    """Have ``module`` hold these under their names."""
    for name, value in names.items():
        setattr(module, name, value)


def _devices() -> None:
    properties = SimpleNamespace(major=10, minor=0, total_memory=80 << 30, name="cpu", multi_processor_count=1)
    put(
        torch.cuda,
        is_available=constant(True),
        device_count=constant(8),
        current_device=constant(torch.device("cpu")),
        get_device_capability=constant((10, 0)),
        get_device_properties=constant(properties),
        memory_stats=constant({}),
    )
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(torch.cuda, name, constant(0))
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "ipc_collect"):
        setattr(torch.cuda, name, constant(None))  # one function of several names is one too many for torch.compile


class _Stream:
    """A stream or an event: work on a CPU is done when the call returns."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {"query": True, "elapsed_time": 0.0, "record_event": self}
        return constant(answers.get(name))


def _streams() -> None:
    only = _Stream()
    put(
        torch.cuda,
        Stream=_Stream,
        Event=_Stream,
        current_stream=constant(only),
        default_stream=constant(only),
        set_stream=constant(None),
        stream=lambda _: contextlib.nullcontext(),
    )
    torch.Tensor.record_stream = constant(None)  # type: ignore[method-assign]


def _tensors() -> None:
    torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    for kind in ("FloatTensor", "IntTensor", "LongTensor", "DoubleTensor", "ByteTensor"):
        setattr(torch.cuda, kind, getattr(torch, kind))
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        if hasattr(torch.optim.Optimizer, check):
            setattr(torch.optim.Optimizer, check, constant(None))
    from torch.utils.data import DataLoader

    load = DataLoader.__init__
    DataLoader.__init__ = lambda *a, **k: load(*a, **{**k, "pin_memory": False})  # type: ignore[method-assign]
