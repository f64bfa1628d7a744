"""verl's supervised fine-tuning: words of its launch scripts (trainer/config/sft_trainer.yaml and _engine.yaml).

Its FSDP shards as ZeRO-3 does, Ulysses splits sequences as it does under DeepSpeed; with ``engine=megatron`` it is
Megatron-core. Read at verl b178a3c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Source
from meshwright.imports.keyed import Row
from meshwright.imports.shape_values import first
from meshwright.imports.shaped import Shape, To, of_shape
from meshwright.imports.verl_fsdp import COMMON, Fsdp, of_fsdp, offloads, steps

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


def _sequences(leaves: Leaves) -> int:
    """Of the longest length in a micro-batch of so many tokens; dynamic batches are the default."""
    said = {key: one.value for key, one in leaves.items()}
    if said.get("data.use_dynamic_bsz", True) is not True:
        return int(said.get("data.micro_batch_size_per_gpu", 4))
    tokens, longest = said.get("data.max_token_len_per_gpu", _TOKENS), said.get("data.max_length", _LONGEST)
    ranks = said.get("engine.ulysses_sequence_parallel_size", said.get("engine.context_parallel_size", 1))
    return max(1, int(tokens) * int(ranks) // int(longest))  # workers/engine/utils.py:76


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
        "optim.lr_warmup_steps": To("lr_warmup_iters", steps, usual=("_1",)),
        _RATIO: To("lr_warmup_fraction", float),
        "optim.total_training_steps": To("train_iters", steps, usual=("_1",)),
        "trainer.total_training_steps": To("train_iters", steps, usual=("null",)),
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
    "optim.lr_warmup_steps": Row("training.schedule.warmup_steps", steps),
    "trainer.total_training_steps": Row("training.steps", steps),
    "trainer.seed": Row("training.seed", int),
    "model.enable_gradient_checkpointing": Row("parallelism.recompute", lambda on: "full" if on else "none"),
    "model.fsdp_config.cpu_offload": offloads("optimizer"),
    "model.fsdp_config.offload_params": offloads("param"),
    "engine.optimizer_offload": offloads("optimizer"),
    "engine.param_offload": offloads("param"),
}
_DEFAULTS = {
    **COMMON,
    "training.sequence": _LONGEST,
    "training.micro_batch": 4,
    "training.global_batch": 256,
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
        return of_fsdp(leaves, _form(older), world)
    if engine.value == "megatron":
        return of_shape(leaves, MEGATRON, world)
    message = f"verl's engine {engine.value} is not read here; fsdp and megatron are"
    raise ConfigError([Problem(str(engine.place), message, "import.engine")])


def _form(older: bool) -> Fsdp:
    """Of FSDP's own trainer, or of the one that engines have together."""
    return Fsdp(
        kind="verl SFT configuration on FSDP, read as ZeRO-3",
        rows=FSDP,
        defaults={**_DEFAULTS, **(_OLDER if older else _NEWER)},
        reasons=_REASONS,
        betas="optim.betas",
        ratio=_RATIO,
        size="engine.fsdp_size",
        lora="model.lora_rank",
        models=("model.partial_pretrain", "model.path"),
        more=(lambda leaves: {}) if older else _packed,
    )


def _packed(leaves: Leaves) -> dict[str, Any]:
    """Whole sequences in a micro-batch of so many tokens."""
    sizes = (
        *("data.use_dynamic_bsz", "data.max_token_len_per_gpu", "data.max_length", "data.micro_batch_size_per_gpu"),
        "engine.ulysses_sequence_parallel_size",
    )
    plain = all(isinstance(leaves[key].value, int) for key in sizes if key in leaves)
    return {"training.micro_batch": _sequences(leaves)} if plain else {}
