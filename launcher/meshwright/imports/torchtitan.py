"""torchtitan's TOML -> values of ours (torchtitan 0.2, config/job_config.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from meshwright.errors import Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Remark, Source
from meshwright.imports.keyed import Row, carried, fates
from meshwright.imports.known_models import known_model

__all__ = ["of_toml"]

_P = ("parallelism.", "training.", "experimental.")  # where versions keep the degrees


def _each(name: str, row: Row) -> dict[str, Row]:
    return {f"{section}{name}": row for section in _P}


def _stage(count: Any) -> int:
    """Of the ranks that states are sharded over; 1: they are not."""
    return 0 if int(count) == 1 else 3


ROWS: Mapping[str, Row] = {
    **_each("tensor_parallel_degree", Row("parallelism.tp", int)),
    **_each("pipeline_parallel_degree", Row("parallelism.pp", int)),
    **_each("context_parallel_degree", Row("parallelism.cp", int)),
    **_each("expert_parallel_degree", Row("parallelism.ep", int)),
    **_each("expert_tensor_parallel_degree", Row("parallelism.etp", int)),
    **_each("enable_async_tensor_parallel", Row("parallelism.overlap_tp", bool)),
    **_each("data_parallel_replicate_degree", Row("parallelism.optimizer_instances", int)),
    **_each("data_parallel_shard_degree", Row("parallelism.zero", _stage)),
    **_each("data_parallel_degree", Row("parallelism.zero", _stage)),
    "training.local_batch_size": Row("training.micro_batch", int),
    "training.batch_size": Row("training.micro_batch", int),
    "training.global_batch_size": Row("training.global_batch", lambda size: size if size > 0 else None),
    "training.seq_len": Row("training.sequence", int),
    "training.steps": Row("training.steps", int),
    "training.max_norm": Row("training.optimizer.clip", float),
    "training.seed": Row("training.seed", int),
    "training.warmup_steps": Row("training.schedule.warmup_steps", int),
    "training.mixed_precision_param": Row(
        "training.precision", {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.__getitem__
    ),
    "training.mixed_precision_reduce": Row("training.grad_reduce", {"float32": "fp32", "bfloat16": "bf16"}.__getitem__),
    "optimizer.name": Row("training.optimizer.name", {"AdamW": "adamw", "Adam": "adam"}.__getitem__),
    "optimizer.lr": Row("training.optimizer.lr", float),
    "optimizer.eps": Row("training.optimizer.eps", float),
    "optimizer.beta1": Row("training.optimizer.beta1", float),
    "optimizer.beta2": Row("training.optimizer.beta2", float),
    "optimizer.weight_decay": Row("training.optimizer.weight_decay", float),
    "lr_scheduler.warmup_steps": Row("training.schedule.warmup_steps", int),
    "lr_scheduler.decay_type": Row("training.schedule.style", {"linear": "linear", "cosine": "cosine"}.__getitem__),
    "activation_checkpoint.mode": Row(
        "parallelism.recompute", {"none": "none", "selective": "selective", "full": "full"}.__getitem__
    ),
    "metrics.log_freq": Row("training.logging.interval", int),
    "checkpoint.interval": Row("training.logging.save_interval", int),
    "model.flavor": Row("model.layers", lambda flavor: None),
    "model.name": Row("model.name", lambda name: None),
}
_OWN = "torchtitan's own: how it profiles, compiles, loads and saves"
_REASONS = {section: _OWN for section in ("job", "profiling", "metrics", "checkpoint", "comm", "compile", "debug")}
_REASONS |= dict.fromkeys(("model", "float8", "quantize", "experimental", "validation", "fault_tolerance"), _OWN)
_REASONS |= dict.fromkeys(("optimizer", "training", "lr_scheduler", "parallelism", "activation_checkpoint"), _OWN)
_DEFAULTS = {
    "backend.name": "megatron",
    "backend.megatron.fsdp": "torch",
    "backend.megatron.gradient_accumulation_fusion": False,
    "parallelism.zero": 3,
    "parallelism.recompute": "none",
    "training.precision": "bf16",
    "training.grad_reduce": "fp32",
    "training.optimizer.beta1": 0.9,
    "training.optimizer.beta2": 0.95,
    "training.optimizer.weight_decay": 0.1,
    "training.schedule.style": "linear",
}


def of_toml(leaves: Leaves) -> Source:
    """What the file says; its model is one of ours where the flavour is."""
    values = {**_DEFAULTS, **carried(leaves, ROWS)}
    values |= {"parallelism.sp": _degree(values, "tp") > 1}
    piped = _degree(values, "pp") > 1 and values["parallelism.zero"] == 3
    if piped:
        values |= {"parallelism.zero": 1, "backend.megatron.fsdp": "megatron"}
    flavour = "_".join(str(leaves[key].value) for key in ("model.name", "model.flavor") if key in leaves)
    model = known_model(flavour)
    return Source(
        kind="torchtitan configuration",
        values={**values, **_world(leaves, values), **model},
        found=tuple(fates(leaves, ROWS, _REASONS, lambda _: "", "torchtitan")),
        asks=() if model else (_ask(flavour),),
        remarks=tuple(_remarks(leaves, piped)),
    )


def _ask(flavour: str) -> Ask:
    return Ask(
        "model", Problem("model", f"{flavour or 'the model'} is none of ours; give model=NAME", "import.missing")
    )


def _world(leaves: Leaves, values: Mapping[str, Any]) -> dict[str, int]:
    """The degrees multiply to it, where the sharded one is stated; -1 means the rest."""
    shards = [leaves[f"{at}data_parallel_shard_degree"] for at in _P if f"{at}data_parallel_shard_degree" in leaves]
    if not shards or not isinstance(shards[0].value, int) or shards[0].value < 1:
        return {}
    degrees = (_degree(values, axis) for axis in ("optimizer_instances", "tp", "pp", "cp"))
    return {"cluster.gpus": shards[0].value * prod(degrees)}


def _degree(values: Mapping[str, Any], axis: str) -> int:
    """1 where the file says none, or no number, which the decoder names."""
    degree = values.get(f"parallelism.{axis}", 1)
    return degree if isinstance(degree, int) else 1


def _remarks(leaves: Leaves, piped: bool) -> Iterator[Remark]:
    place = next(iter(leaves.values())).place
    if piped:
        message = "FSDP beside a pipeline, which neither Megatron nor DeepSpeed has, is read as ZeRO-1"
        yield Remark("warning", "import.fsdp", message, place)
    floats = next(
        (one for key, one in leaves.items() if key == "model.converters" and "float8" in str(one.value)), None
    )
    if floats:
        yield Remark("warning", "import.float8", "float8 converters are not carried: bf16 is read", floats.place)
