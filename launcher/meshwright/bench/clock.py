"""Seconds of a call on the device, and seconds until the host has issued it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

__all__ = ["host_seconds", "seconds"]

WARM_UP = 3
ROUNDS = 5


def seconds(call: Callable[[], object], budget: float) -> float:
    """The median over rounds of calls issued one after the other, within about ``budget`` seconds."""
    for _ in range(WARM_UP):
        call()
    once = _round(call, 1)
    calls = max(1, min(1000, int(budget / ROUNDS / max(once, 1e-7))))
    return median(_round(call, calls) for _ in range(ROUNDS)) if once * ROUNDS < budget else once


def _round(call: Callable[[], object], calls: int) -> float:
    """Seconds of one of ``calls``: by the device's own clock where it has one."""
    if not torch.cuda.is_available():
        began = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - began) / calls
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls


def host_seconds(call: Callable[[], object], calls: int = 200) -> float:
    """Seconds the host takes to issue ``call``, the device's queue being empty when it begins."""
    for _ in range(WARM_UP):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    took = (time.perf_counter() - began) / calls
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return took
