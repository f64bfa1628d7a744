"""verl's supervised fine-tuning: words of its launch scripts (trainer/config/sft_trainer.yaml and _engine.yaml).

Its FSDP shards as ZeRO-3 does, Ulysses splits sequences as it does under DeepSpeed; with ``engine=megatron`` it is
Megatron-core. Read at verl b178a3c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Found, Remark, Source
from meshwright.imports.keyed import Row, carried, fates, opened
from meshwright.imports.known_models import known_model
from meshwright.imports.shape_values import first
from meshwright.imports.shaped import Shape, To, of_shape

__all__ = ["of_sft", "takes"]

_DATA = "the text, which is not described here"
_OWN = "verl's own: how it logs, saves and loads"
_PACKED = "read as whole sequences of the longest length a micro-batch"
_REASONS = {
    **dict.fromkeys(("data.use_dynamic_bsz", "data.max_token_len_per_gpu"), _PACKED),
    "data.micro_batch_size": "verl reads micro_batch_size_per_gpu (fsdp_sft_trainer.py:484)",
    "trainer.total_epochs": "the text's length decides its steps; give training.steps=N",
    **dict.fromkeys(("trainer.nnodes", "trainer.n_gpus_per_node"), "counted as cluster.gpus"),
    **dict.fromkeys(("trainer", "checkpoint", "profiler", "engine", "optim", "model", "hydra"), _OWN),
    "data": _DATA,
    **dict.fromkeys(
        ("use_remove_padding", "model.use_remove_padding", "data.pad_mode"), "padding is not described here"
    ),
}
_RATIO = "optim.lr_warmup_steps_ratio"
_LONGEST, _TOKENS = 1024, 8192  # sft_trainer_engine.yaml


def _steps(count: Any) -> int | None:
    return int(count) if int(count) > 0 else None


def _sequences(leaves: Leaves) -> int:
    """Of the longest length in a micro-batch of so many tokens; dynamic batches are the default."""
    said = {key: one.value for key, one in leaves.items()}
    if said.get("data.use_dynamic_bsz", True) is not True:
        return int(said.get("data.micro_batch_size_per_gpu", 4))
    tokens, longest = said.get("data.max_token_len_per_gpu", _TOKENS), said.get("data.max_length", _LONGEST)
    return max(1, int(tokens) // int(longest))


MEGATRON = Shape(
    kind="verl SFT configuration on Megatron",
    model="model.path",
    more=lambda leaves: {"micro_batch_size": _sequences(leaves)},
    sections=(
        *("engine", "engine.override_transformer_config", "optim"),
        "optim.override_optimizer_config",
    ),
    # engine/megatron.yaml, optim/megatron.yaml, sft_trainer_engine.yaml
    defaults={
        "bf16": True,
        "use_distributed_optimizer": True,
        "sequence_parallel": True,
        "seed": 42,
        "seq_length": _LONGEST,
        "global_batch_size": 256,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "adam_beta2": 0.999,
        "lr_decay_style": "constant",
    },
    keys={
        "data.train_batch_size": To("global_batch_size"),
        "data.max_length": To("seq_length"),
        "optim.lr": To("lr", float),
        "optim.weight_decay": To("weight_decay", float),
        "optim.clip_grad": To("clip_grad", float),
        "optim.betas": To("adam_beta1", first),
        "optim.lr_warmup_steps": To("lr_warmup_iters", _steps, usual=("_1",)),
        _RATIO: To("lr_warmup_fraction", float),
        "optim.total_training_steps": To("train_iters", _steps, usual=("_1",)),
        "trainer.total_training_steps": To("train_iters", _steps, usual=("null",)),
    },
    reasons={**_REASONS, "data.micro_batch_size_per_gpu": _PACKED, "model.path": "the model that is named"},
)

_STYLES = {"cosine": "cosine", "wsd": "wsd", "constant": "constant"}
_SP = ("ulysses_sequence_parallel_size", "engine.ulysses_sequence_parallel_size")
FSDP: Mapping[str, Row] = {
    **{key: Row("parallelism.cp", int) for key in _SP},
    "data.train_batch_size": Row("training.global_batch", int),
    "data.micro_batch_size_per_gpu": Row("training.micro_batch", int),
    "data.max_length": Row("training.sequence", int),
    "optim.lr": Row("training.optimizer.lr", float),
    "optim.weight_decay": Row("training.optimizer.weight_decay", float),
    "optim.clip_grad": Row("training.optimizer.clip", float),
    "optim.betas": Row("training.optimizer.beta1", first),
    "optim.lr_scheduler": Row("training.schedule.style", _STYLES.__getitem__),
    "optim.lr_scheduler_type": Row("training.schedule.style", _STYLES.__getitem__),
    "optim.lr_warmup_steps": Row("training.schedule.warmup_steps", _steps),
    "trainer.total_training_steps": Row("training.steps", _steps),
    "trainer.seed": Row("training.seed", int),
    "model.enable_gradient_checkpointing": Row("parallelism.recompute", lambda on: "full" if on else "none"),
    "model.fsdp_config.cpu_offload": Row(
        "backend.deepspeed.offload_optimizer.device", lambda on: "cpu" if on else None
    ),
    "model.fsdp_config.offload_params": Row("backend.deepspeed.offload_param.device", lambda on: "cpu" if on else None),
    "engine.optimizer_offload": Row("backend.deepspeed.offload_optimizer.device", lambda on: "cpu" if on else None),
    "engine.param_offload": Row("backend.deepspeed.offload_param.device", lambda on: "cpu" if on else None),
}
_DEFAULTS = {
    "backend.name": "deepspeed",
    "parallelism.zero": 3,
    "parallelism.recompute": "full",
    "training.precision": "bf16",  # fsdp_sft_trainer.py:293, weights in fp32 beside
    "training.grad_reduce": "fp32",
    "training.sequence": _LONGEST,
    "training.micro_batch": 4,
    "training.global_batch": 256,
    "training.optimizer.weight_decay": 0.01,
    "training.optimizer.beta1": 0.9,
    "training.optimizer.clip": 1.0,
    "training.seed": 1,
}
_OLDER = {"training.optimizer.lr": 1e-5, "training.optimizer.beta2": 0.95, "training.schedule.style": "cosine"}
_NEWER = {"training.optimizer.lr": 1e-3, "training.optimizer.beta2": 0.999, "training.schedule.style": "constant"}


def takes(program: str) -> bool:
    """Whether it is one of verl's programs that fine-tune."""
    return re.fullmatch(r"verl\.trainer\.(fsdp_)?sft_trainer(_ray)?", program) is not None


