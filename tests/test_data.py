"""Text becomes a dataset that Megatron reads, whatever interrupts it; data are checked before anything is queued."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import small_model, spec
from meshwright.cli import main
from meshwright.compose import Text
from meshwright.corpus import tokenize as module
from meshwright.corpus.checks import data_problems
from meshwright.corpus.indexed import lengths, read_index, write_index
from meshwright.corpus.tokenize import Part, job, parts, tokenize
from meshwright.errors import ConfigError
from meshwright.resolver import resolve
from meshwright.spec import Data, Tokenizer
from meshwright.spec.frozen import dataclass

BYTES = Tokenizer(kind="bytes")
TEXTS = [f"document {i}: " + "é" * i for i in range(50)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def dataset(tmp_path: Path, *inputs: Path, **options: Any) -> Path:
    prefix = tmp_path / "tokens"
    tokenize(job(Text(input=tuple(map(str, inputs)), prefix=str(prefix), **options), BYTES))
    return prefix


def expected(texts: Sequence[str]) -> bytes:
    return b"".join(np.array([*text.encode(), 255], dtype=np.uint16).tobytes() for text in texts)


def test_a_document_a_line_closed_by_its_end(corpus: Path, tmp_path: Path) -> None:
    prefix = dataset(tmp_path, corpus)
    assert Path(f"{prefix}.bin").read_bytes() == expected(TEXTS)
    assert list(lengths(str(prefix))) == [len(text.encode()) + 1 for text in TEXTS]


def test_megatron_reads_it(corpus: Path, tmp_path: Path) -> None:
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    read = megatron.IndexedDataset(str(dataset(tmp_path, corpus)))
    assert len(read) == len(TEXTS)
    assert bytes(read[7].astype(np.uint8)) == TEXTS[7].encode() + b"\xff"


def test_text_files_are_one_document_each(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"{name}\nsecond line\n")
    prefix = dataset(tmp_path, tmp_path / "*.txt")
    assert Path(f"{prefix}.bin").read_bytes() == expected(["a.txt\nsecond line\n", "b.txt\nsecond line\n"])


def test_parts_end_where_lines_end(corpus: Path) -> None:
    pieces = list(parts(corpus, size=200))
    text = corpus.read_bytes()
    assert len(pieces) > 5
    assert all(text[piece.end - 1 : piece.end] == b"\n" for piece in pieces)
    assert b"".join(text[piece.start : piece.end] for piece in pieces) == text


def test_what_was_cut_off_goes_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are whole are kept; one without its index is written anew."""
    monkeypatch.setattr(module, "PART_BYTES", 200)
    work = job(Text(input=(str(corpus),), prefix=str(tmp_path / "tokens")), BYTES)
    work = replace(work, parts=tuple(parts(corpus, size=200)))
    work.folder.mkdir(parents=True)
    module._write_part(work, 0)
    (work.folder / "1.bin").write_bytes(b"half")
    heard: list[tuple[int, int]] = []
    tokenize(work, lambda done, total: heard.append((done, total)))
    assert heard[0] == (1, len(work.parts))
    assert heard[-1] == (len(work.parts), len(work.parts))
    assert Path(f"{work.prefix}.bin").read_bytes() == expected(TEXTS)
    assert not work.folder.exists()


