"""When modules begin and end, forward and backward, by the device's clock where it has one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

__all__ = ["HEAD", "Stopwatch"]

HEAD = "head"  # ends with the loss: forward where backward turns, backward where it begins


class Stopwatch:
    """Marks of one forward and backward.

    Backward is followed by hooks on tensors: a module's begins with the first gradient of an output and ends with the
    last of an input, its weights' gradients being made between.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.marks: dict[tuple[str, str], list[Any]] = {}
        self.turned: Any = None
        self.on_device = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]

    def follow(self, name: str, module: torch.nn.Module) -> None:
        """Take the times of ``module`` as ``name``."""
        self.names.append(name)
        module.register_forward_pre_hook(partial(self._enters, name), with_kwargs=True)
        module.register_forward_hook(partial(self._leaves, name))

    def begin(self) -> None:
        """Forget the marks of the step before."""
        self.marks, self.turned = {}, None

    def turn(self) -> None:
        """The loss is there, backward follows."""
        self.turned = self._now()

    def end(self) -> Iterator[tuple[str, tuple[float, float]]]:
        """(name, (forward, backward)) in seconds; 0 where a module ran in no backward."""
        if self.on_device:
            torch.cuda.synchronize()
        for name in self.names:
            at = {kind: self.marks.get((name, kind), []) for kind in ("enters", "leaves", "back", "done")}
            first, last = (self.turned,) * 2 if name == HEAD else (at["leaves"][-1], self._first(at["back"]))
            yield name, (self._between(at["enters"][0], first), self._between(last, self._last(at["done"])))

    def _first(self, marks: list[Any]) -> Any:
        return marks[0] if marks else None

    def _last(self, marks: list[Any]) -> Any:
        return marks[-1] if marks else None

    def _now(self) -> Any:
        if not self.on_device:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        if start is None or end is None:
            return 0.0
        return float(start.elapsed_time(end)) / 1e3 if self.on_device else float(end - start)

    def _mark(self, name: str, kind: str, *_: Any) -> None:
        self.marks.setdefault((name, kind), []).append(self._now())

    def _enters(self, name: str, _: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        for tensor in _tensors((*inputs, *named.values())):
            tensor.register_hook(partial(self._mark, name, "done"))  # type: ignore[no-untyped-call]
        self._mark(name, "enters")

    def _leaves(self, name: str, _: Any, __: Any, output: Any) -> None:
        self._mark(name, "leaves")
        for tensor in _tensors(output if isinstance(output, tuple) else (output,)):
            tensor.register_hook(partial(self._mark, name, "back"))  # type: ignore[no-untyped-call]


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    return (value for value in values if isinstance(value, torch.Tensor) and value.requires_grad)
