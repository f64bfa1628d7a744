"""Hostile files: no traceback, nothing executed, nothing written."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright.errors import ConfigError
from meshwright.imports.check import checked
from meshwright.imports.found import Imported
from meshwright.imports.read import imported

pytest.importorskip("tree_sitter_bash")

SIZES = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32"
SCRIPT = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
export NCCL_DEBUG=${{NCCL_DEBUG:-WARN}}
TP=${{TP:-2}}
ARGS=({SIZES} --micro-batch-size 1
  --global-batch-size $((TP * 8)) --vocab-size 100 --train-iters 20)
if [[ "$FP8" == "true" ]]; then ARGS+=(--fp8-format hybrid); fi
for i in 1 2; do LAST=$i; done
case $TP in 2|4) SP=--sequence-parallel;; *) SP=;; esac
run() {{ torchrun --nproc_per_node 8 pretrain_gpt.py "$@"; }}
run "${{ARGS[@]}}" --tensor-model-parallel-size $TP $SP $(echo --bf16)
"""
JSON = """{
  "train_batch_size": 32, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4,
  "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}, "bf16": {"enabled": true},
  "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.95]}}, "gradient_clipping": 1.0
}
"""
YAML = """trainer: {devices: 8, num_nodes: 2, precision: bf16, max_steps: 100}
model:
  micro_batch_size: 1
  global_batch_size: 16
  tensor_model_parallel_size: 2
  encoder_seq_length: 32
  max_position_embeddings: ${.encoder_seq_length}
  num_layers: 4
  hidden_size: 64
  num_attention_heads: 4
  optim: {name: distributed_fused_adam, lr: 1e-4, betas: [0.9, 0.95]}
"""
TOML = """[model]
name = 'llama3'
flavor = '8B'
[training]
local_batch_size = 1
seq_len = 32
[parallelism]
tensor_parallel_degree = 2
"""
WORDS = ["$(", "${", "((", "<<EOF\n", "\ue000", "é", "&a", "*a", "!!python/object:os.system ", "9" * 21]
INSERTED = [*"\"'`$(){}[]|&;<>\\\n\0\t#*?!%=,:-~", *WORDS]


def judged(path: Path) -> Imported | None:
    """The import, or None where it is refused; anything else than a ConfigError fails the test."""
    try:
        source = imported([path])
        checked(source, ["cluster=dgx_h100"])
    except ConfigError:
        return None
    return source


def mutated(text: str, seed: int) -> str:
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(text) + 1), chance.choice((0, 0, 1, 5, 40))
        new = chance.choice(
            (chance.choice(INSERTED), text[at : at + 30] * chance.randint(0, 3), chance.choice(string.printable))
        )
        text = text[:at] + new + text[at + length :]
    return text


BRIDGE = """train: {micro_batch_size: 1, global_batch_size: 8}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 4, seq_length: 32, vocab_size: 100,
  activation_func: {_call_: false, _target_: torch.nn.functional.silu}, attention_backend: {_args_: [5], _target_: a.B}}
dataset: {seq_length: 32, blend: [[a, b], [1, 2]]}
mixed_precision: bf16_with_mxfp8_mixed
"""
PRIMUS = """modules:
  pre_trainer: {framework: megatron, model: "${M:llama3_8B}.yaml", overrides: {seq_length: "${S:32}",
    recompute_layer_ids: "0,1", pipeline_model_parallel_size: 2, train_data_path: null}}
"""


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        *[("a.sh", SCRIPT, 90), ("a.json", JSON, 60), ("a.yaml", YAML, 40), ("a.toml", TOML, 20)],
        *[("b.yaml", BRIDGE, 20), ("c.yaml", PRIMUS, 20)],
    ],
)
def test_mutated_files(name: str, text: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    path = tmp_path / name
    path.write_text(text)
    assert judged(path) is not None
    for seed in range(count):
        path.write_text(mutated(text, seed), errors="surrogatepass")
        judged(path)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a process or evaluates text fails the test."""
    import os
    import subprocess

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was executed")

    for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (os, "execv"), (os, "posix_spawn")):
        monkeypatch.setattr(module, name, refuse)


def repeated(text: str, count: int) -> Callable[[], str]:
    return lambda: text * count


def _laughs(level: int) -> str:
    return f"a{level}: &a{level} [{f'*a{level - 1},' * 9}]\n"


HUGE: dict[str, tuple[str, Callable[[], str]]] = {
    "10 MB of a script": ("a.sh", repeated("A=$A${B:-x}$(echo $A) # comment\n", 330_000)),
    "10 MB in one word": ("a.sh", lambda: f"torchrun pretrain_gpt.py --num-layers {'9' * 10_000_000}"),
    "10 MB of JSON": ("a.json", lambda: '{"train_batch_size": 1, "x": [' + "1," * 5_000_000 + "1]}"),
    "deep brackets": ("a.json", lambda: "[" * 100_000),
    "deep mappings": ("a.yaml", lambda: "{a: " * 3_000 + "1" + "}" * 3_000),
    "deep substitutions": ("a.sh", lambda: "torchrun x.py --num-layers " + "$(echo " * 3_000 + "1" + ")" * 3_000),
    "deep conditions": ("a.sh", lambda: "if [ -f a ]; then\n" * 2_000 + "x\n" + "fi\n" * 2_000),
    "many forks": ("a.sh", lambda: "".join(f"if [ -f {i} ]; then A{i}=1; fi\n" for i in range(600)) + SCRIPT),
    "doubling": ("a.sh", lambda: "A=aaaaaaaa\n" + "A=$A$A\n" * 60),
    "braces of arithmetic": ("a.sh", lambda: "torchrun x.py --num-layers $((" + "(" * 5_000 + "1" + ")" * 5_000 + "))"),
    "billion laughs": (
        "a.yaml",
        lambda: "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 12)),
    ),
    "a YAML that holds itself": ("a.yaml", lambda: "trainer: &a {devices: 8, num_nodes: 1, more: *a}\n"),
    "tags": ("a.yaml", lambda: YAML + "more: !!python/object/apply:os.system ['touch evil']\n"),
    "bytes": ("a.sh", lambda: "\0\1\2" * 1000),
    "nothing": ("a.sh", lambda: ""),
    "a here-document without end": ("a.sh", lambda: "cat <<EOF\n" + SCRIPT),
    "quotes without end": ("a.sh", lambda: SCRIPT + "echo 'open\n"),
    "slow patterns": ("a.sh", lambda: f"A={'a' * 1500}\nB=${{A##{'*a' * 200}b}}\n[[ $A =~ (a+)+b ]] && C=1\n{SCRIPT}"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_files_made_to_hurt(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    name, text = HUGE[kind]
    path = tmp_path / name
    path.write_text(text())
    begun = time.monotonic()
    judged(path)
    assert time.monotonic() - begun < 60  # on a busy machine; alone it is seconds
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_sources_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("source b.sh\n")
    (tmp_path / "b.sh").write_text("source a.sh\n")
    assert judged(tmp_path / "a.sh") is None


@pytest.mark.parametrize(
    "program", ["python3 -m verl.trainer.main_ppo", "megatron sft", "swift sft", "megatron sft --"]
)
def test_programs_without_words(program: str, tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text(program)
    judged(tmp_path / "a.sh")
