"""What stands of each logit at the loss, beside what Megatron's own losses allocate on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from builders import small_model, spec
from meshwright.cost.framework import framework_of
from meshwright.resolver import layout, normalise
from meshwright.spec import Backend, MegatronOptions

TOKENS, WORDS = 256, 8192

Loss = Callable[..., torch.Tensor]


def plain() -> Loss:
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

    return lambda logits, targets, group: vocab_parallel_cross_entropy(logits, targets, tp_group=group)


def fused() -> Loss:
    from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy

    return lambda logits, targets, group: fused_vocab_parallel_cross_entropy(logits, targets, group)


@contextmanager
def one_rank() -> Iterator[Any]:
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield torch.distributed.group.WORLD
    finally:
        torch.distributed.destroy_process_group()


def step(loss: Loss, group: Any) -> None:
    hidden = torch.randn(TOKENS, 1, 16, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(WORDS, 16, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, WORDS, (TOKENS, 1))
    loss(torch.nn.functional.linear(hidden, head), targets, group).mean().backward()


def most(loss: Loss) -> float:
    """Bytes of a logit at the peak of the second step; the first compiles."""
    with one_rank() as group:
        step(loss, group)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            step(loss, group)
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        now += event.nbytes() if event.name() == "[memory]" else 0
        peak = max(peak, now)
    return peak / (TOKENS * WORDS)


@pytest.mark.parametrize(
    ("loss", "fusion"),
    [(plain, False), pytest.param(fused, True, marks=pytest.mark.slow(reason="torch compiles it: half a minute"))],
)
def test_the_loss_takes_what_megatrons_own_takes(loss: Callable[[], Loss], fusion: bool) -> None:
    """What is fused takes more: compiled, it no longer works in place."""
    options = Backend(name="megatron", megatron=MegatronOptions(cross_entropy_fusion=fusion))
    counted = framework_of(layout(normalise(replace(spec(small_model(), 1), backend=options)))).loss_bytes
    assert most(loss()) == pytest.approx(counted, abs=0.15)
