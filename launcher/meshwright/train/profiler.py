"""One step of a run under torch's profiler: ``training.logging.profile`` names it, as ``metrics.jsonl`` counts steps.

One rank of each pipeline stage writes ``profile/rank-N.json.gz`` (Kineto's Chrome trace) into the run folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "install", "profiled"]

FOLDER = "profile"


@contextmanager
def profiled(folder: Path, step: int, wanted: int | None) -> Iterator[None]:
    """Around step number ``step`` on a rank that is to be profiled; nothing where another step is ``wanted``."""
    if step != wanted:
        yield
        return
    import torch
    from torch.profiler import profile, record_function

    with profile() as found, record_function(f"step {step}"):
        yield
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    (folder / FOLDER).mkdir(exist_ok=True)
    found.export_chrome_trace(str(folder / FOLDER / f"rank-{torch.distributed.get_rank()}.json.gz"))


def install(folder: Path, wanted: int | None) -> None:
    """Have Megatron's loop profile the step."""
    if wanted is None:
        return
    from megatron.training import get_args, training

    train_step = training.train_step

    def stepped(*words: Any, **named: Any) -> Any:
        with profiled(folder, get_args().curr_iteration + 1, wanted if _first_of_its_stage() else None):
            return train_step(*words, **named)

    training.train_step = stepped


def _first_of_its_stage() -> bool:
    from megatron.core import parallel_state as ranks

    replica = ranks.get_data_parallel_rank(with_context_parallel=True)
    return bool(ranks.get_tensor_model_parallel_rank() == replica == 0)
