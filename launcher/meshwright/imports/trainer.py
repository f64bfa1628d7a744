"""Hugging Face Trainer's arguments -> values of ours (names and defaults: transformers 5.24 training_args.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.found import Found, Remark, Source
from meshwright.imports.keyed import Row, carried, fates, opened
from meshwright.imports.known_models import known_model
from meshwright.imports.trainer_keys import LOST, adapted
from meshwright.imports.trainer_values import asks, recompute, reshards, switch, true

__all__ = ["TRAINER", "of_trainer"]

_STYLES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
_STYLES |= {"inverse_sqrt": "inverse_sqrt", "warmup_stable_decay": "wsd", "cosine_with_min_lr": "cosine"}
_OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(
        ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adamw_torch_8bit"), "adamw"
    ),
    "sgd": "sgd",
    "muon": "muon",
    "lion_32bit": "lion",
}


def _bf16(value: Any) -> str | None:
    return "bf16" if value == "full" or switch(value) else None


_SEQUENCE = (
    "max_seq_length",
    "max_length",
    "cutoff_len",
    "model_max_length",
    "block_size",
    "sequence_len",
    "max_seq_len",
)

TRAINER: Mapping[str, Row] = {
    **{name: Row("training.sequence", int) for name in _SEQUENCE},
    "per_device_train_batch_size": Row("training.micro_batch", int),
    "micro_batch_size": Row("training.micro_batch", int),
    "gradient_accumulation_steps": Row("training.microbatches", int),
    "learning_rate": Row("training.optimizer.lr", float),
    "weight_decay": Row("training.optimizer.weight_decay", float),
    "adam_beta1": Row("training.optimizer.beta1", float),
    "adam_beta2": Row("training.optimizer.beta2", float),
    "adam_epsilon": Row("training.optimizer.eps", float),
    "max_grad_norm": Row("training.optimizer.clip", float),
    "optim": Row("training.optimizer.name", _OPTIMIZERS.__getitem__),
    "tensor_model_parallel_size": Row("parallelism.tp", int),
    "pipeline_model_parallel_size": Row("parallelism.pp", int),
    "virtual_pipeline_model_parallel_size": Row("parallelism.vpp", int),
    "expert_model_parallel_size": Row("parallelism.ep", int),
    "context_parallel_size": Row("parallelism.cp", int),
    "sequence_parallel": Row("parallelism.sp", switch),
    "overlap_grad_reduce": Row("parallelism.overlap_grad_reduce", switch),
    "overlap_param_gather": Row("parallelism.overlap_param_gather", switch),
    "use_distributed_optimizer": Row("parallelism.zero", lambda on: int(switch(on))),
    "recompute_granularity": Row("parallelism.recompute", {"full": "full", "selective": "selective"}.__getitem__),
    "moe_grouped_gemm": Row("backend.megatron.moe_grouped_gemm", switch),
    "moe_token_dispatcher_type": Row("backend.megatron.moe_dispatcher", str),
    "max_steps": Row("training.steps", lambda steps: int(steps) if int(steps) > 0 else None),
    "warmup_steps": Row("training.schedule.warmup_steps", int),
    "lr_scheduler_type": Row("training.schedule.style", _STYLES.__getitem__),
    "lr_scheduler": Row("training.schedule.style", _STYLES.__getitem__),
    "num_warmup_steps": Row("training.schedule.warmup_steps", int),
    "optimizer": Row("training.optimizer.name", _OPTIMIZERS.__getitem__),
    "zero_stage": Row("parallelism.zero", int),
    "dp_shard_size": Row("parallelism.zero", lambda count: 3 if int(count) > 1 else None),
    "tensor_parallel_size": Row("parallelism.tp", int),
    "pure_bf16": Row("training.precision", _bf16),
    "bf16": Row("training.precision", _bf16),
    "fp16": Row("training.precision", lambda on: "fp16" if switch(on) else None),
    "gradient_checkpointing": Row("parallelism.recompute", recompute),
    "seed": Row("training.seed", int),
    "logging_steps": Row("training.logging.interval", int),
    "save_steps": Row("training.logging.save_interval", int),
    "output_dir": Row("training.logging.save", str),
    "dataloader_num_workers": Row("training.data.workers", int),
}
_DEFAULTS = {
    "training.micro_batch": 8,
    "training.precision": "fp32",
    "training.optimizer.lr": 5e-5,
    "training.optimizer.weight_decay": 0.0,
    "training.optimizer.beta1": 0.9,
    "training.optimizer.beta2": 0.999,
    "training.optimizer.eps": 1e-8,
    "training.optimizer.clip": 1.0,
    "training.schedule.style": "linear",
    "training.seed": 42,
    "parallelism.recompute": "none",
}


def of_trainer(leaves: Leaves) -> Source:
    """TrainingArguments as YAML or JSON; ``fsdp`` words are read as the ZeRO stage that shards the same states."""
    values = {**_DEFAULTS, "backend.name": "deepspeed", **carried(leaves, TRAINER), **_fsdp(leaves)}
    values |= {**_lengths(leaves, values), **_by_megatron(leaves)}
    model = _model(leaves)
    values |= {"training.grad_reduce": "fp32", **model}
    if "bf16" in leaves and leaves["bf16"].value == "auto":  # axolotl's: where the GPU has it, as all of ours have
        values["training.precision"] = "bf16"
    if _swifts(leaves):
        values["training.precision"] = "bf16"
    return Source(
        kind="Hugging Face Trainer's arguments",
        values=values,
        found=tuple(_named(one, bool(model)) for one in fates(leaves, TRAINER, LOST, lambda _: "", "the Trainer")),
        asks=(*opened(leaves, TRAINER), *asks("the Trainer's arguments say")),
        remarks=tuple(_adapters(leaves)),
    )


def _model(leaves: Leaves) -> dict[str, Any]:
    """One of ours, where the name it is loaded by says so."""
    named = [str(leaves[key].value) for key in _NAMES if key in leaves]
    return known_model(named[0]) if named else {}


_NAMES = ("model_name_or_path", "base_model", "model")  # the last is ms-swift's


_AGAIN = "fsdp_config.reshard_after_forward"
_PARTS = {
    _AGAIN: "parallelism.zero",
    "fsdp_config.offload_params": "backend.deepspeed.offload_param.device",
    "lr_scheduler_kwargs.min_lr_rate": "training.schedule.min_lr",
    "lr_scheduler_kwargs.min_lr": "training.schedule.min_lr",
}
"""Keys that are read together with others."""


def _swifts(leaves: Leaves) -> bool:
    """Whether ms-swift's type of weights says that it computes in bf16."""
    own = "tuner_type" in leaves or "train_type" in leaves or "model" in leaves
    return own and "bf16" not in leaves and "torch_dtype" in leaves and leaves["torch_dtype"].value == "bfloat16"


