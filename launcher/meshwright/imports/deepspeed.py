"""DeepSpeed's JSON -> values of ours: emit/deepspeed.py read backwards.

Defaults are DeepSpeed 0.19.8's (runtime/config.py, runtime/zero/config.py), where they differ from ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshwright.errors import Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Found, Remark, Source
from meshwright.imports.keyed import Row, carried, fates
from meshwright.model.huggingface import nested
from meshwright.rules.deepspeed_extra import DECIDED, INERT, REMOVED
from meshwright.rules.deepspeed_keys import KEYS

__all__ = ["ROWS", "of_json"]

_ADAMW = {"AdamW": "adamw", "FusedAdam": "adamw", "Adam": "adamw", "SGD": "sgd", "Muon": "muon", "Lion": "lion"}
_STYLES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine", "OneCycle": None}
_DTYPES = {"fp32": "fp32", "float32": "fp32", "bf16": "bf16", "bfloat16": "bf16"}


def _device(value: Any) -> str:
    return "cpu" if value is True else "none" if value is False else str(value)


def _number(value: Any) -> int | None:
    """An interval; ``auto`` is left to ours."""
    return value if isinstance(value, int) else None


ROWS: Mapping[str, Row] = {
    **{key: Row(path) for key, path in DECIDED.items() if path.startswith("backend.deepspeed.")},
    "zero_optimization.cpu_offload": Row("backend.deepspeed.offload_optimizer.device", _device),
    "zero_optimization.cpu_offload_param": Row("backend.deepspeed.offload_param.device", _device),
    "train_batch_size": Row("training.global_batch"),
    "train_micro_batch_size_per_gpu": Row("training.micro_batch"),
    "gradient_accumulation_steps": Row("training.microbatches"),
    "gradient_clipping": Row("training.optimizer.clip", float),
    "steps_per_print": Row("training.logging.interval"),
    "zero_optimization.stage": Row("parallelism.zero"),
    "zero_optimization.overlap_comm": Row("parallelism.overlap_grad_reduce"),
    "tensor_parallel.autotp_size": Row("parallelism.tp"),
    "tensor_parallel.tp.tp_size": Row("parallelism.tp"),
    "sequence_parallel_size": Row("parallelism.cp"),
    "expert_parallel.autoep_size": Row("parallelism.ep"),
    "expert_parallel.comm_backend": Row(
        "backend.deepspeed.moe_dispatcher", lambda name: "deepep" if name == "deepep" else "alltoall"
    ),
    "compile.offload_activation": Row(
        "backend.deepspeed.deep_compile.offload", lambda on: "activations" if on else None
    ),
    "compile.offload_opt_states": Row("backend.deepspeed.deep_compile.offload", lambda on: "optimizer" if on else None),
    "zero_optimization.zenflow.select_strategy": Row("backend.deepspeed.zenflow.select_interval", lambda _: None),
    **{
        f"zero_optimization.zenflow.{key}": Row(f"backend.deepspeed.zenflow.{ours}", _number)
        for key, ours in (("select_interval", "select_interval"), ("update_interval", "update_interval"))
    },
    "torch_autocast.enabled": Row("backend.deepspeed.autocast", lambda on: None if on else "none"),
    "torch_autocast.dtype": Row("backend.deepspeed.autocast", lambda name: "bf16" if "b" in name else "fp16"),
    "checkpoint.writer.type": Row("backend.deepspeed.checkpoint.writer", str.lower),
    "checkpoint.writer.decoupled": Row("training.logging.async_save"),
    "checkpoint.load_universal": Row("backend.deepspeed.checkpoint.load_universal"),
    "checkpoint.use_node_local_storage": Row("backend.deepspeed.checkpoint.node_local"),
    "expert_parallel.comm_max_tokens_per_rank": Row("training.micro_batch", lambda _: None),
    "expert_parallel.enabled": Row("parallelism.ep", lambda value: None),
    "expert_parallel.preset_model": Row("model.transformers", lambda value: None),
    "bf16.enabled": Row("training.precision", lambda on: "bf16" if on else None),
    "bf16.bf16_master_weights_and_grads": Row("backend.deepspeed.bf16_states", lambda on: None),
    "fp16.enabled": Row("training.precision", lambda on: "fp16" if on else None),
    "bfloat16.enabled": Row("training.precision", lambda on: "bf16" if on else None),
    "communication_data_type": Row("training.grad_reduce", _DTYPES.__getitem__),
    "data_types.grad_accum_dtype": Row("training.grad_reduce", _DTYPES.__getitem__),
    "optimizer.type": Row("training.optimizer.name", _ADAMW.__getitem__),
    "optimizer.params.lr": Row("training.optimizer.lr", float),
    "optimizer.params.eps": Row("training.optimizer.eps", float),
    "optimizer.params.weight_decay": Row("training.optimizer.weight_decay", float),
    "optimizer.params.momentum": Row("training.optimizer.momentum", float),
    "optimizer.params.betas": Row("training.optimizer.beta1", lambda betas: float(betas[0])),
    "optimizer.params.adam_w_mode": Row("training.optimizer.name", lambda on: None if on else "adam"),
    "optimizer.params.torch_adam": Row("backend.deepspeed.torch_adam"),
    "zero_allow_untested_optimizer": Row("training.optimizer.name", lambda on: None),
    "scheduler.type": Row("training.schedule.style", _STYLES.__getitem__),
    "scheduler.params.warmup_num_steps": Row("training.schedule.warmup_steps"),
    "scheduler.params.total_num_steps": Row("training.schedule.decay_steps"),
    "scheduler.params.warmup_max_lr": Row("training.optimizer.lr", float),
    "tensorboard.output_path": Row("training.logging.tensorboard"),
    "tensorboard.enabled": Row("training.logging.tensorboard", lambda on: None),
    "wandb.project": Row("training.logging.wandb_project"),
    "wandb.enabled": Row("training.logging.wandb_project", lambda on: None),
}
"""Keys that one of ours carries."""

_REASONS: Mapping[str, str] = {
    **dict.fromkeys(REMOVED, "removed from DeepSpeed, which stops at it (runtime/config.py:136)"),
    **INERT,
    "activation_checkpointing": "it says how a program checkpoints that asks for it; it turns nothing on",
    "pipeline": "pipelines are a PipelineModule's, which transformers' models are not",
    "scheduler": "our program sets the rate of every step; training.schedule says it",
    "optimizer.params": "no value of ours",
    "optimizer.legacy_fusion": "no value of ours",
    "tensorboard.job_name": "the run's name",
    "zero_force_ds_cpu_optimizer": "what is offloaded runs on the CPU with DeepSpeed's own Adam anyway",
    "data_types.param_dtype": "training.precision says it",
}


def of_json(leaves: Leaves, trainer: bool = False) -> Source:
    """What the JSON says. ``trainer``: its ``auto`` values are Hugging Face's Trainer's or accelerate's to fill in."""
    values = {**_defaults(leaves, trainer), **carried(leaves, ROWS), **_betas(leaves)}
    if values["training.precision"] != "fp32" and "training.grad_reduce" not in values:
        # engine.py:2305: gradients are summed in the weights' type where ZeRO shards them
        bf16 = values["training.precision"] == "bf16" and values.get("parallelism.zero", 0)
        values["training.grad_reduce"] = "bf16" if bf16 else "fp32"
    if values.get("backend.deepspeed.prefetch_bucket") == 0:
        values |= {"parallelism.overlap_param_gather": False}
        del values["backend.deepspeed.prefetch_bucket"]
    extra = {key: one.value for key, one in leaves.items() if _passed(key) and one.value not in (None, "auto")}
    values["backend.deepspeed.extra"] = nested(extra)
    return Source(
        kind="DeepSpeed configuration",
        values={**values, **_world(leaves, values)},
        found=tuple(_explained(fates(leaves, ROWS, _REASONS, _passed_to, "DeepSpeed"), leaves)),
        asks=tuple(_asks(leaves)),
        remarks=tuple(_remarks(leaves, values)),
        autos={ROWS[key].path: one for key, one in leaves.items() if one.value == "auto" and key in ROWS},
    )


