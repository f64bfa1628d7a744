"""A rehearsal that the user stops leaves nothing behind; one that failed leaves its logs."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import rehearse as room
from meshwright.cli import main

WORDS = ["rehearse", "model=tiny", "cluster=local_cpu", "cluster.gpus=2", "training.sequence=64", "verify=false"]


def failed(*_: Any, **__: Any) -> None:
    raise room.RankError("rank 0 failed")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_rehearsal_takes_its_folder_with_it(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    seen: list[bool] = []

    def stopped(_: Any, folder: Path, *__: Any, **___: Any) -> None:
        seen.append(folder.parent == tmp_path)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(room, "rehearse", stopped)
    try:
        ended = main(WORDS)
    except SystemExit as end:
        ended = int(end.code or 0)
    assert (ended, seen) == (code, [True])
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failed_one_leaves_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "rehearse", failed)
    assert main(WORDS) == 1
    assert len(list(tmp_path.iterdir())) == 1
