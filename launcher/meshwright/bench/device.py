"""One device measured: matrix products, attention, memory, a kernel and its host time, the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn import functional

from meshwright.bench.clock import host_seconds, seconds
from meshwright.bench.measurement import Measurement, Rate
from meshwright.bench.shapes import Attention, Product
from meshwright.spec import Accelerator

__all__ = ["Task", "tasks"]

BUDGET_S = 0.4  # for each measurement on a GPU
SMALL_BUDGET_S = 0.05
MIB = 2**20
Task = tuple[str, Callable[[], Measurement]]


def tasks(shapes: tuple[Product, ...], one: Attention, gpu: Accelerator) -> Iterator[Task]:
    """(what it is, how to measure it) in the order in which they are shown."""
    for shape in shapes:
        yield shape.name, partial(_product, shape, gpu)
        if torch.cuda.is_available() and gpu.fp8_tflops and _takes_fp8(shape):
            yield f"{shape.name}, fp8", partial(_product8, shape, gpu)
    yield "attention", partial(_attention, one, gpu)
    for mib in (256, 1024) if torch.cuda.is_available() else (16, 64):
        yield f"memory, {mib} MiB", partial(_memory, mib * MIB, gpu)
    yield "a kernel", _kernel
    yield "an operation's host time", _operation
    yield "the optimizer's step", partial(_optimizer, gpu)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _budget() -> float:
    return BUDGET_S if torch.cuda.is_available() else SMALL_BUDGET_S


def _dtype() -> torch.dtype:
    """What layers compute in: a CPU multiplies fp32 fastest."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def _units(gpu: Accelerator) -> Rate:
    on_gpu = torch.cuda.is_available()
    return Rate("bf16" if on_gpu else "fp32", (gpu.bf16_tflops if on_gpu else gpu.fp32_tflops) * 1e12)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=_device(), dtype=_dtype())


def _bandwidth(gpu: Accelerator) -> Rate:
    return Rate("memory", gpu.memory_bandwidth_gb_s * 1e9)


def _shown(p: Product) -> str:
    return f"{p.count} x " * (p.count > 1) + f"{p.m:,} x {p.n:,} x {p.k:,}"


def _product(p: Product, gpu: Accelerator) -> Measurement:
    left, right = _random(p.count, p.m, p.k), _random(p.count, p.n, p.k).transpose(1, 2)
    call = partial(torch.matmul, left[0], right[0]) if p.count == 1 else partial(torch.bmm, left, right)
    took = seconds(call, _budget())
    return Measurement("product", p.name, _shown(p), took, p.flops, p.moved(left.element_size()), _units(gpu))


def _takes_fp8(p: Product) -> bool:
    """torch._scaled_mm takes single products of multiples of 16, from compute capability 8.9 on."""
    able = torch.cuda.get_device_capability() >= (8, 9)
    return able and p.count == 1 and not any(side % 16 for side in (p.m, p.n, p.k))


def _product8(p: Product, gpu: Accelerator) -> Measurement:
    left = _random(p.m, p.k).to(torch.float8_e4m3fn)
    right = _random(p.n, p.k).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device="cuda")
    call = partial(torch._scaled_mm, left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    took = seconds(call, _budget())
    assert gpu.fp8_tflops is not None
    moved = p.moved(1) + p.m * p.n  # it writes 16 bits
    return Measurement("product", f"{p.name}, fp8", _shown(p), took, p.flops, moved, Rate("fp8", gpu.fp8_tflops * 1e12))


def _attention(one: Attention, gpu: Accelerator) -> Measurement:
    query = _random(one.batch, one.heads, one.sequence, one.head_dim)
    key, value = (_random(one.batch, one.kv_heads, one.sequence, one.head_dim) for _ in range(2))
    grouped = one.heads != one.kv_heads
    call = partial(functional.scaled_dot_product_attention, query, key, value, is_causal=True, enable_gqa=grouped)
    size = f"{one.batch} x {one.sequence:,}, {one.heads} heads of {one.head_dim}"
    moved = 2.0 * query.nbytes + key.nbytes + value.nbytes
    return Measurement("attention", "attention", size, seconds(call, _budget()), one.flops, moved, _units(gpu))


def _memory(size: int, gpu: Accelerator) -> Measurement:
    """A copy reads and writes every byte."""
    source = torch.empty(size, dtype=torch.uint8, device=_device())
    took = seconds(partial(torch.empty_like(source).copy_, source), _budget())
    return Measurement("memory", "copy", f"{size // MIB} MiB", took, 2.0 * size, roof=_bandwidth(gpu))


def _kernel() -> Measurement:
    """The device's time of a kernel that does next to nothing: in a graph, where the host does not hold it up."""
    tiny = torch.zeros(256, device=_device())
    if not torch.cuda.is_available():
        return Measurement("kernel", "tiny kernel", "256 elements", seconds(partial(tiny.add_, 1.0), _budget()))
    graph, count = torch.cuda.CUDAGraph(), 100
    tiny.add_(1.0)
    with torch.cuda.graph(graph):
        for _ in range(count):
            tiny.add_(1.0)
    return Measurement("kernel", "tiny kernel", "256 elements", seconds(graph.replay, _budget()) / count)


def _operation() -> Measurement:
    """The host's time of a module's forward that keeps what its backward needs."""
    layer = torch.nn.Linear(64, 64, device=_device(), dtype=_dtype())
    row = _random(16, 64).requires_grad_()
    return Measurement("operation", "host, a module's forward", "Linear", host_seconds(partial(layer, row)))


def _optimizer(gpu: Accelerator) -> Measurement:
    """Adam reads a gradient and three fp32 states and writes these: 28 bytes a parameter."""
    count = 128 * MIB if torch.cuda.is_available() else MIB
    weight = torch.nn.Parameter(torch.zeros(count, device=_device()))
    weight.grad = torch.ones_like(weight)
    adam = torch.optim.AdamW([weight], fused=True)
    took = seconds(adam.step, _budget())
    return Measurement("optimizer", "Adam", f"{count // MIB} Mi parameters", took, 28.0 * count, roof=_bandwidth(gpu))
