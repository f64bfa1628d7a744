"""Text -> Megatron's indexed datasets: real text that every Python installation has, as bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["BYTES", "END", "build", "main", "python_texts", "to_bytes"]

BYTES = 256  # tokens of the byte-level vocabulary
END = 255  # ends a document; a byte that UTF-8 never uses


def to_bytes(text: str) -> list[int]:
    """UTF-8, one token a byte."""
    return list(text.encode())


def build(
    prefix: Path,
    texts: Iterable[str],
    tokenizer: Callable[[str], Sequence[int]] = to_bytes,
    end: int = END,
    vocab: int = BYTES,
) -> int:
    """Write ``prefix.bin`` and ``prefix.idx``, one document a text, each closed by ``end``; the number of tokens."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder, tokens = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocab)), 0
    for text in texts:
        document = torch.tensor([*tokenizer(text), end])
        builder.add_document(document, [len(document)])
        tokens += len(document)
    builder.finalize(f"{prefix}.idx")
    return tokens


def python_texts(characters: int) -> Iterator[str]:
    """About ``characters`` characters of the standard library's own modules, in alphabetical order."""
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")[:characters]
        if text:
            yield text
        characters -= len(text)
        if characters <= 0:
            return


def main(words: Sequence[str]) -> None:
    """Write about ``words[1]`` bytes of the standard library as the dataset with the prefix ``words[0]``."""
    build(Path(words[0]), python_texts(int(words[1])))
