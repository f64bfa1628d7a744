"""Old checkpoints go: the last few stay, and of the others those whose step is a multiple.

Steps are in the folders' names: Megatron's ``iter_0000010``, DeepSpeed's ``step10``.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.train.stages import saved_step

__all__ = ["install", "prune", "surplus"]

_NAME = re.compile(r"(?:iter_|step)(\d+)")
_GOING = "going_"  # what is being deleted has another name: nobody takes it for a whole checkpoint


def surplus(steps: Sequence[int], keep_last: int, keep_every: int | None) -> list[int]:
    """Of the steps that are saved whole, those to delete."""
    older = sorted(steps)[:-keep_last]
    return [step for step in older if not keep_every or step % keep_every]


def prune(folder: Path, logging: Mapping[str, Any]) -> threading.Thread | None:
    """Delete what ``keep_last`` and ``keep_every`` leave out, while training goes on; one rank does it."""
    latest = saved_step(folder)
    if logging["keep_last"] is None or latest is None:
        return None
    found = {int(name[1]): path for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))}
    whole = [step for step in found if step <= latest]
    for step in surplus(whole, logging["keep_last"], logging["keep_every"]):
        found[step].rename(folder / f"{_GOING}{found[step].name}")
    going = threading.Thread(target=_delete, args=(list(folder.glob(f"{_GOING}*")),), daemon=True)
    going.start()
    return going


def _delete(folders: Sequence[Path]) -> None:
    """A deletion that was cut off is finished by the next one."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def install(logging: Mapping[str, Any]) -> None:
    """Have Megatron prune after each save, and not save at the end where that is not wanted."""
    import torch
    from megatron.training import get_args, training

    save = training.save_checkpoint_and_time

    def saved(step: int, *rest: Any, **named: Any) -> None:
        args = get_args()
        if not logging["save_at_end"] and step >= args.train_iters and step % args.save_interval:
            return
        save(step, *rest, **named)
        if torch.distributed.get_rank() == 0:
            prune(Path(args.save), logging)

    training.save_checkpoint_and_time = saved
