"""Collectives between ranks, within a node and between nodes, by size: ``python -m meshwright.bench.links OUT.json``.

Started by torchrun, one process a GPU (without GPUs over gloo). The first rank writes ``OUT.json``: a list of objects
with ``link``, ``name``, ``bytes``, ``ranks`` and ``seconds``. ``bench`` starts it on one node; started on several, its
file is for ``bench links=OUT.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["main"]

MIB = 2**20
SIZES = (MIB, 16 * MIB, 256 * MIB)  # bytes, gathered
SMALL_SIZES = (MIB // 4, MIB)
ROUNDS, WARM_UP = 10, 3


def main(words: Sequence[str]) -> None:
    """Measure, and write the file named by the first word."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    found = [one for link, group in _groups() for one in _measured(link, group)]
    if dist.get_rank() == 0:
        Path(words[0]).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _groups() -> Iterator[tuple[str, Any]]:
    """The ranks of one node; the ranks in the same place of every node, all such groups at once."""
    near = int(os.environ["LOCAL_WORLD_SIZE"])
    world = dist.get_world_size()
    if near > 1:
        yield "intra", dist.new_subgroups(near)[0]  # type: ignore[no-untyped-call]
    if world > near:
        places = [list(range(place, world, near)) for place in range(near)]
        groups = [dist.new_group(ranks) for ranks in places]
        yield "inter", groups[dist.get_rank() % near]


def _measured(link: str, group: Any) -> Iterator[dict[str, Any]]:
    size = dist.get_world_size(group)
    for total in SIZES if torch.cuda.is_available() else SMALL_SIZES:
        for name, call in _collectives(total, size, group):
            yield {"link": link, "name": name, "bytes": total, "ranks": size, "seconds": _seconds(call)}


def _collectives(total: int, size: int, group: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each on ``total`` gathered bytes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count = total // 4 // size * size
    whole, part = torch.zeros(count, device=device), torch.zeros(count // size, device=device)
    yield "all_reduce", lambda: dist.all_reduce(whole, group=group)
    yield "all_gather", lambda: dist.all_gather_into_tensor(whole, part, group=group)
    if device == "cuda":  # gloo's takes no tensors
        yield "reduce_scatter", lambda: dist.reduce_scatter_tensor(part, whole, group=group)
    other = torch.zeros_like(whole)
    yield "all_to_all", lambda: dist.all_to_all_single(other, whole, group=group)
    yield "send_receive", lambda: _exchange(whole, other, group)


def _exchange(mine: torch.Tensor, theirs: torch.Tensor, group: Any) -> None:
    """Every rank sends to the next and receives from the one before."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    to, source = (dist.get_global_rank(group, (rank + step) % size) for step in (1, -1))
    sent = dist.P2POp(dist.isend, mine, to, group)
    received = dist.P2POp(dist.irecv, theirs, source, group)
    for request in dist.batch_isend_irecv([sent, received]):
        request.wait()


def _seconds(call: Callable[[], object]) -> float:
    """The median of rounds, each begun together; on a GPU the host waits for it as a stream would."""
    took = []
    for _ in range(WARM_UP + ROUNDS):
        dist.barrier()
        _wait()
        began = time.perf_counter()
        call()
        _wait()
        took.append(time.perf_counter() - began)
    return median(took[WARM_UP:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
