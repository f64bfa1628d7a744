"""Text -> Megatron's indexed dataset, in parts of a few megabytes: what was cut off goes on with the next part.

A part is some whole lines of a JSONL file, or one text file. Each is written into ``PREFIX.parts/`` first; when all are
there, they are joined in order. The number of processes does not change the result.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from meshwright.compose import Text
from meshwright.errors import ConfigError, Problem
from meshwright.indexed import lengths, token_type, write_index
from meshwright.spec import Tokenizer

__all__ = ["Job", "Part", "job", "parts", "tokenize"]

PART_BYTES = 16 << 20
BYTES_VOCAB, BYTES_END = 256, 255  # one token a byte; one that UTF-8 never uses ends a document


@dataclass(frozen=True)
class Part:
    """Bytes ``start`` to ``end`` of a file, on line borders."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Job:
    """What to tokenize, with what, into what."""

    text: Text
    tokenizer: Tokenizer
    prefix: Path
    parts: tuple[Part, ...]

    @property
    def folder(self) -> Path:
        """Where the parts lie until they are joined; another job's are another folder's."""
        said = json.dumps([self.text.field, self.tokenizer.kind, self.tokenizer.path, list(map(str, self.parts))])
        return Path(f"{self.prefix}.parts") / hashlib.sha256(said.encode()).hexdigest()[:8]


def job(text: Text, tokenizer: Tokenizer) -> Job:
    """The job that ``data`` and ``training.data.tokenizer`` describe.

    Raises:
        ConfigError: with one problem for everything wrong with them.

    """
    paths = [Path(path) for pattern in text.input for path in sorted(glob.glob(pattern)) or [pattern]]
    problems = list(_problems(text, tokenizer, paths))
    if problems:
        raise ConfigError(problems)
    assert text.prefix is not None
    return Job(text, tokenizer, Path(text.prefix), tuple(part for path in paths for part in parts(path)))


def _problems(text: Text, tokenizer: Tokenizer, paths: Sequence[Path]) -> Iterator[Problem]:
    if not paths:
        yield Problem("data.input", "not set; give files, for example data.input=[corpus/*.jsonl]", "data.input")
    for path in paths:
        if not path.is_file():
            yield Problem("data.input", f"{path} is no file", "data.input")
    if text.prefix is None:
        yield Problem("data.prefix", "not set; give the prefix of the files to write", "data.prefix")
    if text.workers < 1:
        yield Problem("data.workers", f"{text.workers} processes do nothing; give 1 or more", "data.workers")
    if tokenizer.kind not in ("bytes", "huggingface"):
        message = f"{tokenizer.kind}: this verb tokenizes with huggingface (a local folder) or bytes"
        yield Problem("training.data.tokenizer.kind", message, "data.tokenizer")
    if tokenizer.kind == "huggingface" and (tokenizer.path is None or not Path(tokenizer.path).is_dir()):
        message = f"{tokenizer.path!r} is no folder; give one with a tokenizer.json"
        yield Problem("training.data.tokenizer.path", message, "data.tokenizer")


def parts(path: Path, size: int = PART_BYTES) -> Iterator[Part]:
    """A text file whole, a JSONL file in pieces of about ``size`` bytes that end where a line ends."""
    total = path.stat().st_size
    if path.suffix != ".jsonl":
        yield Part(path, 0, total)
        return
    with path.open("rb") as file:
        start = 0
        while start < total:
            file.seek(min(start + size, total) - 1)
            file.readline()
            yield Part(path, start, file.tell())
            start = file.tell()


def tokenize(job: Job, done: Callable[[int, int], None] = lambda *_: None) -> int:
    """Write the dataset; the number of its tokens. ``done`` hears (parts done, parts in all).

    Raises:
        ConfigError: where a line is no JSON object with the field.

    """
    job.folder.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(len(job.parts)) if not Path(f"{job.folder / str(i)}.idx").exists()]
    done(len(job.parts) - len(todo), len(job.parts))
    with get_context("spawn").Pool(min(job.text.workers, max(1, len(todo)))) as pool:
        for count, _ in enumerate(pool.imap_unordered(partial(_write_part, job), todo), 1):
            done(len(job.parts) - len(todo) + count, len(job.parts))
    return _join(job)


def _write_part(job: Job, number: int) -> None:
    """``number.bin``, and last ``number.idx``: whichever part has one is whole."""
    import numpy as np

    encode, end, vocab = _encoder(job.tokenizer)
    kind, prefix, sizes = token_type(vocab)[0], job.folder / str(number), []
    with Path(f"{prefix}.bin").open("wb") as file:
        for text in _documents(job.parts[number], job.text.field):
            tokens = np.array([*encode(text), end], dtype=kind)
            sizes.append(len(tokens))
            file.write(tokens.tobytes())
    write_index(prefix, sizes, vocab)


def _documents(part: Part, field: str) -> Iterator[str]:
    with part.path.open("rb") as file:
        file.seek(part.start)
        if part.path.suffix != ".jsonl":
            yield file.read().decode("utf-8", errors="replace")
            return
        while file.tell() < part.end:
            where, line = file.tell(), file.readline()
            if line.strip():
                yield _text(line, field, f"{part.path}, byte {where:,}")


def _text(line: bytes, field: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError([Problem("data.input", f"{where}: {error}", "data.json")]) from None
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        known = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        message = f"{where}: no text in field {field!r}; there is {known}"
        raise ConfigError([Problem("data.field", message, "data.json")])
    return str(value[field])


@cache
def _encoder(tokenizer: Tokenizer) -> tuple[Callable[[str], Sequence[int]], int, int]:
    """Text to tokens, the token that ends a document, and the size of the vocabulary."""
    if tokenizer.kind == "bytes":
        return (lambda text: text.encode()), BYTES_END, BYTES_VOCAB
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(tokenizer.path, local_files_only=True)
    if made.eos_token_id is None:
        message = f"{tokenizer.path} has no end-of-text token, which would part the documents"
        raise ConfigError([Problem("training.data.tokenizer.path", message, "data.tokenizer")])
    return partial(made.encode, add_special_tokens=False), made.eos_token_id, len(made)


def _join(job: Job) -> int:
    import numpy as np

    prefixes = [str(job.folder / str(i)) for i in range(len(job.parts))]
    sizes = np.concatenate([lengths(prefix) for prefix in prefixes])
    partly = Path(f"{job.prefix}.bin.partial")
    with partly.open("wb") as file:
        for prefix in prefixes:
            with Path(f"{prefix}.bin").open("rb") as part:
                shutil.copyfileobj(part, file, PART_BYTES)
    partly.rename(f"{job.prefix}.bin")
    write_index(job.prefix, sizes, _encoder(job.tokenizer)[2])
    shutil.rmtree(job.folder.parent)
    return int(sizes.sum())
