"""PyTorch's FSDP2 in Megatron: checkpoints with the optimizer's states can be saved, and a run goes on from them.

Megatron-core 0.19.2 finds the parameter of a state by the identity of its shard: the model's are a DTensor's own tensor
(core/utils.py:1015), the optimizer's what ``to_local`` gives (core/dist_checkpointing/optimizer.py:40), which was the
same object until torch 2.13 made a Parameter of it anew (torch/distributed/tensor/_api.py): on GPUs as on CPUs the
first save ends with ``KeyError: 0``. It loads states in place, and nothing else of an optimizer
(training/checkpointing.py:2569), so that Adam's count of steps begins anew: PyTorch's ends with ``KeyError: 'step'``,
Transformer Engine's corrects moments that are old as if they were young.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["install"]


def install() -> None:
    """Let the optimizer's shards be the model's, as they are with an older torch, and count on from what is loaded."""
    from megatron.core.dist_checkpointing import optimizer
    from megatron.training import get_args, training

    optimizer.to_local_if_dtensor = _shard
    load = training.load_checkpoint

    def loaded(model: Any, optimizer: Any, *rest: Any, **named: Any) -> tuple[int, int]:
        iteration, flops = load(model, optimizer, *rest, **named)
        if get_args().use_torch_fsdp2 and iteration and optimizer is not None:
            _count_on(optimizer, iteration)
        return iteration, flops

    training.load_checkpoint = loaded


def _shard(tensor: torch.Tensor) -> torch.Tensor:
    """A DTensor's own part; any other tensor as it is."""
    own: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return own


def _count_on(optimizer: Any, steps: int) -> None:
    """Where PyTorch's optimizers keep their count, with each parameter, and Transformer Engine's, with each group."""
    for inner in _inner(optimizer):
        if type(inner).__module__.startswith("torch."):
            for state in inner.state.values():
                state["step"] = torch.tensor(float(steps))
        else:
            for group in inner.param_groups:
                group["step"] = steps


def _inner(optimizer: Any) -> Iterator[torch.optim.Optimizer]:
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        if one.optimizer is not None:
            yield one.optimizer
