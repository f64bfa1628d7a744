"""What DeepSpeed 0.19.8 and transformers 5 need to run together, and on a machine without a GPU."""

from __future__ import annotations

from typing import Any

__all__ = ["experts", "without_compiler"]


def without_compiler() -> None:
    """Keep DeepSpeed from compiling a collective at every start on a CPU (comm/torch.py:207); inference uses it."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def experts() -> None:
    """AutoEP looks up recorders by name and with a default, which transformers' registry by class does not take.

    deepspeed/module_inject/auto_ep_presets/base.py:326: ``TypeError: _CanRecordRegistry.get() takes 2 positional
    arguments but 3 were given``.
    """
    from transformers.utils import output_capturing

    registry = getattr(output_capturing, "_CanRecordRegistry", None)
    if registry is not None:
        registry.get = _get
        registry.__setitem__ = _set


def _get(self: dict[str, Any], key: Any, default: Any = None) -> Any:
    return dict.get(self, key, default) if isinstance(key, str) else dict.get(self, str(key.__class__)) or {}


def _set(self: dict[str, Any], key: Any, value: Any) -> None:
    dict.__setitem__(self, key if isinstance(key, str) else str(key.__class__), value)
