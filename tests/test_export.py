"""``meshwright export``: files for programs that others launch, judged by those programs' own code."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import small_model, spec
from meshwright.cli import main
from meshwright.emit.bridge import container
from meshwright.emit.exports import EXPORTS
from meshwright.resolver import override, resolve
from meshwright.spec import PipelineSplit, Schedule, Spec
from meshwright.spec.model import Moe, Rope, RopeScaling
from meshwright.spec.techniques import ModulePrecision, OverlappedProduct
from meshwright.verify import verify

JUDGES = {
    "accelerate_deepspeed": "accelerate",
    "accelerate_fsdp": "accelerate",
    "bridge": "megatron",
    "torchtitan": "torchtitan",
}


def of(**changes: Any) -> Spec:
    """A small Llama on 8 GPUs for 200 steps; ``changes`` by path, two underscores for a dot."""
    one = spec(small_model(), 8, global_batch=16, zero=3)
    for path, value in {"training.steps": 200, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        one = override(one, path, value)
    return one


def written(one: Spec, program: str) -> dict[str, str]:
    return EXPORTS[program](resolve(one, program))


BF16 = {"training__grad_reduce": "bf16"}

BASES: dict[str, Spec] = {
    "accelerate_deepspeed": of(),
    "accelerate_fsdp": of(**BF16),
    "bridge": of(parallelism__zero=1),
    "torchtitan": of(),
}

EARLY = "wsd that ends early"
SCHEDULES = {
    "constant": Schedule(style="constant", warmup_steps=20),
    "linear": Schedule(style="linear", warmup_steps=20),
    "linear to a rate": Schedule(style="linear", min_lr=3e-5),
    "cosine": Schedule(style="cosine", warmup_steps=20, decay_steps=200),
    "cosine to a rate": Schedule(style="cosine", warmup_steps=20, min_lr=3e-5),
    "inverse square root": Schedule(style="inverse_sqrt", warmup_steps=20),
    "wsd": Schedule(style="wsd", warmup_steps=20, wsd_decay_steps=40, wsd_decay_style="minus_sqrt"),
    "wsd to a rate": Schedule(style="wsd", min_lr=3e-5, wsd_decay_steps=40),
    EARLY: Schedule(style="wsd", warmup_steps=20, decay_steps=150, wsd_decay_steps=40),
}

PROVEN: dict[str, list[Spec]] = {
    "accelerate_deepspeed": [
        *(
            of(training__schedule=schedule, parallelism__zero=i % 3 + 1)
            for i, schedule in enumerate(SCHEDULES.values())
        ),
        of(training__precision="fp32", parallelism__zero=0),
        of(training__precision="fp16", parallelism__recompute="full", cluster__gpus=16),
        of(backend__deepspeed__offload_optimizer__device="cpu", training__optimizer__weight_decay=0.0),
        of(backend__deepspeed__hpz=4, backend__deepspeed__prefetch_bucket=1000),
    ],
    "accelerate_fsdp": [
        *(of(**BF16, training__schedule=schedule) for schedule in SCHEDULES.values()),
        of(**BF16, parallelism__zero=2, parallelism__recompute="full"),
        of(parallelism__zero=0, parallelism__recompute="full"),
        of(parallelism__zero=0, training__precision="fp16", cluster__gpus=1),
        of(training__precision="fp32", cluster__gpus=16),
        of(**BF16, parallelism__cp=4),
    ],
}


PIPELINE = {"cluster__gpus": 16, "parallelism__tp": 2, "parallelism__sp": True, "parallelism__pp": 2}
LLAMA3 = Rope(base=5e5, scaling=RopeScaling(kind="llama3", factor=8.0, original_positions=8192))

PROVEN["torchtitan"] = [
    *(of(training__schedule=one) for name, one in SCHEDULES.items() if name not in ("inverse square root", EARLY)),
    of(**PIPELINE, parallelism__recompute="full", training__optimizer__name="adam"),
    of(**PIPELINE, parallelism__vpp=2, parallelism__zero=2, model__vocab=1024),
    of(**PIPELINE, parallelism__pipeline_split=PipelineSplit(embedding=True, loss=True), model__layers=10),
    of(parallelism__zero=0, training__precision="fp32", model__rope=LLAMA3),
    of(parallelism__optimizer_instances=2, model__tied_embeddings=True),
    of(parallelism__cp=2, parallelism__cp_comm="all_gather"),
]


MOE = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1)
CAPPED = replace(MOE, capacity_factor=1.5, drop_policy="position")

MIXED = {
    "parallelism__zero": 1,
    "training__precision": "mxfp8",
    "cluster__accelerator__capability": "10.0",
    "backend__megatron__quantization__modules": (
        ModulePrecision(match="*.linear_proj"),
        ModulePrecision(match="*.linear_fc[12]", precision="mxfp8"),
    ),
}

PROVEN["bridge"] = [
    *(of(parallelism__zero=i % 2, training__schedule=one) for i, one in enumerate(SCHEDULES.values())),
    of(**PIPELINE, parallelism__zero=1, parallelism__vpp=2, parallelism__recompute="full"),
    of(parallelism__zero=1, parallelism__cp=2, training__precision="fp8_delayed"),
    of(parallelism__zero=1, parallelism__ep=2, model__moe=MOE, training__precision="fp16"),
    of(parallelism__zero=1, model__moe=CAPPED, backend__megatron__experts__padded_to_capacity=True),
    of(parallelism__zero=3, training__data__paths=("a", "b"), training__data__weights=(0.3, 0.7)),
    of(parallelism__zero=2, backend__megatron__fsdp="torch", model__rope=LLAMA3, training__precision="fp32"),
    of(parallelism__zero=1, training__precision="bf16", backend__megatron__precision_aware_optimizer=True),
    of(**MIXED),
    of(
        parallelism__zero=1,
        model__positions="learned",
        model__max_positions=512,
        model__activation="squared_relu",
        model__norm="layernorm",
    ),
]


@pytest.mark.parametrize("program", EXPORTS)
def test_the_programs_own_code_accepts_what_is_written(program: str) -> None:
    if find_spec(JUDGES[program]) is None:
        pytest.skip(f"{JUDGES[program]} is not installed")
    plans = [resolve(one, program) for one in PROVEN[program]]
    for judged in verify(plans, (program,)):
        (verdict,) = judged
        assert [check.details for check in verdict.checks if not check.passed] == []


# --- the files ---


def test_the_launch_file_of_fsdp_says_how_parameters_are_sharded() -> None:
    launch = yaml.safe_load(written(of(**BF16, parallelism__cp=4), "accelerate_fsdp")["accelerate.yaml"])
    assert launch["num_processes"] == 8
    assert launch["fsdp_config"]["fsdp_reshard_after_forward"] is True
    assert launch["parallelism_config"]["parallelism_config_dp_shard_size"] == 2
    assert launch["parallelism_config"]["parallelism_config_cp_size"] == 4


def test_what_the_trainer_has_no_word_for_is_handed_to_the_script() -> None:
    files = written(of(training__data__paths=("a",), training__logging__tensorboard="tb"), "accelerate_deepspeed")
    assert json.loads(files["script_arguments.json"])["data"]["paths"] == ["a"]
    assert json.loads(files["environment.json"])["TENSORBOARD_LOGGING_DIR"] == "tb"


def test_norms_and_biases_do_not_decay() -> None:
    """DeepSpeed's own optimizer would get all parameters in one group; without one the Trainer makes its own."""
    assert "optimizer" not in json.loads(written(of(), "accelerate_deepspeed")["ds_config.json"])