def of_sft(leaves: Leaves, program: str, world: int | None) -> Source:
    """What its words say.

    Raises:
        ConfigError: where the engine is neither FSDP nor Megatron.

    """
    older = program.endswith(".fsdp_sft_trainer")
    engine = leaves.get("engine")
    if older or engine is None or engine.value in ("fsdp", "fsdp2"):
        return _of_fsdp(leaves, older, world)
    if engine.value == "megatron":
        return of_shape(leaves, MEGATRON, world)
    message = f"verl's engine {engine.value} is not read here; fsdp and megatron are"
    raise ConfigError([Problem(str(engine.place), message, "import.engine")])


def _of_fsdp(leaves: Leaves, older: bool, world: int | None) -> Source:
    values = {**_DEFAULTS, **(_OLDER if older else _NEWER), **carried(leaves, FSDP)}
    if not older and (packed := _packed(leaves)):
        values["training.micro_batch"] = packed
    name = next((str(leaves[key].value) for key in ("model.partial_pretrain", "model.path") if key in leaves), "")
    model = known_model(name)
    message = f"{name or 'the model'} is none of ours; give model=NAME, or model=hf model.path=DIR"
    asked = () if model else (Ask("model", Problem("model", message, "import.missing")),)
    found = (_named(one, bool(model)) for one in fates(leaves, FSDP, _REASONS, lambda _: "", "verl's SFT"))
    return Source(
        kind="verl SFT configuration on FSDP, read as ZeRO-3",
        values={**values, **_of_betas(leaves), **_warmup(leaves, values), **_gpus(world), **model},
        found=tuple(found),
        asks=(*opened(leaves, FSDP), *asked),
        remarks=tuple(_partly(leaves, world)),
    )


def _packed(leaves: Leaves) -> int | None:
    sizes = ("data.use_dynamic_bsz", "data.max_token_len_per_gpu", "data.max_length", "data.micro_batch_size_per_gpu")
    plain = all(isinstance(leaves[key].value, int) for key in sizes if key in leaves)
    return _sequences(leaves) if plain else None


def _of_betas(leaves: Leaves) -> dict[str, Any]:
    betas = leaves["optim.betas"].value if "optim.betas" in leaves else None
    return {"training.optimizer.beta2": betas[1]} if isinstance(betas, list) and len(betas) == 2 else {}


def _warmup(leaves: Leaves, values: Mapping[str, Any]) -> dict[str, int]:
    """A part of the steps that are stated."""
    ratio, steps = leaves[_RATIO].value if _RATIO in leaves else None, values.get("training.steps")
    if not isinstance(ratio, float | int) or not isinstance(steps, int):
        return {}
    return {"training.schedule.warmup_steps": int(steps * ratio)}


def _gpus(world: int | None) -> dict[str, int]:
    return {"cluster.gpus": world} if world else {}


def _named(one: Found, read: bool) -> Found:
    """Keys that are read together with others."""
    if one.key in ("model.partial_pretrain", "model.path") and read:
        return replace(one, fate="mapped", path="model", reason="")
    return replace(one, fate="mapped", path="training.schedule.warmup_steps", reason="") if one.key == _RATIO else one


def _partly(leaves: Leaves, world: int | None) -> Iterator[Remark]:
    """States that are sharded over a part of the ranks, and copied."""
    size = leaves.get("engine.fsdp_size")
    if size and isinstance(size.value, int) and 0 < size.value != world:
        message = f"engine.fsdp_size {size.value} shards over a part of the ranks: read as ZeRO-3 over all of them"
        yield Remark("warning", "import.fsdp", message, size.place)
    lora = leaves.get("model.lora_rank")
    if lora and lora.value:
        message = "an adapter is trained, which is not described here; what is judged trains all of the model"
        yield Remark("warning", "import.adapter", message, lora.place)
