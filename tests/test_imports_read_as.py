"""What our keys cannot say as the source does is said in a remark, and read as the nearest thing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.emit.megatron import flags
from meshwright.errors import ConfigError
from meshwright.imports.found import Imported, Place
from meshwright.imports.megatron import of_flags
from meshwright.imports.mindspeed import OTHER_MODELS
from meshwright.imports.read import imported
from meshwright.resolver import resolve
from meshwright.rules.launch import SET_HERE
from meshwright.verify.pool import fork_map

SUMS = "--accumulate-allreduce-grads-in-fp32"
HALF = "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --seq-length 64 --micro-batch-size 1 --lr 1e-4"


def sums_in_fp32(words: list[str]) -> bool:
    """What Megatron's validate_args leaves of a command line."""
    from meshwright.verify import megatron

    megatron.warm()
    arguments, *_ = megatron.parse(resolve(spec(small_model(), 1)), words)
    return bool(arguments.accumulate_allreduce_grads_in_fp32)


def test_megatron_sums_in_fp32_by_itself_only_for_bf16() -> None:
    pytest.importorskip("megatron.core")
    base = spec(small_model(), 1)
    said = [flags(resolve(replace(base, training=replace(base.training, precision=kind)))) for kind in ("bf16", "fp16")]
    unsaid = [[word for word in words if word != SUMS] for words in said]
    assert [len(words) for words in unsaid] == [len(words) - 1 for words in said]
    assert fork_map(sums_in_fp32, [*unsaid, said[1]]) == [True, False, True]


@pytest.mark.parametrize(("words", "said"), [("--fp16", [4]), (f"--fp16 {SUMS}", []), ("--bf16", []), ("", [])])
def test_sums_in_fp16_are_said(words: str, said: list[int]) -> None:
    line = f"{HALF} {words}".split()
    source = of_flags([(word, Place("train.sh", 4)) for word in line], "launch script")
    assert source.values["training.grad_reduce"] == "fp32"
    found = [one for one in source.remarks if one.rule == "import.grad_reduce"]
    assert [(one.level, one.place.line) for one in found] == [("warning", line) for line in said]
    assert all(
        "summed and sent in fp16" in one.message and "4 bytes a parameter instead of 2" in one.message for one in found
    )


def of_json(folder: Path, **keys: object) -> Imported:
    path = folder / "ds.json"
    path.write_text(json.dumps({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2}, **keys}))
    return imported([path])


def test_deepspeeds_sums_in_fp16_are_said(tmp_path: Path) -> None:
    """ZeRO sums in the weights' type where nothing else is said (runtime/engine.py:1806)."""
    half = of_json(tmp_path, fp16={"enabled": True})
    assert [one.rule for one in half.remarks] == ["import.grad_reduce"]
    full = of_json(tmp_path, fp16={"enabled": True}, data_types={"grad_accum_dtype": "fp32"})
    assert (full.remarks, full.values["training.grad_reduce"]) == ((), "fp32")
    assert of_json(tmp_path, bf16={"enabled": True}).values["training.grad_reduce"] == "bf16"


def slime(folder: Path, *words: str) -> Imported:
    path = folder / "run.sh"
    actor = "--actor-num-nodes 1 --actor-num-gpus-per-node 8 --rollout-max-response-len 8192 --lr 1e-6"
    model = "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 100"
    path.write_text(f"python3 train.py {actor} {model} {' '.join(words)}\n")
    return imported([path])


@pytest.mark.parametrize(
    ("words", "sequences"),
    [
        ("", 1),
        ("--micro-batch-size 2 --max-tokens-per-gpu 40960", 2),  # which only dynamic batches read
        ("--use-dynamic-batch-size --max-tokens-per-gpu 40960", 5),
        ("--use-dynamic-batch-size --max-tokens-per-gpu 20480 --context-parallel-size 2", 5),
        ("--use-dynamic-batch-size --max-tokens-per-gpu 20480 --micro-batch-size 7", 2),
        ("--use-dynamic-batch-size --max-tokens-per-gpu 4096", 1),  # one that is too long is alone
    ],
)
def test_slimes_tokens_are_whole_answers(words: str, sequences: int, tmp_path: Path) -> None:
    source = slime(tmp_path, words)
    assert (source.values["training.micro_batch"], source.values["training.sequence"]) == (sequences, 8192)
    told = {one.key: one.reason for one in source.found}
    if "--use-dynamic-batch-size" in words:
        assert told["--max-tokens-per-gpu"] == "read as whole answers of the longest length a micro-batch"


