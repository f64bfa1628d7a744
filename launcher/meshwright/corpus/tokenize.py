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
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from meshwright.compose import Text
from meshwright.corpus.indexed import lengths, token_type, write_index
from meshwright.errors import ConfigError, Problem
from meshwright.spec import Tokenizer
from meshwright.spec.frozen import dataclass

__all__ = ["Job", "Part", "job", "parts", "tokenize"]

PART_BYTES, PROBE_BYTES = 16 << 20, 4096
PACKED = {
    ".gz": "gunzip",
    ".zst": "unzstd",
    ".xz": "unxz",
    ".bz2": "bunzip2",
    ".zip": "unzip",
    ".parquet": "pandas.read_parquet",
}
AGAIN = "mend that and run it again: it goes on where it stopped"
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
        wrong = _no_text(path)
        if wrong:
            yield Problem("data.input", f"{path} {wrong}", "data.input")
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


def _no_text(path: Path) -> str | None:
    """Why a file cannot be tokenized."""
    if not path.is_file():
        return "is no file"
    if path.suffix in PACKED:
        return f"is packed; unpack it first ({PACKED[path.suffix]})"
    if path.suffix == ".json":
        return "would be one document with its brackets; write one object a line into a .jsonl file"
    try:
        with path.open("rb") as file:
            return "is no text: it holds bytes of 0" if b"\0" in file.read(PROBE_BYTES) else None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


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
        ConfigError: where a line is no JSON object with the field, or the files cannot be written.

    """
    _encoder(job.tokenizer)  # what is wrong with it is said before anything is written
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        todo = [i for i in range(len(job.parts)) if not Path(f"{job.folder / str(i)}.idx").exists()]
        done(len(job.parts) - len(todo), len(job.parts))
        for count, _ in enumerate(_written(job, todo), 1):
            done(len(job.parts) - len(todo) + count, len(job.parts))
        return _join(job)
    except OSError as error:
        message = f"{error.filename or job.prefix}: {error.strerror}; {AGAIN}"
        raise ConfigError([Problem("data.prefix", message, "data.write")]) from None


def _written(job: Job, todo: Sequence[int]) -> Iterator[None]:
    """Write the parts ``todo``; one item as each is there."""
    with ProcessPoolExecutor(min(job.text.workers, max(1, len(todo))), get_context("spawn")) as pool:
        try:
            for part in as_completed([pool.submit(_write_part, job, number) for number in todo]):
                yield part.result()
        except BrokenProcessPool:
            message = f"one of {job.text.workers} processes was killed, as where memory is short; {AGAIN}"
            raise ConfigError([Problem("data.workers", message, "data.workers")]) from None
        finally:
            pool.shutdown(cancel_futures=True)


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
        said = getattr(error, "msg", "is no text in UTF-8")  # the place is the file's, not the line's
        raise ConfigError([Problem("data.input", f"{where}: no JSON: {said}", "data.json")]) from None
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
    made = _hugging_face(tokenizer.path)
    if made.eos_token_id is None:
        message = f"{tokenizer.path} has no end-of-text token, which would part the documents"
        raise ConfigError([Problem("training.data.tokenizer.path", message, "data.tokenizer")])
    return partial(made.encode, add_special_tokens=False), made.eos_token_id, len(made)


def _hugging_face(path: str | None) -> Any:
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except ImportError as error:
        message = f"{error}; pip install 'meshwright[hf]'"
    except (OSError, ValueError, KeyError, TypeError) as error:  # as the files in it mislead transformers
        message = f"{path} holds no tokenizer that transformers reads: {' '.join(str(error).split())[:200]}"
    raise ConfigError([Problem("training.data.tokenizer.path", message, "data.tokenizer")])


def _join(job: Job) -> int:
    import numpy as np

    prefixes = [str(job.folder / str(i)) for i in range(len(job.parts))]
    sizes = np.concatenate([np.zeros(0, dtype=np.int32), *map(lengths, prefixes)])
    if not sizes.size:
        shutil.rmtree(job.folder.parent)
        raise ConfigError([Problem("data.input", f"no document in {', '.join(job.text.input)}", "data.input")])
    partly = Path(f"{job.prefix}.bin.partial")
    with partly.open("wb") as file:
        for prefix in prefixes:
            with Path(f"{prefix}.bin").open("rb") as part:
                shutil.copyfileobj(part, file, PART_BYTES)
    partly.rename(f"{job.prefix}.bin")
    write_index(job.prefix, sizes, _encoder(job.tokenizer)[2])
    shutil.rmtree(job.folder.parent)
    return int(sizes.sum())
