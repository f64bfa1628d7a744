"""What single values may be: nonsense is refused on its own line, by whatever way it comes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from builders import small_model, spec
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.resolver import override, refusals, resolve
from meshwright.rules import POSITIVE
from meshwright.rules.ranges import RANGES, Range
from meshwright.spec import EnvVariable, RampStep, Spec
from meshwright.spec.model import DeltaNet, Indexer, Mamba, Mla, Moe, Multipliers, Rope, RopeScaling, ShortConvolution

ROPE = Rope(scaling=RopeScaling(kind="yarn", factor=4.0, original_positions=4096))
MOE = Moe(experts=8, topk=2, ffn=64, capacity_factor=1.0)
MLA = Mla(kv_lora_rank=16, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32)
NET = DeltaNet(key_heads=4, value_heads=8, key_dim=16, value_dim=16)
MAMBA = Mamba(heads=8, head_dim=16, groups=4, state=16)
WHOLE = spec(small_model(moe=MOE, mla=MLA, rope=ROPE), 8, global_batch=16)
MIXED = spec(small_model(pattern="4x(M- G-)", delta_net=NET, mamba=MAMBA), 8, global_batch=16)
BESIDE = small_model(pattern="4x(P- C-)", mamba=MAMBA, short_convolution=ShortConvolution(), multipliers=Multipliers())
OURS = spec(BESIDE, 8, global_batch=16)
INDEXED = spec(small_model(mla=MLA, indexer=Indexer(heads=4, head_dim=16, topk=32)), 8, global_batch=16)


def said(path: str, value: object, backend: str = "megatron") -> list[str]:
    base = MIXED if path.startswith(("model.delta_net.", "model.mamba.")) else WHOLE
    base = OURS if path.startswith(("model.short_convolution.", "model.multipliers.")) else base
    base = INDEXED if path.startswith("model.indexer.") else base
    return [str(problem) for problem in refusals(override(base, path, value), backend)]


def test_which_tokens_are_dropped_is_no_question_without_a_capacity() -> None:
    every = override(override(WHOLE, "model.moe.capacity_factor", None), "model.moe.drop_policy", "position")
    (problem,) = refusals(every, "megatron")
    assert "model.moe.drop_policy: position, and without model.moe.capacity_factor none is dropped" in str(problem)
    assert problem.repairs == ({"model.moe.drop_policy": "probs"},)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("cluster.accelerator.capability", "x", "'x' is no compute capability such as 9.0; 0.0 where there is none"),
        ("model.sliding_window", 0, "0 is out of range; give at least 1"),
        ("model.rope.fraction", 1.5, "1.5 is out of range; give more than 0 and at most 1"),
        ("model.rope.base", 0.0, "0 is out of range; give more than 0"),
        ("model.mtp", -1, "-1 is out of range; give at least 0 and at most 100,000"),
        ("model.hidden_dropout", 1.0, "1 is out of range; give at least 0 and less than 1"),
        ("model.mla.kv_lora_rank", 0, "0 is out of range; give at least 1"),
        ("model.moe.capacity_factor", -1.0, "-1 is out of range; give more than 0"),
        ("training.optimizer.beta2", 1.0, "1 is out of range; give at least 0 and less than 1"),
        ("training.seed", -1, "-1 is out of range; give at least 0"),
        ("backend.megatron.vocab_divisor", 0, "0 is out of range; give at least 1"),
        ("cluster.efficiency.spread", 1e9, "1e+09 is out of range; give at least 0 and at most 10"),
        ("launch.watchdog.factor", 0.5, "0.5 is out of range; give 0, or at least 1"),
        ("launch.watchdog.slow", 0.9, "0.9 is out of range; give 0, or at least 1"),
        ("launch.port", 70000, "70000 is no port; give 1024 to 65535"),
    ],
)
def test_a_number_out_of_its_range_is_one_line(path: str, value: object, line: str) -> None:
    assert said(path, value) == [f"{path}: {line}"]


@pytest.mark.parametrize("path", RANGES)
def test_every_range_is_judged(path: str) -> None:
    backend = "deepspeed" if path.startswith("backend.deepspeed") else "megatron"
    assert f"{path}: -1 is out of range" in "\n".join(said(path, -1, backend))


def test_every_number_has_a_range_or_a_rule() -> None:
    others = {  # judged by a rule that knows more than a range
        *("backend.deepspeed.hpz", "parallelism.microbatch_group", "parallelism.recompute_layers", "parallelism.zero"),
        *("backend.deepspeed.offload_optimizer.ratio", "backend.deepspeed.offload_param.ratio", "launch.port"),
        *("model.moe.experts", "model.moe.groups", "model.moe.group_topk", "model.moe.topk"),
        *("parallelism.pipeline_split.first", "parallelism.pipeline_split.last"),
    }
    positive = {rule.path for rule in POSITIVE}
    each = (path for whole in (WHOLE, MIXED, OURS, INDEXED) for path in numbers(whole))
    found = {path for path in each if not path.startswith("launch.slurm.")}
    assert found - RANGES.keys() - positive == others


def numbers(value: Any, above: str = "") -> Iterator[str]:
    for field in fields(value):
        hint, inner = get_type_hints(type(value))[field.name], getattr(value, field.name)
        if is_dataclass(inner):
            yield from numbers(inner, f"{above}{field.name}.")
        elif {hint, *get_args(hint)} & {int, float} and not {hint, *get_args(hint)} & {Ellipsis}:
            yield f"{above}{field.name}"


def test_a_range_in_words() -> None:
    assert str(Range(above=0, most=1)) == "more than 0 and at most 1"
    assert Range(least=1).holds(1)
    assert not Range(above=0).holds(0)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.mla": None, "model.head_dim": 15}, "model.head_dim: 15 of 15 channels of a head are rotated"),
        ({"model.mla.qk_rope_dim": 7}, "model.mla.qk_rope_dim: 7 of 7 channels of a head are rotated"),
        (
            {"model.indexer": Indexer(heads=4, head_dim=4, topk=32)},
            "model.indexer.head_dim: 4 channels hold no positions of 8; set model.indexer.head_dim=8",
        ),
        (
            {"model.indexer": Indexer(heads=4, head_dim=16, topk=32), "model.mla": None},
            "model.mla: not set, and model.indexer chooses tokens for latent attention; set model.indexer=null",
        ),
        ({"training.schedule.min_lr": 1.0}, "training.schedule.min_lr: 1.0 is more than the peak"),
        (
            {"training.schedule.style": "wsd", "training.schedule.wsd_decay_steps": 9, "training.steps": 5},
            "training.schedule.wsd_decay_steps: a last phase of 9 steps does not fit into 5 steps",
        ),
        (
            {"training.schedule.style": "wsd", "training.schedule.wsd_decay_steps": 9, "training.tokens": 16 * 512 * 8},
            "training.schedule.wsd_decay_steps: a last phase of 9 steps does not fit into 8 steps",
        ),
        ({"training.data.weights": (1.0, 2.0)}, "training.data.weights: 2 weights for 0 paths; give one each"),
        ({"training.data.weights": (0.0,), "training.data.paths": ("a",)}, "training.data.weights: 0 is not above 0"),
        ({"training.data.split": "all"}, "training.data.split: 'all' is not three shares"),
        ({"training.data.tokenizer.kind": "huggingface"}, "training.data.tokenizer.path: not set; a huggingface"),
        ({"training.ramp": (RampStep(from_tokens=-1, global_batch=16),)}, "training.ramp[0].from_tokens: -1 is out"),
        (
            {"parallelism.recompute": "selective", "parallelism.recompute_modules": ("mpl",)},
            "parallelism.recompute_modules[0]: 'mpl' is no part of a layer; there are core_attn, moe_act, layernorm",
        ),
        (
            {"cluster.environment": {"A=1; rm -rf ~ #": EnvVariable(value="1", why="x")}},
            "cluster.environment: 'A=1; rm -rf ~ #' cannot name a variable",
        ),
        ({"launch.environment": {"$(id)": "1"}}, "launch.environment: '$(id)' cannot name a variable"),
    ],
)
def test_values_that_do_not_go_together(changes: dict[str, Any], line: str) -> None:
    wrong = WHOLE
    for path, value in changes.items():
        wrong = override(wrong, path, value)
    (problem,) = refusals(wrong, "megatron")
    assert str(problem).startswith(line)
    with pytest.raises(ConfigError):
        resolve(wrong)


def test_what_a_backend_does_not_read_does_not_stop_it() -> None:
    assert said("backend.deepspeed.reduce_bucket", -1) == []
    assert "backend.deepspeed.reduce_bucket: -1 is out of range; give at least 0" in said(
        "backend.deepspeed.reduce_bucket", -1, "deepspeed"
    )


def test_all_values_of_all_stages_are_judged_when_a_run_is_loaded() -> None:
    words = ["recipe=llama3_405b", "training.seed=-1", "cluster.accelerator.bf16_tflops=0"]
    with pytest.raises(ConfigError) as caught:
        load(words)
    assert str(caught.value).splitlines() == [
        "cluster.accelerator.bf16_tflops: 0 is out of range; give more than 0",
        "training.seed: -1 is out of range; give at least 0",
    ]


@pytest.mark.parametrize("backend", ["megatron", "deepspeed"])
def test_what_is_sound_is_not_touched(backend: str) -> None:
    sound: Spec = spec(small_model(), 8, global_batch=16, zero=1)
    assert refusals(sound, backend) == []
