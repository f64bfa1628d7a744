"""Which worker begins with which long tests, so that all end together; what is short fills up, and is stolen last."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["dealt"]

# By whose processes they start: a server has imported Megatron or DeepSpeed, and a worker has one of them at a time.
LONG = (
    ("slurm/", "test_train_megatron.py", "test_foreign_entry.py"),
    (
        "test_train_deepspeed",
        "test_verify_deepspeed.py",
        "test_train_stages.py",
        "test_launch_ended.py",
        "test_looked_at.py",
        "test_gpu_path.py",
    ),
)


def dealt(names: Sequence[str], workers: int) -> list[int]:
    """Places of ``names`` in an order that pytest-xdist cuts into as many equal parts as there are ``workers``.

    Each part begins with the long tests of one row of ``LONG``. Every test stands in it once.
    """
    long = [[i for name in row for i, test in enumerate(names) if f"tests/{name}" in test] for row in LONG[:workers]]
    taken = {i for row in long for i in row}
    rest = iter([i for i in range(len(names)) if i not in taken])
    order: list[int] = []
    for worker in range(workers):
        order += long[worker] if worker < len(long) else []
        end = len(names) * (worker + 1) // workers
        order += [i for _, i in zip(range(end - len(order)), rest, strict=False)]
    return [*order, *rest]
