"""The file that tells what a folder was run with: a checkpoint's, or a run folder of ours."""

from __future__ import annotations

from pathlib import Path

from meshwright.imports.checkpoint import METADATA

__all__ = ["told_by"]

_OF_RUN = ("run_config.yaml", "common.pt", METADATA)
"""In a checkpoint: of Megatron-Bridge, of Megatron-core's earlier and of its present distributed format."""

_RANKS = ("mp_rank_00", "mp_rank_00_000", "mp_rank_00_000_000")
_OURS = ("launch.sh", "deepspeed/ds_config.json", "megatron/args.txt")
_TRACKERS = ("latest_checkpointed_iteration.txt", "latest_train_state.pt")
_PARTS = ("train_state.pt", "metadata.json", *_TRACKERS)
"""Files of a checkpoint that do not say what the run was."""


def told_by(path: Path) -> Path:
    """The file to read in the place of ``path``: itself, unless it is a folder or a part of a checkpoint."""
    folder = path.parent if path.name in _PARTS or path.suffix == ".distcp" else path
    if not folder.is_dir():
        return path
    return next((one for one in _candidates(_latest(folder)) if one.is_file()), path)


def _candidates(folder: Path) -> list[Path]:
    whole = [folder / rank / "model_optim_rng.pt" for rank in _RANKS]  # of --ckpt-format torch
    return [*(folder / name for name in (*_OF_RUN, *_OURS)), *whole]


def _latest(folder: Path) -> Path:
    """Of a folder of checkpoints the last one, which Megatron-LM names in a file (training/checkpointing.py)."""
    if not any((folder / name).is_file() for name in _TRACKERS):
        return folder
    saved = sorted(one for one in folder.glob("iter_*") if one.is_dir())
    return saved[-1] if saved else folder / "release"
