"""A run's data, checked before anything is queued: the files exist, are what they should be, and hold enough tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from meshwright.corpus.indexed import lengths, read_index, tokens
from meshwright.errors import Problem
from meshwright.layout.plan import Plan
from meshwright.spec import Data

__all__ = ["data_problems", "passes"]


def data_problems(plan: Plan) -> list[Problem]:
    """What is wrong with the files of ``training.data``; nothing for mock data."""
    data = plan.spec.training.data
    found = list(_tokenizer(data))
    for i, prefix in enumerate(data.paths):
        found += _files(f"training.data.paths[{i}]", prefix)
    return found if found or not data.paths else list(_enough(plan))


def _tokenizer(data: Data) -> Iterator[Problem]:
    path = data.tokenizer.path
    reads_files = data.tokenizer.kind in ("huggingface", "sentencepiece", "tiktoken")
    if reads_files and path is not None and not Path(path).exists():
        message = f"{path!r} does not exist; nodes seldom reach the internet, give a local folder or file"
        yield Problem("training.data.tokenizer.path", message, "data.tokenizer")


def _files(path: str, prefix: str) -> Iterator[Problem]:
    for end in (".bin", ".idx"):
        if not os.access(f"{prefix}{end}", os.R_OK):
            why = "cannot be read" if Path(f"{prefix}{end}").exists() else "does not exist"
            hint = "; give the prefix of both files" if prefix.endswith((".bin", ".idx")) else ""
            yield Problem(path, f"{prefix}{end} {why}{hint}; meshwright data makes both from text", "data.files")
            return
    try:
        size = read_index(prefix).token_bytes
    except ValueError as error:
        yield Problem(path, str(error), "data.index")
        return
    if Path(f"{prefix}.bin").stat().st_size % size:
        yield Problem(path, f"{prefix}.bin is cut off: its size is no multiple of {size} bytes a token", "data.index")


def passes(plan: Plan) -> float:
    """How often the stage reads its data's training share, given its length; a blend, its scarcest part."""
    data = plan.spec.training.data
    shares = [float(share) for share in data.split.split(",")]
    needed = plan.tokens
    sizes = [tokens([prefix]) * shares[0] / sum(shares) for prefix in data.paths]
    weights = data.weights or sizes
    return max(needed * weight / sum(weights) / max(size, 1) for weight, size in zip(weights, sizes, strict=True))


def _held_back(plan: Plan) -> Iterator[Problem]:
    """Megatron divides a dataset by documents, and looks for ever where validation has less than a sequence.

    core/datasets/blended_megatron_dataset_builder.py ``_build_megatron_dataset_splits`` (megatron-core 0.19.2).
    """
    data, sequence = plan.spec.training.data, plan.batch.sequence
    shares = [float(share) for share in data.split.split(",")]
    bounds = [sum(shares[:k]) / sum(shares) for k in (1, 2)]
    for i, prefix in enumerate(data.paths if plan.spec.training.evaluation.wanted else ()):
        sizes = lengths(prefix)
        first, end = (round(bound * len(sizes)) for bound in bounds)
        held = int(sizes[first:end].sum())
        if held <= sequence:
            message = (
                f"of {len(sizes):,} documents {end - first:,} are to validate on, with {held:,} tokens; a sequence"
            )
            hint = f"has {sequence:,} and one more. Give validation a larger share in training.data.split"
            yield Problem(f"training.data.paths[{i}]", f"{message} {hint}", "data.validation")


def _enough(plan: Plan) -> Iterator[Problem]:
    data = plan.spec.training.data
    for i, prefix in enumerate(data.paths):
        if tokens([prefix]) <= plan.batch.sequence:
            message = f"{tokens([prefix]):,} tokens are not one sequence of {plan.batch.sequence:,} and one more"
            yield Problem(f"training.data.paths[{i}]", message, "data.tokens")
            return
    yield from _held_back(plan)
    read = passes(plan)
    if read > data.epochs:
        needed = plan.tokens
        message = f"{needed:,} tokens would read the training share {read:,.1f} times, training.data.epochs allows"
        repair = {"training.data.epochs": math.ceil(read)}
        yield Problem("training.data.paths", f"{message} {data.epochs:g}", "data.tokens", (repair,))
