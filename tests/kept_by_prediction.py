"""What Megatron's loss of a second predicting layer keeps: ``kept_by_prediction.py TOKENS HIDDEN VOCAB``, on a CPU.

The head is a plain product, the loss Megatron's own; bytes of fp32 and of 16 bits are printed as JSON.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy
from megatron.core.transformer.multi_token_prediction import process_mtp_loss
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore


def loss(labels: Tensor, logits: Tensor) -> Tensor:
    return vocab_parallel_cross_entropy(logits.float(), labels.transpose(0, 1).contiguous()).transpose(0, 1)


def kept(layers: int, tokens: int, hidden: int, weight: Tensor) -> dict[torch.dtype, int]:
    """Bytes of each type, of storages that are not the weight's."""
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    def head(x: Tensor, **_: Any) -> tuple[Tensor, None]:
        return torch.nn.functional.linear(x, weight), None

    x = torch.randn((1 + layers) * tokens, 1, hidden, dtype=torch.bfloat16, requires_grad=True)
    labels, mask = torch.zeros(1, tokens, dtype=torch.int64), torch.ones(1, tokens)
    options = {"mtp_num_layers": layers, "mtp_detach_heads": False, "mtp_loss_scaling_factor": 0.1}
    config = SimpleNamespace(**options, calculate_per_token_loss=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        process_mtp_loss(x, labels, mask, head, None, None, False, loss, config)
    sizes = {t.untyped_storage().data_ptr(): (t.dtype, t.untyped_storage().nbytes()) for t in held}
    sizes.pop(weight.untyped_storage().data_ptr(), None)
    wide = [(kind, size) for kind, size in sizes.values() if size > 16 * tokens]  # labels, masks and sums are narrow
    return {kind: sum(size for other, size in wide if other == kind) for kind in (torch.float32, torch.bfloat16)}


def main() -> None:
    tokens, hidden, vocab = map(int, sys.argv[1:])
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    weight = torch.nn.Parameter(torch.randn(vocab, hidden, dtype=torch.bfloat16))
    one, two = kept(1, tokens, hidden, weight), kept(2, tokens, hidden, weight)
    print(json.dumps({str(kind): two[kind] - one[kind] for kind in one}))


if __name__ == "__main__":
    main()
