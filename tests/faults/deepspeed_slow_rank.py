"""Under DeepSpeed one rank's forward passes wait, as on a GPU that is throttled."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from meshwright.train import deepspeed, slow_rank


def main(words: Sequence[str]) -> None:
    slow_rank.EVERY = 3
    names = vars(deepspeed)
    forward = names["loss_of"]

    def slowly(*rest, **named):
        time.sleep(0.15)
        return forward(*rest, **named)

    if os.environ["RANK"] == "1":
        names["loss_of"] = slowly
    deepspeed.main(words)