def test_what_is_open_is_not_remarked_upon(tmp_path: Path) -> None:
    """What Megatron would say of its default is not what it will say."""
    path = tmp_path / "args.yaml"
    path.write_text("ARGS:\n  --sequence-parallel: true\n  --tensor-model-parallel-size: ${TP}\n")
    rules = [[one.rule for one in imported([path], {"TP": tp} if tp else {}).remarks] for tp in ("", "1", "2")]
    assert rules == [[], ["megatron.sequence_parallel"], []]


def test_an_engine_of_verl_that_is_not_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sft.sh"
    path.write_text("torchrun --nproc_per_node=8 -m verl.trainer.sft_trainer engine=veomni model.path=Qwen/Qwen3-8B\n")
    with pytest.raises(ConfigError, match=r"sft.sh:1: verl's engine veomni is not read here; fsdp and megatron are"):
        imported([path])


@pytest.mark.parametrize(("size", "rules"), [("-1", []), ("8", []), ("4", ["import.fsdp"])])
def test_states_that_are_sharded_over_a_part_are_said(size: str, rules: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sft.sh"
    words = f"engine.fsdp_size={size} model.path=Qwen/Qwen3-8B trainer.total_training_steps=10"
    path.write_text(f"torchrun --nproc_per_node=8 -m verl.trainer.sft_trainer {words}\n")
    source = imported([path])
    assert [one.rule for one in source.remarks] == rules
    assert source.values["parallelism.zero"] == 3


OTHERS = {
    "a merger of verl's": (
        "merge.sh",
        "python -m verl.model_merger merge --backend fsdp --local_dir a\n",
        "merge.sh: no training that is known here",
    ),
    "NVIDIA/NeMo-Aligner @af2b3bd examples/mm/clip/conf/baseline.yaml": (
        "baseline.yaml",
        "trainer: {devices: 8, num_nodes: 1}\nmodel:\n  mbs: 32\n  vision: {precision: bf16, num_layers: 12}\n",
        "baseline.yaml:4: model.vision.precision is of another kind of model than a decoder",
    ),
    "NVIDIA/NeMo-Aligner @af2b3bd examples/mm/stable_diffusion/conf/draftp_sd.yaml": (
        "draftp_sd.yaml",
        "trainer: {devices: 8, num_nodes: 1}\nmodel:\n  first_stage_key: images\n",
        "draftp_sd.yaml:3: model.first_stage_key is of another kind of model than a decoder",
    ),
    "NVIDIA-NeMo/RL @7ea279a examples/configs/grpo_math_1B.yaml": (
        "grpo.yaml",
        "policy: {megatron_cfg: {tensor_model_parallel_size: 2}}\n",
        "grpo.yaml: a configuration of NeMo-RL, which is not read; see docs/imports.md",
    ),
    "inclusionAI/AReaL @4aef98d examples/math/boba_grpo.yaml": (
        "boba_grpo.yaml",
        "cluster: {n_nodes: 1}\nactor: {backend: 'fsdp:d4', mb_spec: {max_tokens_per_mb: 16384}}\n",
        "boba_grpo.yaml: a configuration of AReaL, which is not read; see docs/imports.md",
    ),
    "allenai/OLMo-core .github/dependabot.yml": (
        "dependabot.yml",
        "version: 2\n",
        "dependabot.yml: no kind of YAML that is known; see docs/imports.md",
    ),
}


@pytest.mark.parametrize("source", OTHERS)
def test_what_is_not_read_is_refused_in_one_line(source: str, tmp_path: Path) -> None:
    name, text, said = OTHERS[source]
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as refused:
        imported([tmp_path / name])
    assert str(refused.value).removeprefix(f"{tmp_path}/").startswith(said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(SET_HERE))
def test_an_option_of_sbatch_that_follows_from_the_plan_is_not_passed_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(f"#!/bin/bash\n#SBATCH --{name}=1\ntorchrun --nproc_per_node=8 pretrain_gpt.py {HALF} --bf16\n")
    source = imported([path])
    assert source.values["launch.slurm.extra"] == []
    assert [one.reason for one in source.found if one.fate == "dropped" and not one.reason] == []


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        ("hostname --ip-address", ["launch.master_addr"]),
        ('srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address', []),
        ('srun --nodelist="$head" hostname', []),
        ('scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1', []),
    ],
)
def test_the_name_of_one_node_is_that_of_the_first(command: str, rules: list[str], tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    start = "srun torchrun --nnodes 2 --nproc_per_node 8 --rdzv_endpoint $address:29500 pretrain_gpt.py"
    path.write_text(f"#!/bin/bash\n#SBATCH --nodes=2\naddress=$({command})\n{start} {HALF} --bf16\n")
    assert [one.rule for one in imported([path]).remarks if one.rule == "launch.master_addr"] == rules


def mindspeed(words: str) -> dict[str, object]:
    line = f"{HALF} --bf16 {words}".split()
    return dict(of_flags([(word, Place("train.sh", 1)) for word in line], "launch script").values)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--context-parallel-size 4 --context-parallel-algo ulysses_cp_algo", {"parallelism.cp_comm": "a2a"}),
        ("--context-parallel-size 4 --context-parallel-algo megatron_cp_algo", {"parallelism.cp_comm": "p2p"}),
        ("--context-parallel-size 4 --context-parallel-algo kvallgather_cp_algo", {"parallelism.cp_comm": "allgather"}),
        (
            "--context-parallel-size 8 --context-parallel-algo hybrid_cp_algo --ulysses-degree-in-cp 2",
            {"parallelism.cp_comm": "a2a+p2p", "parallelism.cp_levels": [2, 4]},
        ),
        (
            "--pipeline-model-parallel-size 2 --num-layer-list 1,1",
            {"parallelism.pipeline_split.layout": "Et|tL", "parallelism.vpp": 1},
        ),
        (
            "--num-layers 6 --num-experts 8 --moe-ffn-hidden-size 32 --first-k-dense-replace 2 --n-shared-experts 2",
            {"model.moe.first_dense": 2, "model.moe.every": 1, "model.moe.shared_ffn": 64},
        ),
        (
            "--num-experts 8 --tensor-model-parallel-size 2 --expert-model-parallel-size 2 --moe-tp-extend-ep",
            {"parallelism.ep": 4, "parallelism.etp": 1, "parallelism.tp": 2},
        ),
    ],
)
def test_mindspeeds_flags_are_megatrons_arguments(words: str, values: dict[str, object]) -> None:
    """Ascend/MindSpeed-LLM @c77308a: training/arguments.py, core/transformer/transformer_block.py."""
    found = mindspeed(words)
    assert {path: found[path] for path in values} == values


@pytest.mark.parametrize("flag", OTHER_MODELS)
def test_a_flag_of_mindspeed_that_makes_another_model_is_remarked_upon(flag: str) -> None:
    line = f"{HALF} --bf16 {flag} 3".split()
    source = of_flags([(word, Place("train.sh", 1)) for word in line], "launch script")
    assert [one.message.split()[0] for one in source.remarks if one.rule == "import.model"] == [flag]


@pytest.mark.parametrize("words", ["--num-layer-list a,b", "--n-shared-experts 2", "--first-k-dense-replace 1"])
def test_what_cannot_be_translated_is_named(words: str) -> None:
    line = f"--bf16 {words}".split()
    source = of_flags([(word, Place("train.sh", 1)) for word in line], "launch script")
    (lost,) = [one for one in source.found if one.fate == "dropped"]
    assert lost.key == words.split()[0]
    assert lost.reason