# --- the verb ---

WORDS = ["model=tiny", "cluster=local_cpu", "cluster.gpus=8", "training.sequence=64", "training.steps=10"]
MORE = ["parallelism.zero=3", "training.grad_reduce=bf16", "verify=false"]


def test_the_verb_writes_a_folder_of_the_programs_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "to=accelerate_fsdp", *WORDS, *MORE, f"runs={tmp_path}", "output=json"]
    assert main(words) == 0
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert {path.name for path in (Path(stage["folder"]) / "accelerate_fsdp").iterdir()} >= {"accelerate.yaml"}
    assert "config.yaml" in stage["files"]


def test_what_cannot_be_exported_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "to=accelerate_fsdp", *WORDS, "parallelism.tp=2", f"runs={tmp_path / 'runs'}"]) == 2
    assert "parallelism: tp = 2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ([], "to: not set; there are accelerate_deepspeed, accelerate_fsdp, bridge, torchtitan"),
        (["to=accelerate"], "to: no program 'accelerate'; did you mean accelerate_deepspeed or accelerate_fsdp?"),
        (["to=nemo"], "to: no program 'nemo'; there are accelerate_deepspeed"),
    ],
)
def test_a_program_that_is_not_there(to: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *to, *WORDS]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_bridge_takes_user_buffers_as_a_table() -> None:
    own = (OverlappedProduct(name="fc2_fprop", method="ring_exchange", sms=1),)
    asked = override(override(BASES["bridge"], "parallelism.tp", 2), "parallelism.sp", True)
    asked = override(override(asked, "parallelism.overlap_tp", True), "backend.megatron.tp_overlap.products", own)
    table = written(asked, "bridge")["config.yaml"]
    assert "tp_comm_overlap_cfg:\n    fc2_fprop:\n      method: ring_exchange\n      num_sm: 1\n" in table


def test_bridge_takes_modules_precisions_as_megatrons_own_object() -> None:
    pytest.importorskip("megatron.core")
    from megatron.core.quantization.quant_config import MatchContext
    from megatron.training.config.instantiate_utils import instantiate

    made = instantiate(container(resolve(of(**MIXED), "bridge"))["model"]["quant_recipe"])
    found = {name: made.match(MatchContext(name, None)) for name in ("layers.0.linear_proj", "layers.0.linear_fc1")}
    assert {name: config.config["training_recipe"] for name, config in found.items()} == {
        "layers.0.linear_proj": {},
        "layers.0.linear_fc1": {"fp8_quantization_recipe": "mxfp8"},
    }


def test_bridges_overrides_are_hydras() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    weighted = of(parallelism__zero=1, training__data__paths=("a b", "c"), training__data__weights=(0.3, 0.7))
    lines = written(weighted, "bridge")["overrides.txt"].splitlines()
    read = {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(lines)}
    assert read["dataset.data_path"] == ["0.3", "a b", "0.7", "c"]
    assert read["model.attention_backend"]["_call_"] is False
    assert read["train.global_batch_size"] == 16


def test_a_key_that_bridge_does_not_know_is_found() -> None:
    from meshwright.verify.bridge import fields

    values = container(resolve(BASES["bridge"], "bridge"))
    assert fields(values).passed
    values["model"]["tensor_model_parallel"] = 2
    assert fields(values).details == "GPTModelProvider has no tensor_model_parallel"
