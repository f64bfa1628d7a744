"""``meshwright export``: files for programs that others launch, judged by those programs' own code; nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from meshwright.errors import ConfigError
from meshwright.resolver import holds, override, refusals, resolve
from meshwright.rules import every_rule
from meshwright.rules.accelerate import RULES as TRAINER
from meshwright.rules.bridge import RULES as BRIDGE
from meshwright.rules.exported import RULES as EXPORTED
from meshwright.rules.torchtitan import RULES as TORCHTITAN
from meshwright.spec import PipelineSplit, RampStep, Schedule, Spec
from meshwright.spec.model import Moe, Rope, RopeScaling
from meshwright.spec.techniques import ModulePrecision, OverlappedProduct
from meshwright.verify import verify
from test_emit_mutation import leaves, others

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


def broken(program: str, **changes: Any) -> set[str]:
    base = BASES[program]
    for path, value in changes.items():
        base = override(base, path.replace("__", "."), value)
    return {problem.rule for problem in refusals(base, program)}


OWN = (*EXPORTED, *TRAINER, *BRIDGE, *TORCHTITAN)
NO_REPAIR = ("bridge.length", "bridge.model", "trainer.length", "torchtitan.length", "torchtitan.model")
YARN = RopeScaling(kind="yarn", factor=4.0, original_positions=4096)
WSD = Schedule(style="wsd", wsd_decay_steps=40, warmup_steps=20)

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "trainer.length": ("accelerate_fsdp", {"training__steps": None}),
    "trainer.ramp": ("accelerate_fsdp", {"training__ramp": (RampStep(from_tokens=0, global_batch=8),)}),
    "trainer.optimizer": ("accelerate_deepspeed", {"training__optimizer__name": "sgd"}),
    "trainer.decay": ("accelerate_fsdp", {"training__schedule__decay_steps": 100}),
    "trainer.inverse_sqrt": ("accelerate_fsdp", {"training__schedule__style": "inverse_sqrt"}),
    "trainer.wsd": ("accelerate_fsdp", {"training__schedule": replace(WSD, wsd_decay_style="exponential")}),
    "trainer.wsd_warmup": ("accelerate_fsdp", {"training__schedule": replace(WSD, min_lr=1e-5)}),
    "trainer.precision": ("accelerate_fsdp", {"training__precision": "fp8_delayed"}),
    "trainer.deepspeed_degrees": ("accelerate_deepspeed", {"parallelism__tp": 2}),
    "trainer.deepspeed_techniques": ("accelerate_deepspeed", {"backend__deepspeed__tiling__loss": 4}),
    "trainer.deepspeed_offload": ("accelerate_deepspeed", {"backend__deepspeed__offload_optimizer__device": "cpu"}),
    "trainer.fsdp_degrees": ("accelerate_fsdp", {"parallelism__tp": 2}),
    "trainer.fsdp_split": ("accelerate_fsdp", {"parallelism__pipeline_split__loss": True}),
    "trainer.fsdp_zero": ("accelerate_fsdp", {"parallelism__zero": 1}),
    "trainer.fsdp_instances": ("accelerate_fsdp", {"parallelism__optimizer_instances": 2}),
    "trainer.fsdp_context": ("accelerate_fsdp", {"parallelism__cp": 2, "training__sequence": 510}),
    "trainer.fsdp_attention": ("accelerate_fsdp", {"parallelism__cp": 2, "backend__deepspeed__attention": "eager"}),
    "trainer.fsdp_sums": ("accelerate_fsdp", {"training__grad_reduce": "fp32"}),
    "fsdp.states": ("accelerate_fsdp", {"backend__deepspeed__offload_optimizer__device": "cpu"}),
    "export.evaluation": ("torchtitan", {"training__evaluation__interval": 10}),
    "export.checkpoints": ("bridge", {"training__logging__keep_last": 3}),
    "bridge.model": ("bridge", {"model__mtp": 1}),
    "bridge.positions": ("bridge", {"model__positions": "learned"}),
    "bridge.rope": ("bridge", {"model__rope": Rope(scaling=YARN)}),
    "bridge.length": ("bridge", {"training__steps": None}),
    "bridge.ramp": ("bridge", {"training__ramp": (RampStep(from_tokens=0, global_batch=8),)}),
    "bridge.extra": ("bridge", {"backend__megatron__extra": ("--log-params-norm",)}),
    "torchtitan.model": ("torchtitan", {"model__qk_norm": "head"}),
    "torchtitan.length": ("torchtitan", {"training__steps": None}),
    "torchtitan.ramp": ("torchtitan", {"training__ramp": (RampStep(from_tokens=0, global_batch=8),)}),
    "torchtitan.precision": ("torchtitan", {"training__precision": "fp16"}),
    "torchtitan.optimizer": ("torchtitan", {"training__optimizer__clip": 0.0}),
    "torchtitan.schedule": ("torchtitan", {"training__schedule": replace(WSD, wsd_decay_style="exponential")}),
    "torchtitan.decay": ("torchtitan", {"training__schedule__decay_steps": 100}),
    "torchtitan.data": ("torchtitan", {"training__data__paths": ("a",)}),
    "torchtitan.zero": ("torchtitan", {"parallelism__zero": 1}),
    "torchtitan.replicas": ("torchtitan", {"parallelism__zero": 0, "parallelism__tp": 2}),
    "torchtitan.instances": ("torchtitan", {"parallelism__optimizer_instances": 3}),
    "torchtitan.kv_heads": ("torchtitan", {"parallelism__tp": 8}),
    "torchtitan.vocabulary": ("torchtitan", {"parallelism__tp": 2, "model__vocab": 1001}),
    "torchtitan.tied": ("torchtitan", {"parallelism__pp": 2, "model__tied_embeddings": True}),
    "torchtitan.context": ("torchtitan", {"parallelism__cp": 2}),
    "torchtitan.interleaved": (
        "torchtitan",
        {"parallelism__pp": 2, "parallelism__vpp": 2, "training__global_batch": 12},
    ),
    "torchtitan.group": (
        "torchtitan",
        {"parallelism__pp": 2, "parallelism__vpp": 2, "parallelism__microbatch_group": 4},
    ),
    "torchtitan.recompute": ("torchtitan", {"parallelism__recompute": "selective"}),
    "torchtitan.order": ("torchtitan", {"parallelism__pp": 2, "parallelism__order": "tp-cp-ep-pp-dp"}),
    "torchtitan.overlap": ("torchtitan", {"parallelism__overlap_tp": True}),
    "trainer.ddp_sums": ("accelerate_fsdp", {"parallelism__zero": 0}),
    "trainer.fsdp_overlap": ("accelerate_fsdp", {"parallelism__overlap_param_gather": False}),
}


@pytest.mark.parametrize("rule", [rule.id for rule in OWN])
def test_what_a_program_cannot_say_is_refused_by_name(rule: str) -> None:
    program, changes = REFUSED[rule]
    assert rule in broken(program, **changes)


@pytest.mark.parametrize("rule", [rule for rule in OWN if rule.id not in NO_REPAIR], ids=lambda rule: rule.id)
def test_what_is_proposed_mends_it(rule: Any) -> None:
    program, changes = REFUSED[rule.id]
    base = BASES[program]
    for path, value in changes.items():
        base = override(base, path.replace("__", "."), value)
    (problem,) = [one for one in refusals(base, program) if one.rule == rule.id]
    assert problem.repairs, problem
    for repair in problem.repairs:
        mended = base
        for path, value in repair.items():
            mended = override(mended, path, value)
        assert rule.id not in {one.rule for one in refusals(mended, program)}


def test_a_programs_rules_are_those_its_bases_share_and_its_own() -> None:
    both = {rule.id for rule in every_rule() if {"megatron", "deepspeed"} <= set(rule.backends)}
    assert "batch.global" in both
    assert "batch.global" in broken("accelerate_fsdp", training__global_batch=17)
    assert "deepspeed.precision" in broken("accelerate_deepspeed", training__precision="mxfp8")
    assert not any(rule.startswith("megatron.") for rule in broken("accelerate_fsdp", training__global_batch=17))


# --- nothing is lost ---

DESCRIBES = "describes the hardware, or where and how ranks are started, which the program's own launcher does"
OTHER = "an option of a backend that does not run here"
NAMES = "names the run or the model"
DERIVED = "the same number stated instead of derived"

COMMON = {
    "stage": NAMES,
    "variant": NAMES,
    "model.name": NAMES,
    "cluster": DESCRIBES,
    "software": "what is installed; the rules and the notes read it",
    "training.evaluation.steps": "without an evaluation it has no length",
    "launch": DESCRIBES,
    "backend.name": "another program is launched here",
    "backend.megatron": OTHER,
    "training.microbatches": DERIVED,
    "training.schedule.wsd_decay_steps": "wsd only",
    "training.schedule.wsd_decay_style": "wsd only",
    "training.optimizer.momentum": "SGD only",
    "parallelism.order": "without stages both orders are one",
    "parallelism.cp_comm": "without context parallelism nothing is exchanged",
    "parallelism.overlap_p2p": "without chunks there is no such overlap",
    "model.mtp_loss_weight": "without multi-token prediction there is no such loss",
}

OF_EXPERTS = ("rank_capacity", "paged_stash", "flex_sms", "flex_backend", "router_fusion", "shared_expert_overlap")
READ_BY_MEGATRON = ("backend.megatron", "parallelism.order", "parallelism.cp_comm", "training.optimizer.momentum")

IRRELEVANT: dict[str, dict[str, str]] = {
    "accelerate_deepspeed": {
        **COMMON,
        "backend.deepspeed.allgather_bucket": "ZeRO 1 and 2 only",
        "backend.deepspeed.offload_optimizer": "without a device there is no offload",
        "backend.deepspeed.offload_param": "without a device there is no offload",
        "backend.deepspeed.attention": "the kernel stated that auto would choose",
        "backend.deepspeed.torch_adam": "the Trainer's AdamW is PyTorch's",
        "backend.deepspeed.super_offload_cores": "SuperOffload only",
        "backend.deepspeed.zenflow": "refused, but for what says nothing without topk",
        "backend.deepspeed.moe_dispatcher_sms": "DeepEP only",
    },
    "accelerate_fsdp": {**COMMON, "backend.deepspeed": OTHER},
    "bridge": {
        **{path: why for path, why in COMMON.items() if path not in READ_BY_MEGATRON},
        "backend.deepspeed": OTHER,
        "backend.megatron.fsdp": "ZeRO 2 and 3 only",
        "backend.megatron.moe_dispatcher": "without experts nothing is dispatched",
        "backend.megatron.moe_grouped_gemm": "without experts there is nothing to group",
        "backend.megatron.moe_permute_fusion": "without experts nothing is permuted",
        **{f"backend.megatron.moe_{name}": "without experts there is no such thing" for name in OF_EXPERTS},
        "training.optimizer.momentum": "SGD and Muon only",
        "backend.megatron.experts": "without experts none is fed",
        "backend.megatron.model": "the class stated that auto would choose",
        "backend.megatron.spec": "our layers are refused",
        "backend.megatron.checkpoint_format": "torch_dist stated instead of derived",
        "model.full_attention_every": "a pattern of sliding windows; without a window there is none",
        "model.max_positions": "rotary positions have no end",
        "model.position_offset": "learned positions only",
        "model.norm_before_positions": "learned positions only",
        "model.shared_parallel_norm": "without a parallel residual there is no norm to share",
        "model.attention_bias": "without linear biases there is none to leave out",
        "model.transformers": "the name in transformers",
        "training.data.epochs": "checked before a launch",
        "training.data.tokenizer.kind": "bytes and null are Megatron's NullTokenizer",
    },
    "torchtitan": {
        **COMMON,
        "backend.deepspeed": OTHER,
        "model.transformers": "the name in transformers",
        "model.full_attention_every": "a pattern of sliding windows; without a window there is none",
        "parallelism.pipeline_split.embedding": "without stages nothing is split",
        "parallelism.pipeline_split.loss": "without stages nothing is split",
        "training.data.epochs": "checked before a launch",
        "training.data.cache": "torchtitan's data are its own",
        "training.data.tokenizer.kind": "the folder is read, whatever its kind",
    },
}


def lost(program: str) -> Iterator[str]:
    """The fields that can be changed without effect."""
    base = BASES[program]
    before = written(base, program)
    for path, hint, value in leaves(base):
        for other in others(hint, value):
            mutated = override(base, path, other)
            try:
                if holds(mutated, program) and written(mutated, program) == before:
                    yield path
                    break
            except ConfigError:
                continue


@pytest.mark.parametrize("program", EXPORTS)
def test_no_field_is_lost(program: str) -> None:
    def known(path: str) -> set[str]:
        return {row for row in IRRELEVANT[program] if path == row or path.startswith(f"{row}.")}

    silent = set(lost(program))
    assert {path for path in silent if not known(path)} == set()
    assert set(IRRELEVANT[program]) - {row for path in silent for row in known(path)} == set()


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