def test_a_hugging_face_tokenizer_of_this_machine(corpus: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=alphabet, vocab_size=300)
    made.train_from_iterator(TEXTS, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    fast.save_pretrained(tmp_path / "tokenizer")
    described = Tokenizer(kind="huggingface", path=str(tmp_path / "tokenizer"))
    tokens = tokenize(job(Text(input=(str(corpus),), prefix=str(tmp_path / "t")), described))
    read = np.fromfile(tmp_path / "t.bin", dtype=np.uint16)
    assert tokens == len(read) == sum(len(fast.encode(text)) + 1 for text in TEXTS)
    assert (read == fast.eos_token_id).sum() == len(TEXTS)


def test_the_verb(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"data.input=[{corpus}]", f"data.prefix={tmp_path / 'out'}", "training.data.tokenizer.kind=bytes"]
    assert main(["data", *words, "output=json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == sum(len(text.encode()) + 1 for text in TEXTS)


def test_a_line_without_text_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(ConfigError, match=r"bad\.jsonl, byte 14: no text in field 'text'; there is body"):
        dataset(tmp_path, path)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        job(Text(input=("nowhere.jsonl",), workers=0), Tokenizer(kind="huggingface", path="nowhere"))
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["data.input", "data.prefix", "data.workers", "training.data.tokenizer.path"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", b"\x1f\x8b", "is packed; unpack it first (gunzip)"),
        ("a.json", b"[]", "write one object a line into a .jsonl file"),
        ("a.txt", b"\x89PNG\0", "is no text: it holds bytes of 0"),
        ("a.jsonl", b"", "no document in"),
        ("a.jsonl", b"\n \n", "no document in"),
    ],
)
def test_what_holds_no_text_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        dataset(tmp_path, tmp_path / name)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_without_a_tokenizer_is_refused(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    described = Tokenizer(kind="huggingface", path=str(tmp_path))
    with pytest.raises(ConfigError, match="holds no tokenizer that transformers reads"):
        tokenize(job(Text(input=(str(corpus),), prefix=str(tmp_path / "t")), described))


def test_a_place_that_cannot_be_written_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.prefix: .*corpus.jsonl.*: Not a directory; mend that"):
        tokenize(job(Text(input=(str(corpus),), prefix=str(corpus / "tokens")), BYTES))


def test_a_killed_process_ends_it(corpus: Path, tmp_path: Path) -> None:
    """A tokenizer that kills its process stands in for the kernel when memory is short."""
    work = job(Text(input=(str(corpus),), prefix=str(tmp_path / "t")), BYTES)
    with pytest.raises(ConfigError, match="one of 1 processes was killed"):
        tokenize(replace(work, parts=(Deadly(corpus, 0, 1),)))


@dataclass(frozen=True)
class Deadly(Part):
    """Kills the process that unpickles it."""

    def __setstate__(self, state: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def problems(**data: Any) -> list[str]:
    base = spec(small_model(), 1, sequence=16, global_batch=2)
    training = replace(base.training, steps=10, data=Data(**data))
    return [str(problem) for problem in data_problems(resolve(replace(base, training=training)))]


def written(prefix: Path, tokens: int) -> str:
    Path(f"{prefix}.bin").write_bytes(bytes(2 * tokens))
    write_index(prefix, [tokens], 256)
    return str(prefix)


def test_enough_data_is_fine(tmp_path: Path) -> None:
    assert problems(paths=(written(tmp_path / "a", 1000),)) == []
    assert problems() == []  # mock data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"paths": ("{folder}/none",)}, "none.bin does not exist; meshwright data makes both from text"),
        ({"paths": ("{folder}/a.bin",)}, "a.bin.bin does not exist; give the prefix of both files"),
        ({"paths": ("{folder}/foreign",)}, "foreign.idx is not the index of a Megatron dataset"),
        ({"paths": ("{folder}/cut",)}, "cut.bin is cut off: its size is no multiple of 2 bytes"),
        ({"paths": ("{folder}/short",)}, "16 tokens are not one sequence of 16 and one more"),
        ({"paths": ("{folder}/a",), "split": "10,90,0"}, "320 tokens would read the training share 3.2 times"),
        ({"tokenizer": Tokenizer(kind="huggingface", path="org/model")}, "'org/model' does not exist; nodes seldom"),
    ],
)
def test_what_would_stop_a_run_is_said_before(data: dict[str, Any], said: str, tmp_path: Path) -> None:
    written(tmp_path / "a", 1000)
    written(tmp_path / "short", 16)
    written(tmp_path / "cut", 100)
    (tmp_path / "cut.bin").write_bytes(b"abc")
    (tmp_path / "foreign.bin").write_bytes(b"abcd")
    (tmp_path / "foreign.idx").write_bytes(b"something else entirely, and long enough")
    data = {**data, "paths": tuple(path.format(folder=tmp_path) for path in data.get("paths", ()))}
    assert any(said in line for line in problems(**data)), problems(**data)


def test_reading_twice_can_be_allowed(tmp_path: Path) -> None:
    assert problems(paths=(written(tmp_path / "a", 200),), epochs=2.0) == []
    assert "set training.data.epochs=2" in problems(paths=(written(tmp_path / "a", 200),))[0]


def test_an_index_says_what_it_holds(tmp_path: Path) -> None:
    write_index(tmp_path / "a", [3, 4], 70_000)
    assert (read_index(str(tmp_path / "a")).token_bytes, read_index(str(tmp_path / "a")).documents) == (4, 2)
