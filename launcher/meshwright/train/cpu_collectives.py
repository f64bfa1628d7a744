"""Collectives over pieces of unequal size, which gloo has not: experts with ETP > 1 gather what each was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["gather", "reduce_scatter"]


def gather(even: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's gather along the first axis; ``even`` serves pieces of equal size, others are padded."""

    def gathered(x: Any, group: Any, output_split_sizes: Any = None, use_global_buffer: bool = False) -> Any:
        sizes = output_split_sizes
        if sizes is None or group.size() == 1 or len(set(sizes)) == 1:
            return even(x, group, sizes, use_global_buffer)
        longest = max(sizes)
        mine = x.new_zeros((longest, *x.shape[1:]))
        mine[: x.shape[0]] = x
        every = x.new_empty((longest * group.size(), *x.shape[1:]))
        torch.distributed.all_gather_into_tensor(every, mine, group=group)
        return torch.cat([every[i * longest : i * longest + size] for i, size in enumerate(sizes)])

    return gathered


def reduce_scatter(even: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's reduce-scatter along the first axis; ``even`` serves pieces of equal size, others are all-reduced."""

    def scattered(x: Any, group: Any, input_split_sizes: Any = None, use_global_buffer: bool = False) -> Any:
        if input_split_sizes is None or group.size() == 1:
            return even(x, group, input_split_sizes, use_global_buffer)
        total = x.clone()
        torch.distributed.all_reduce(total, group=group)
        return torch.split(total, list(input_split_sizes))[group.rank()].contiguous()

    return scattered