def _defaults(leaves: Leaves, trainer: bool) -> dict[str, Any]:
    """Of an optimizer that is named, and of ZeRO 1 and 2, which do not overlap unless told (zero/config.py)."""
    stage = leaves["zero_optimization.stage"].value if "zero_optimization.stage" in leaves else 0
    flat: dict[str, Any] = {
        "backend.name": "deepspeed",
        "parallelism.zero": 0,
        "training.precision": "fp32",
        "parallelism.overlap_grad_reduce": stage == 3 or stage == 0,
        "training.optimizer.clip": 1.0,
        "training.logging.interval": 10,
    }
    if "optimizer.type" in leaves and not trainer:
        adam = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        flat |= {f"training.optimizer.{name}": value for name, value in adam.items()}
    return flat


def _betas(leaves: Leaves) -> dict[str, Any]:
    betas = leaves["optimizer.params.betas"].value if "optimizer.params.betas" in leaves else None
    known = isinstance(betas, list) and len(betas) == 2
    return {"training.optimizer.beta2": float(betas[1])} if known and betas else {}


def _passed(key: str) -> bool:
    """Whether DeepSpeed reads the key and nothing of ours decides it."""
    if key in ROWS or any(f"{key}.".startswith(f"{known}.") for known in (*_REASONS, *DECIDED)):
        return False
    section: Any = KEYS
    for name in key.split("."):
        if section is dict:
            return True
        if not isinstance(section, Mapping) or name not in section:
            return False
        section = section[name]
    return True


