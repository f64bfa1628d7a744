"""Shared fixtures, and the switch that turns a skipped test into a failed one."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share two cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Where everything is installed, a skip for want of a component hides a hole (MESHWRIGHT_NO_SKIPS=1)."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("MESHWRIGHT_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {report.longrepr}"
