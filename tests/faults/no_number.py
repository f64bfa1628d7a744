"""Under Megatron the loss jumps in one step, and is no number in a later one."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.train import megatron

JUMPS, BREAKS = 25, 28  # steps


def main(words: Sequence[str]) -> None:
    from megatron.core.models.gpt import GPTModel
    from megatron.training import get_args

    forward = GPTModel.forward

    def broken(*rest, **named):
        step, loss = get_args().curr_iteration + 1, forward(*rest, **named)
        return loss + 9 if step == JUMPS else loss * float("nan") if step == BREAKS else loss

    GPTModel.forward = broken
    megatron.main(words)
