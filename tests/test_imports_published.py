"""Configurations that people published, retyped as facts: the Plan that each one is, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.imports.documents import json_leaves, toml_leaves, yaml_leaves
from meshwright.imports.read import imported
from published import Published, bigscience, judged, megatron, numbers
from published_examples import DEEPSPEED, EXAMPLES, GPT3, GPT_345M, HF, MIXTRAL
from published_families import FAMILIES
from published_frameworks import FRAMEWORKS
from published_megatron_deepspeed import MEGATRON_DEEPSPEED
from published_post_training import POST_TRAINING

pytest.importorskip("tree_sitter_bash")


EVERY = EXAMPLES | FAMILIES | MEGATRON_DEEPSPEED | FRAMEWORKS | POST_TRAINING


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_of_a_published_configuration(name: str, tmp_path: Path) -> None:
    one = EVERY[name]
    result = judged(one, tmp_path)
    assert [said for said in result.said if said.level == "error"] == []
    found = numbers(result)
    assert {key: found[key] for key in one.wanted} == one.wanted
    assert all(key.reason for key in result.imported.found if key.fate == "dropped")


DOCUMENTS = [name for name, one in EVERY.items() if one.file.endswith((".yaml", ".yml", ".json", ".toml"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_key_of_a_document_has_a_fate(name: str, tmp_path: Path) -> None:
    one = EVERY[name]
    (tmp_path / one.file).write_text(one.facts)
    found = {key.key for key in imported([tmp_path / one.file], one.answers).found}
    assert {key if "--" not in key else f"--{key.rpartition('--')[2]}" for key in keys(one)} - found == set()


def keys(one: Published) -> set[str]:
    """The dotted paths of the document."""
    if one.file.endswith(".json"):
        return set(json_leaves(one.facts, one.file)[0])
    return set((toml_leaves if one.file.endswith(".toml") else yaml_leaves)(one.facts, one.file))


def wrong(reported: str, facts: str, rule: str, *words: str, file: str = "train.sh") -> Published:
    return Published(reported, file, facts, {"rule": rule}, words)


WRONG = {
    "degrees that do not divide": wrong(
        "Megatron-LM's own example starts TP 8 x PP 16 on one node unless told otherwise",
        megatron(8, GPT3, "--global-batch-size 1536 --tensor-model-parallel-size 8 --pipeline-model-parallel-size 16"),
        "grid.world",
    ),
    "two batch sizes": wrong(
        "the same example states a schedule of batches and a batch",
        megatron(8, GPT3, "--global-batch-size 1536 --step-batch-size-schedule 0:16"),
        "megatron.batch",
        "cluster.gpus=16",
    ),
    "a batch that does not divide": wrong(
        "NVIDIA/Megatron-LM issues: global batch size is not divisible by micro batch size times data parallel size",
        megatron(8, GPT_345M.replace("--global-batch-size 16", "--global-batch-size 12")),
        "batch.global",
    ),
    "a batch triad that does not multiply": wrong(
        "deepspeedai/DeepSpeed#3228",
        DEEPSPEED.replace('"train_batch_size": 128', '"train_batch_size": 100'),
        "deepspeed.batch",
        *HF,
        file="ds.json",
    ),
    "experts without sequence parallelism": wrong(
        "core/transformer/moe/moe_layer.py:630 stops at the first step",
        megatron(
            8, MIXTRAL, "--tensor-model-parallel-size 2 --expert-model-parallel-size 4 --expert-tensor-parallel-size 1"
        ),
        "experts.sequence_parallel",
    ),
    "ZeRO 3 with a pipeline": wrong(
        "deepspeed/runtime/pipe/engine.py:76",
        DEEPSPEED.replace('"gradient_clipping"', '"pipeline": {"stages": 4}, "gradient_clipping"'),
        "deepspeed.pipeline",
        *HF,
        file="ds.json",
    ),
    "chunks that drop layers": wrong(
        "--num-layers-per-virtual-pipeline-stage 5 of 24 layers over 2 stages",
        megatron(8, GPT_345M, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 5"),
        "megatron.virtual_stages",
    ),
    "auto without a Trainer": wrong(
        "huggingface/accelerate#1644",
        DEEPSPEED.replace('"gradient_clipping": 1.0', '"gradient_clipping": "auto"'),
        "deepspeed.auto",
        *HF,
        file="ds.json",
    ),
    "an address that every node takes for itself": wrong(
        "EleutherAI/gpt-neox#811, OLMo and others: nodes wait for ever",
        megatron(8, GPT_345M, nodes=2).replace("node0", "localhost"),
        "launch.master_addr",
    ),
    "tasks a node times torchrun": wrong(
        "EleutherAI/gpt-neox#1203: as many launchers as ranks",
        bigscience(2, 8, GPT_345M).replace("ntasks-per-node=1", "ntasks-per-node=8"),
        "launch.tasks",
        file="job.slurm",
    ),
    "a variable in the wrong place": wrong(
        "NVIDIA-NeMo/Megatron-Bridge#925",
        megatron(8, GPT_345M, "--tensor-model-parallel-size 2").replace("CONNECTIONS=1", "CONNECTIONS=32"),
        "megatron.environment",
    ),
    "comments in JSON": wrong(
        "a DeepSpeed configuration is parsed by Python's json",
        DEEPSPEED.replace("{\n", "{ // stage 3\n", 1),
        "import.comments",
        *HF,
        file="ds.json",
    ),
    "sizes that multiply to another world": wrong(
        "huggingface/accelerate#3798",
        "distributed_type: FSDP\nnum_processes: 8\nparallelism_config: {parallelism_config_dp_shard_size: 8,\n"
        "  parallelism_config_cp_size: 8}\n",
        "accelerate.world",
        *HF,
        file="nd.yaml",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_published_configuration_is_named(name: str, tmp_path: Path) -> None:
    one = WRONG[name]
    result = judged(one, tmp_path)
    assert result.code(strict=False) == 2
    said = {said.rule: said for said in result.said if said.level == "error"}
    assert one.wanted["rule"] in said, [str(each) for each in said]
    assert said[one.wanted["rule"]].place.file == str(tmp_path / one.file)
