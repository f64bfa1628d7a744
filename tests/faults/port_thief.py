"""Each rank tries to listen where the ranks are to meet before they do, and then meets the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence


def main(words: Sequence[str]) -> None:
    import torch

    with socket.socket() as thief:
        try:
            thief.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
            thief.listen()
        except OSError as taken:
            print(f"not to be had: {taken}")
        torch.distributed.init_process_group("gloo")
        met = torch.ones(1)
        torch.distributed.all_reduce(met)
    print(f"met {int(met)}")
    torch.distributed.destroy_process_group()
