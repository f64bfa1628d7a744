"""One rank's forward passes wait, as on a GPU that is throttled."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from meshwright.train import megatron, slow_rank


def main(words: Sequence[str]) -> None:
    from megatron.core.models.gpt import GPTModel

    slow_rank.EVERY = 3
    forward = GPTModel.forward

    def slowly(*rest, **named):
        time.sleep(0.15)
        return forward(*rest, **named)

    if os.environ["RANK"] == "1":
        GPTModel.forward = slowly
    megatron.main(words)
