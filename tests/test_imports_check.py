"""``check`` and ``import`` on files that people have: exit codes, annotations, and a recipe to go on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main

pytest.importorskip("tree_sitter_bash")

SCRIPT = """#!/bin/bash
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS=8
LAYOUT="--tensor-model-parallel-size 2 \\
    --pipeline-model-parallel-size 2 \\
    --sequence-parallel"
MODEL="--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32"
torchrun --nproc_per_node $GPUS pretrain_gpt.py $MODEL $LAYOUT --vocab-size 100 --bf16 \\
    --micro-batch-size 1 --global-batch-size 16 --train-iters 20 --lr 1e-3 --use-distributed-optimizer --mystery 3
"""


def written(tmp_path: Path, before: str = "", after: str = "") -> str:
    path = tmp_path / "pretrain.sh"
    path.write_text(SCRIPT.replace(before, after) if before else SCRIPT)
    return str(path)


def test_a_script_that_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written(tmp_path), "cluster=dgx_h100"]) == 0
    said = capsys.readouterr().out
    assert "8 = tp 2 · cp 1 · pp 2 · dp 2" in said
    assert "pretrain.sh:9: --mystery 3: megatron-core 0.19.2 has no such flag" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain.sh"]


def test_what_is_refused_stands_at_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "parallel-size 2 \\\n    --seq", "parallel-size 3 \\\n    --seq")
    assert main(["check", file, "output=github"]) == 2
    lines = capsys.readouterr().out.splitlines()
    said = [line.removeprefix(f"::error file={file},") for line in lines]
    assert any(one.startswith("line=4,title=grid.world::parallelism: tp·cp·pp = 2·1·3 does not") for one in said)
    assert any(one.startswith("line=5,title=pipeline.even::parallelism.pp: ") for one in said)


def test_warnings_are_errors_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "export CUDA_DEVICE_MAX_CONNECTIONS=1\n")
    assert main(["check", file]) == 0
    assert main(["check", file, "strict=true"]) == 1
    assert "the script does not set it [megatron.environment]" in capsys.readouterr().out
    contradicted = written(tmp_path, "CONNECTIONS=1", "CONNECTIONS=8")
    assert main(["check", contradicted]) == 2


def test_the_command_line_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parallelism.tp=4", "parallelism.sp=true", "output=json"]
    assert main(["check", written(tmp_path), "cluster=dgx_a100_80gb", *words]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["degrees"]["tp"], plan["degrees"]["dp"], plan["cluster"]) == (4, 1, "dgx_a100_80gb")


def test_for_programs_every_key_has_its_fate_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", written(tmp_path), "output=json"])
    document = json.loads(capsys.readouterr().out)
    by_key = {one["key"]: one for one in document["keys"]}
    assert by_key["--sequence-parallel"]["fate"] == "mapped"
    assert by_key["--sequence-parallel"]["place"]["line"] == 6
    assert by_key["--mystery"]["fate"] == "dropped"
    assert all(one["reason"] for one in document["keys"] if one["fate"] == "dropped")


def test_for_pull_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path)
    assert main(["check", file, "output=markdown"]) == 0
    said = capsys.readouterr().out
    assert f"## `{file}`: Megatron-LM launch script" in said
    assert f"| `--mystery` | `{file}:9` | megatron-core 0.19.2 has no such flag |" in said


def test_what_is_open_is_asked_for_and_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "GPUS=8\n")
    assert main(["check", file]) == 2
    assert "--nproc-per-node takes $GPUS, which the file leaves open; give set.GPUS=VALUE" in capsys.readouterr().out
    assert main(["check", file, "set.GPUS=4"]) == 0
    assert "4 = tp 2 · cp 1 · pp 2 · dp 1" in capsys.readouterr().out
    assert main(["check", file, "cluster.gpus=16", "output=json"]) == 0


def test_an_import_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", written(tmp_path), "cluster=dgx_h200", f"to={tmp_path}/mine"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"meshwright plan --config-dir {tmp_path}/mine recipe=pretrain"
    assert main([*line.split()[1:], "output=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["cluster"], plan["degrees"]["tp"], plan["batch"]["global"], plan["steps"]) == ("dgx_h200", 2, 16, 20)
    assert main(["check", written(tmp_path), "cluster=dgx_h200", "output=json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["cost"] == plan["cost"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check"], "check what? give a file"),
        (["import"], "import what? give a file"),
        (["check", "no_such.sh"], "no_such.sh: cannot be read: No such file or directory"),
        (["check", "FILE", "output=html"], "output: expected one of text, json, markdown, github, got 'html'"),
        (["check", "FILE", "cluster=dgx_h10"], "cluster: no option 'dgx_h10'; did you mean dgx_h100"),
    ],
)
def test_what_a_user_gets_wrong(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([written(tmp_path) if word == "FILE" else word for word in words]) == 2
    both = capsys.readouterr()
    assert said in both.out + both.err


def test_a_trainer_that_shards_nothing_is_no_deepspeed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("per_device_train_batch_size: 1\nmax_steps: 10\nbf16: true\n")
    words = [str(path), "cluster=dgx_h100", "cluster.gpus=8", "model=llama3_8b", "training.sequence=2048"]
    assert main(["check", *words, "output=json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (said,) = [one for one in document["said"] if one["rule"] == "import.ddp"]
    assert (said["level"], said["place"]["line"]) == ("warning", 3)
    assert document["plan"]["degrees"]["dp"] == 8
    tuned = tmp_path / "ds.json"
    tuned.write_text('{"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": "auto"}')
    assert main(["check", str(tuned), *words, "output=json"]) == 0
    assert "import.ddp" not in {one["rule"] for one in json.loads(capsys.readouterr().out)["said"]}


def test_two_files_of_gpt_neox_are_one_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, here = tmp_path / "small.yml", tmp_path / "local_setup.yml"
    model.write_text(
        '{"pipe_parallel_size": 1, "model_parallel_size": 2, "num_layers": 4, "hidden_size": 64, "seq_length": 32,\n'
        ' "num_attention_heads": 4, "max_position_embeddings": 32, "train_micro_batch_size_per_gpu": 2,\n'
        ' "train_iters": 10, "bf16": {"enabled": true}, "precision": "bfloat16", "optimizer": {"params": {"lr": 1e-3}}}'
    )
    here.write_text('{"vocab_file": "vocab.json", "save": "out", "checkpoint_factor": 5, "train_iters": 20}')
    words = ["model.vocab=100", "cluster=dgx_h100", "cluster.gpus=8", "output=json"]
    assert main(["check", str(model), str(here), *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kinds"] == ["gpt-neox configuration", "gpt-neox configuration, read with small.yml"]
    assert (document["plan"]["steps"], document["plan"]["degrees"]["tp"]) == (20, 2)
    assert {one["place"]["file"] for one in document["keys"]} == {str(model), str(here)}
    assert [one["reason"] for one in document["keys"] if one["key"] == "train_iters"] == [
        f"given again at {here}:1, which wins",
        "",
    ]


def test_a_model_is_asked_for_though_its_vocabulary_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text("model_name_or_path: nobody/knows\nper_device_train_batch_size: 1\nmax_length: 64\nbf16: true\n")
    assert main(["check", str(path), "model.vocab=100", "training.steps=10"]) == 2
    assert "no sizes of the model" in capsys.readouterr().out
