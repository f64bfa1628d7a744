"""Megatron-core's training loop on a machine without a GPU: processes that talk over gloo.

Megatron takes CUDA for granted in a few dozen places. ``install`` redirects those to the CPU and nothing else:
parallel groups, schedules, gradient buffers, optimizers and checkpoints stay Megatron's own. It is used only where
there is no GPU, and holds nothing that a GPU needs as well: what the wheel lacks is in ``wheel`` and
``pytorch_optimizer``, which both ways go through.
What was substituted is said in ``SUBSTITUTIONS``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from meshwright.train import cuda_on_cpu
from meshwright.train.cpu_collectives import gather, reduce_scatter
from meshwright.train.cpu_layers import CpuAttention, CpuNorm
from meshwright.train.cuda_on_cpu import constant, put

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
    "--no-bias-dropout-fusion",
)


def flags(words: Sequence[str]) -> list[str]:
    """The command line without kernels that only GPUs have."""
    return [*(word for word in words if word not in _GPU_ONLY), *_PLAIN]


def install() -> None:
    """Redirect CUDA to the CPU in this process, for good. Call it before anything of Megatron is built."""
    assert not torch.cuda.is_available()
    cuda_on_cpu.install()
    _random_numbers()
    _recompute()
    _collectives()
    _experts()
    _biases_of_experts()
    _layers()
    _pipeline()
    _loop()
    _checkpoints()
    _fsdp()
    cuda_on_cpu.CudaToCpu().__enter__()  # type: ignore[no-untyped-call]


def _random_numbers() -> None:
    """The CPU's generator is the device's generator."""
    from megatron.core.tensor_parallel import random

    put(torch.cuda, manual_seed=torch.manual_seed, manual_seed_all=constant(None))
    put(torch.cuda, get_rng_state=lambda *_: torch.get_rng_state(), set_rng_state=lambda s, *_: torch.set_rng_state(s))
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


def _collectives() -> None:
    from megatron.core.tensor_parallel import mappings

    put(
        mappings,
        _gather_along_first_dim=gather(mappings._gather_along_first_dim),
        _reduce_scatter_along_first_dim=reduce_scatter(mappings._reduce_scatter_along_first_dim),
    )


def _experts() -> None:
    """Split sizes leave the GPU as NumPy arrays; a CPU tensor would be passed on as it is, which gloo refuses.

    Transformer Engine's layer that every rank holds whole projects before and behind experts.
    """
    from megatron.core.transformer.moe import moe_layer, token_dispatcher

    from meshwright.train.whole import Whole

    moe_layer.HAVE_TE, moe_layer.TELinear = True, Whole
    token_dispatcher.maybe_move_tensor_to_cpu = lambda tensor, as_numpy=False, record_stream=False: (
        tensor.detach().numpy() if as_numpy and torch.is_tensor(tensor) else tensor
    )


def _biases_of_experts() -> None:
    """An expert's bias is added in place, to a view where no group reduces it (core/transformer/mlp.py:354).

    Its gradient is its own: Transformer Engine's experts are told of one tensor-parallel rank
    (core/extensions/transformer_engine.py:2191), while the plain layer has it summed over ranks with other experts.
    """
    from megatron.core.tensor_parallel.layers import RowParallelLinear

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

    schedules.deallocate_output_tensor = constant(None)
    schedules.custom_backward = lambda output, gradient: torch.autograd.backward(output, grad_tensors=gradient)


def _loop() -> None:
    """Warming up fused kernels draws random numbers, as many as the layout asks: the weights would depend on it."""
    from megatron.training import training

    training.set_jit_fusion_options = constant(None)


def _checkpoints() -> None:
    """The queue of checkpoint writers, forked now: on first use a new Python would import everything again."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import get_write_results_queue

    get_write_results_queue("fork")


def _fsdp() -> None:
    from megatron.core import parallel_state
    from torch.distributed.device_mesh import DeviceMesh

    parallel_state.get_nccl_options = constant(None)
    from_group = DeviceMesh.from_group
    DeviceMesh.from_group = staticmethod(  # type: ignore[method-assign]
        lambda group, device_type, *a, **k: from_group(group, "cpu", *a, **k)
    )
