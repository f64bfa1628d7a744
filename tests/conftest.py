"""Shared fixtures, and the switch that turns a skipped test into a failed one."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from order import dealt

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share two cores
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of some hundred processes would compile our modules again
if "PYTEST_XDIST_WORKER" not in os.environ:  # what programs that tests start leave behind goes with the tests
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # but not what a failed test shows
    SCRATCH = tempfile.TemporaryDirectory(prefix="mw-", ignore_cleanup_errors=True)  # short: sockets lie in it
    tempfile.tempdir = os.environ["TMPDIR"] = SCRATCH.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Hydra takes a tenth of a second to give what it gave for the same words before.

    Only where they are all that the configuration depends on: no other folder, no resolver, no setting of Hydra's own.
    """
    from meshwright import compose

    theirs, known = compose._composed, dict[tuple[str, ...], dict[str, Any]]()

    def composed(overrides: Sequence[str], config_dir: str | Path | None) -> dict[str, Any]:
        words = tuple(overrides)
        if config_dir is not None or any("hydra" in word or "$" in word for word in words):
            return theirs(overrides, config_dir)
        if words not in known:
            known[words] = theirs(overrides, config_dir)
        return deepcopy(known[words])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_composed", composed)
        yield


@pytest.hookimpl(trylast=True)  # what is deselected is no longer there
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first, and to each worker its own."""
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    if workers > 1:
        items[:] = [items[i] for i in dealt([item.nodeid for item in items], workers)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Where everything is installed, a skip for want of a component hides a hole (MESHWRIGHT_NO_SKIPS=1)."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("MESHWRIGHT_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {report.longrepr}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """No training process may outlive the tests that started it: it would hold a GPU where there is one."""
    if hasattr(session.config, "workerinput"):  # the workers of xdist are not the last ones
        return
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is None or factory._basetemp is None:
        return
    limit = time.monotonic() + PATIENCE_S
    while (left := left_over(str(factory._basetemp))) and time.monotonic() < limit:
        time.sleep(0.2)
    if left:
        print("\ntraining processes that outlived the tests:", *left, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


PATIENCE_S = 10.0


def left_over(folder: str) -> list[str]:
    """Command lines of our programs that train in ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if any(word.startswith("meshwright.train.") for word in words) and any(folder in word for word in words):
            found.append(f"{path.parent.name} {' '.join(words)}")
    return found
