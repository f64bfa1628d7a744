"""A model's name without what says nothing of its sizes: who published it, for what it was tuned, in which format."""

from __future__ import annotations

import re

__all__ = ["bare"]

_BEFORE = re.compile(r"^(.*/|(meta|nvidia)[\W_]+)")  # meta-llama/Meta-Llama-3-8B
_BEHIND = re.compile(
    r"[\W_]+(hf|instruct|base|chat|it|pt|text|llm|sft|thinking|bf16|fp8|v0[.]\d"
    r"|0\d{3}|1\d{3}|2[45]\d{2}|\d+k|(\d+b[\W_]+)?\d+e)$"
)
"""Tuning, format, month (``2507``), longest context (``200K``), experts with active parameters (``17B-16E``)."""


def bare(name: str) -> str:
    """``Qwen3-4B`` of ``Qwen/Qwen3-4B-Instruct-2507``, in small letters."""
    short, before = name.lower().strip(), ""
    while short != before:
        before, short = short, _BEHIND.sub("", _BEFORE.sub("", short))
    return short