def _named(one: Found, read: bool) -> Found:
    """The key that names the model, where it is one of ours; and what says that states are sharded."""
    if one.key in _PARTS:
        return replace(one, fate="mapped", path=_PARTS[one.key], reason="")
    return replace(one, fate="mapped", path="model", reason="") if read and one.key in _NAMES else one


def _adapters(leaves: Leaves) -> Iterator[Remark]:
    if _on(leaves, "fp8"):
        yield Remark("warning", "import.float8", "fp8 is not carried: bf16 is read", leaves["fp8"].place)
    if key := adapted({key: one.value for key, one in leaves.items()}):
        message = (
            f"{key}: an adapter or a part is trained, which is not described here; what is judged trains all of it"
        )
        yield Remark("warning", "import.adapter", message, leaves[key].place)


def _fsdp(leaves: Leaves) -> dict[str, Any]:
    """The Trainer names a strategy; axolotl's FSDP 2 has a section alone."""
    words = str(leaves["fsdp"].value) if "fsdp" in leaves else ""
    stages = {"full_shard": 3, "shard_grad_op": 2, "no_shard": 0, "hybrid_shard": 3}
    named = [stage for word, stage in stages.items() if word in words]
    if named or not any(key.startswith("fsdp_config.") for key in leaves):
        return {"parallelism.zero": named[0]} if named else {}
    again = leaves[_AGAIN].value if _AGAIN in leaves else True
    away = {"backend.deepspeed.offload_param.device": "cpu", "backend.deepspeed.offload_optimizer.device": "cpu"}
    return {"parallelism.zero": reshards(again), **(away if _on(leaves, "fsdp_config.offload_params") else {})}


def _on(leaves: Leaves, key: str) -> bool:
    return key in leaves and true(leaves[key].value)


def _lengths(leaves: Leaves, values: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a length that is stated, and of the learning rate (transformers optimization.py)."""
    said = {key: one.value for key, one in leaves.items()}
    steps, ratio = values.get("training.steps"), said.get("warmup_ratio")
    part, floor = said.get("lr_scheduler_kwargs.min_lr_rate"), said.get("lr_scheduler_kwargs.min_lr")
    lowest = part * values["training.optimizer.lr"] if isinstance(part, float) else floor
    made = {"training.schedule.min_lr": lowest} if isinstance(lowest, float) else {}
    if isinstance(steps, int) and isinstance(ratio, float | int):
        made["training.schedule.warmup_steps"] = ceil(steps * ratio)
    return made


_MEGATRONS = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size")


def _by_megatron(leaves: Leaves) -> dict[str, Any]:
    """LLaMA-Factory's trainer on Megatron-core, which shards the optimizer unless told otherwise."""
    if not any(key in leaves for key in _MEGATRONS):
        return {}
    sharded = not ("use_distributed_optimizer" in leaves and not _on(leaves, "use_distributed_optimizer"))
    return {"backend.name": "megatron", "parallelism.zero": int(sharded)}
