"""Bytes of a score that unfused attention keeps, and that are there at once: ``python attention_at_once.py``.

A JSON ``{whose: [kept, at most]}`` is printed, of Megatron's module and transformers', in bf16 on a CPU. Megatron's
buffer is among both. Its softmax is one of several kernels there.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import Any

import torch

from meshwright.bench.layer import _cpu

_cpu()

from megatron.core import parallel_state, tensor_parallel  # noqa: E402
from megatron.core.transformer.dot_product_attention import DotProductAttention  # noqa: E402
from megatron.core.transformer.enums import AttnMaskType  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers.models.llama.modeling_llama import eager_attention_forward  # noqa: E402

BATCH, HEADS, SEQUENCE, CHANNELS = 2, 4, 256, 8
SCORES = BATCH * HEADS * SEQUENCE**2


class Storages(TorchDispatchMode):
    """Bytes of storages of at least a byte a score that operations made and that are still there; the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[int] = set()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, Tensor):
                self._seen(tensor.untyped_storage())
        return given

    def _seen(self, storage: Any) -> None:
        size, address = storage.nbytes(), storage._cdata
        if size < SCORES or address in self.there:
            return
        self.there.add(address)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self.there.discard(address)
        self.now -= size


def at_once(run: Callable[[], Tensor]) -> tuple[float, float]:
    """What is there between forward and backward, and at most."""
    with Storages() as storages:
        given = run()
        kept = storages.now
        given.sum().backward()
    return kept / SCORES, storages.most / SCORES


def leaves(*shape: int) -> list[Tensor]:
    return [torch.randn(*shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]


def megatron() -> tuple[float, float]:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * CHANNELS,
        num_attention_heads=HEADS,
        bf16=True,
        attention_dropout=0.0,
        attention_softmax_in_fp32=False,
        sequence_parallel=False,
    )
    attention = DotProductAttention(config, 1, AttnMaskType.causal, "self")
    mask = torch.triu(torch.ones(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bool), 1)
    return at_once(lambda: attention(*leaves(SEQUENCE, BATCH, HEADS, CHANNELS), mask))


def transformers() -> tuple[float, float]:
    module = torch.nn.Module()
    module.num_key_value_groups = 1  # type: ignore[assignment]
    mask = torch.zeros(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bfloat16)
    given = leaves(BATCH, HEADS, SEQUENCE, CHANNELS)
    return at_once(lambda: eager_attention_forward(module, *given, mask, CHANNELS**-0.5)[0])


if __name__ == "__main__":
    print(json.dumps({"transformers": transformers(), "megatron": megatron()}))
