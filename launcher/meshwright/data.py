"""A run's data, checked before anything is queued: the files exist, are what they should be, and hold enough tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from meshwright.errors import Problem
from meshwright.indexed import read_index, tokens
from meshwright.plan import Plan
from meshwright.spec import Data

__all__ = ["data_problems", "passes"]


def data_problems(plan: Plan) -> list[Problem]:
    """What is wrong with ``training.data``; nothing for mock data."""
    data = plan.spec.training.data
    found = [*_tokenizer(data), *_split(data), *_weights(data)]
    for i, prefix in enumerate(data.paths):
        found += _files(f"training.data.paths[{i}]", prefix)
    return found if found or not data.paths else list(_enough(plan))


def _tokenizer(data: Data) -> Iterator[Problem]:
    path = data.tokenizer.path
    reads_files = data.tokenizer.kind in ("huggingface", "sentencepiece", "tiktoken")
    if reads_files and (path is None or not Path(path).exists()):
        message = f"{path!r} does not exist; nodes seldom reach the internet, give a local folder or file"
        yield Problem("training.data.tokenizer.path", message, "data.tokenizer")


def _split(data: Data) -> Iterator[Problem]:
    shares = data.split.split(",")
    try:
        numbers = [float(share) for share in shares]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or min(numbers) < 0 or not math.isfinite(sum(numbers)) or numbers[0] <= 0:
        message = f"{data.split!r} is not three shares for training, validation and test; write for example '99,1,0'"
        yield Problem("training.data.split", message, "data.split")


def _weights(data: Data) -> Iterator[Problem]:
    if not data.weights:
        return
    if len(data.weights) != len(data.paths):
        message = f"{len(data.weights)} weights for {len(data.paths)} paths; give one each, or none"
        yield Problem("training.data.weights", message, "data.weights")
    if min(data.weights) <= 0:
        yield Problem("training.data.weights", f"{min(data.weights):g} is not above 0", "data.weights")


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
    needed = (plan.steps or 0) * plan.batch.tokens
    sizes = [tokens([prefix]) * shares[0] / sum(shares) for prefix in data.paths]
    weights = data.weights or sizes
    return max(needed * weight / sum(weights) / max(size, 1) for weight, size in zip(weights, sizes, strict=True))


def _enough(plan: Plan) -> Iterator[Problem]:
    data = plan.spec.training.data
    for i, prefix in enumerate(data.paths):
        if tokens([prefix]) <= plan.batch.sequence:
            message = f"{tokens([prefix]):,} tokens are not one sequence of {plan.batch.sequence:,} and one more"
            yield Problem(f"training.data.paths[{i}]", message, "data.tokens")
            return
    read = passes(plan)
    if read > data.epochs:
        needed = (plan.steps or 0) * plan.batch.tokens
        message = f"{needed:,} tokens would read the training share {read:,.1f} times, training.data.epochs allows"
        repair = {"training.data.epochs": math.ceil(read)}
        yield Problem("training.data.paths", f"{message} {data.epochs:g}", "data.tokens", (repair,))