def _passed_to(key: str) -> str:
    return f"backend.deepspeed.extra.{key}" if _passed(key) else ""


def _explained(found: Iterator[Found], leaves: Leaves) -> Iterator[Found]:
    for one in found:
        if one.fate == "passed" and leaves[one.key].value == "auto":
            yield Found(one.key, "auto", one.place, "dropped", reason="DeepSpeed's default, which the Trainer leaves")
        elif one.fate == "dropped" and one.reason.startswith("no key of"):
            reason = "DeepSpeed reads no such key and would not say so"
            yield Found(one.key, one.value, one.place, "dropped", reason=reason)
        else:
            yield one


def _triad(values: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Global batch, micro-batch and accumulation, where all three are stated."""
    sizes = [values.get(f"training.{name}") for name in ("global_batch", "micro_batch", "microbatches")]
    whole, micro, steps = (size if isinstance(size, int) and size > 0 else 0 for size in sizes)
    return (whole, micro, steps) if whole and micro and steps else None


def _world(leaves: Leaves, values: Mapping[str, Any]) -> dict[str, Any]:
    """The three batch sizes say how many replicas there are."""
    triad = _triad(values)
    if triad is None or triad[0] % (triad[1] * triad[2]):
        return {}
    replica = values.get("parallelism.tp", 1) * values.get("parallelism.cp", 1)
    return {"cluster.gpus": triad[0] // (triad[1] * triad[2]) * replica}


def _asks(leaves: Leaves) -> Iterator[Ask]:
    lacks = "a DeepSpeed configuration says nothing of"
    hint = "give model=NAME, or model=hf model.path=DIR, or the model's config.json as a further file"
    yield Ask("model", Problem("model", f"{lacks} the model; {hint}", "import.missing"))
    message = f"{lacks} the length of a sequence; give training.sequence=TOKENS"
    yield Ask("training.sequence", Problem("training.sequence", message, "import.missing"))


def _remarks(leaves: Leaves, values: Mapping[str, Any]) -> Iterator[Remark]:
    for key, one in leaves.items():
        if any(f"{key}.".startswith(f"{gone}.") for gone in REMOVED):
            message = f"{key} was removed from DeepSpeed, which stops at it (runtime/config.py:136)"
            yield Remark("error", "deepspeed.removed", message, one.place)
    if _on(leaves, "bf16.enabled") and _on(leaves, "fp16.enabled"):
        message = "bf16 and fp16 are both on: DeepSpeed stops (runtime/precision_config.py)"
        yield Remark("error", "deepspeed.precision", message, leaves["fp16.enabled"].place)
    if _on(leaves, "fp16.enabled") and values.get("parallelism.zero") and not _stated(leaves, _SUMS):
        message = (
            f"fp16 without {_SUMS}: gradients are summed and sent in fp16 (runtime/engine.py:1806), which "
            f"training.grad_reduce cannot say: read as fp32, with 4 bytes a parameter instead of 2"
        )
        yield Remark("warning", "import.grad_reduce", message, leaves["fp16.enabled"].place)
    triad = _triad(values)
    if triad and triad[0] % (triad[1] * triad[2]):
        message = f"train_batch_size {triad[0]} is no multiple of {triad[1]} a GPU times {triad[2]} steps"
        yield Remark("error", "deepspeed.batch", f"{message} (runtime/config.py:602)", leaves["train_batch_size"].place)
    if "pipeline" in {key.split(".")[0] for key in leaves} and values.get("parallelism.zero", 0) > 1:
        stage = values["parallelism.zero"]
        message = f"ZeRO stage {stage} with a pipeline: DeepSpeed stops (runtime/pipe/engine.py:76)"
        yield Remark("error", "deepspeed.pipeline", message, leaves["zero_optimization.stage"].place)


_SUMS = "data_types.grad_accum_dtype"


def _stated(leaves: Leaves, key: str) -> bool:
    return key in leaves and leaves[key].value is not None


def _on(leaves: Leaves, key: str) -> bool:
    return key in leaves and leaves[key].value is True
