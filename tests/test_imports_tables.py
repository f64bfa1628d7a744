"""Configurations that are read by tables: a value that no table knows changes what is read, or is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshwright.imports import accelerate, bridge, deepspeed, nemo, neox, shapes, torchtitan, trainer
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Given, Place, Source
from meshwright.imports.shaped import Shape, of_shape

ODD = Place("odd.yaml", 99)
SIZES = {"num_layers": 8, "hidden_size": 512, "num_attention_heads": 8}


def leaves(**values: Any) -> Leaves:
    """Keys as a file of one line states them; a dot is written as two underscores."""
    named = {key.replace("__", "."): value for key, value in values.items()}
    return {key: Given(key, value, Place("base.yaml", 1)) for key, value in named.items()}


NEMO = leaves(
    trainer__devices=8,
    model__encoder_seq_length=64,
    model__activations_checkpoint_granularity="full",  # without it the method says nothing
    model__data__data_prefix=["tokens"],  # nor without data their split
    **{f"model__{key}": one for key, one in SIZES.items()},
)
NEOX = leaves(pipe_parallel_size=1, seq_length=64, **SIZES)
BRIDGE = leaves(model__seq_length=64, train__micro_batch_size=1, **{f"model__{key}": one for key, one in SIZES.items()})
VERL = leaves(actor_rollout_ref__model__path="Qwen/Qwen2-7B", actor_rollout_ref__actor__ppo_mini_batch_size=64)
TITAN = leaves(model__name="llama3", model__flavor="8B", training__seq_len=64)
ACCELERATE = leaves(distributed_type="DEEPSPEED", num_processes=8)
TRAINER = leaves(per_device_train_batch_size=2)

Reader = Callable[[Leaves], Source]


def of(shape: Shape) -> Reader:
    """The reader of a shape."""
    return lambda held: of_shape(held, shape)


SHAPED = {
    "nemo": (of(nemo.NEMO), NEMO, nemo.NEMO.keys),
    "neox": (of(neox.NEOX), NEOX, neox.NEOX.keys),
    "bridge": (bridge.of_bridge, BRIDGE, bridge.BRIDGE.keys),
    "verl": (of(shapes.VERL), VERL, shapes.VERL.keys),
    "torchtitan": (torchtitan.of_toml, TITAN, torchtitan.ROWS),
    "accelerate": (accelerate.of_accelerate, ACCELERATE, accelerate.ACCELERATE),
    "trainer": (trainer.of_trainer, TRAINER, trainer.TRAINER),
}


def silent(reader: Reader, base: Leaves, plain: Source, key: str, value: Any) -> bool:
    """Whether a key of this value leaves everything as it is without it, and is not named as not carried.

    ``plain``: what is read of ``base``.
    """
    read = reader({**base, key: Given(key, value, ODD)})
    without = reader({other: one for other, one in base.items() if other != key}) if key in base else plain
    named = any(one.place == ODD and one.fate in ("dropped", "passed") for one in read.found)
    asked = any(said in str(ask.problem) for ask in read.asks for said in (str(ODD), str(value)))
    remarked = any(one.place == ODD for one in read.remarks)
    return not (named or asked or remarked or read.values != without.values)


@pytest.mark.parametrize("name", SHAPED)
def test_a_value_that_no_table_knows_is_seen(name: str) -> None:
    reader, base, keys = SHAPED[name]
    plain = reader(base)
    assert [key for key in keys if silent(reader, base, plain, key, "unusual")] == []


@pytest.mark.parametrize(
    ("name", "key", "value", "path", "read"),
    [
        ("nemo", "trainer.precision", 16, "training.precision", "fp16"),
        ("nemo", "model.activation", "fast-geglu", "model.activation", "geglu"),
        ("nemo", "model.ffn_hidden_size", "${multiply:3, ${.hidden_size}}", "model.ffn", 1536),
        ("neox", "precision", "fp16", "training.precision", "fp16"),
        ("neox", "activation", "geglu", "model.activation", "geglu"),
        ("bridge", "model.fp8_param", True, "backend.megatron.quantization.param_gather", True),
        ("torchtitan", "lr_scheduler.decay_type", "sqrt", "training.schedule.style", "sqrt"),  # no style of ours
    ],
)
def test_a_value_beside_the_usual_one_is_read(name: str, key: str, value: Any, path: str, read: Any) -> None:
    reader, base, _ = SHAPED[name]
    source = reader({**base, key: Given(key, value, ODD)})
    assert source.values[path] == read
    assert [one.fate for one in source.found if one.place == ODD] == ["mapped"]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("nemo", "model.activation", "relu"),
        ("nemo", "model.optim.name", "sgd"),
        ("nemo", "trainer.val_check_interval", 37),
        ("nemo", "model.ffn_hidden_size", "${divide:3, 1}"),
        ("neox", "activation", "mish"),
        ("bridge", "mixed_precision", "bf16_with_int8_mixed"),
        ("verl", "actor_rollout_ref.actor.megatron.override_transformer_config.normalization", "LayerNorm"),
    ],
)
def test_a_value_that_nothing_here_says_is_not_carried(name: str, key: str, value: Any) -> None:
    reader, base, _ = SHAPED[name]
    found = [one for one in reader({**base, key: Given(key, value, ODD)}).found if one.place == ODD]
    assert [one.fate for one in found] == ["dropped"]
    assert found[0].reason


def test_autocast_is_read_as_such_beside_weights_of_fp32() -> None:
    asked = leaves(train_micro_batch_size_per_gpu=2, torch_autocast__enabled=True, torch_autocast__dtype="bfloat16")
    read = deepspeed.of_json(asked)
    assert read.values["backend.deepspeed.autocast"] == "bf16"
    assert read.values["training.precision"] == "fp32"
    assert [one.fate for one in read.found if one.key.startswith("torch_autocast")] == ["mapped", "mapped"]
