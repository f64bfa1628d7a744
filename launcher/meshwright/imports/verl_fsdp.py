"""verl on FSDP, which shards as ZeRO-3 does; its Ulysses splits sequences as it does under DeepSpeed.

Actors of reinforcement learning are on FSDP unless told otherwise (trainer/config/ppo_trainer.yaml). Read at b178a3c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from meshwright.errors import Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Found, Remark, Source
from meshwright.imports.keyed import Row, carried, fates, opened
from meshwright.imports.known_models import known_model
from meshwright.imports.shape_values import first
from meshwright.imports.shapes import VERL
from meshwright.spec.frozen import dataclass

__all__ = ["ACTOR", "COMMON", "Fsdp", "lengths", "of_fsdp", "offloads", "on_fsdp", "steps"]


@dataclass(frozen=True, kw_only=True)
class Fsdp:
    """One of verl's programs. ``betas``, ``ratio``, ``size``, ``lora``, ``models``: keys that are read with others."""

    kind: str
    rows: Mapping[str, Row]
    defaults: Mapping[str, Any]
    reasons: Mapping[str, str]
    betas: str
    ratio: str
    size: str
    lora: str
    models: tuple[str, ...]
    more: Callable[[Leaves], dict[str, Any]]


COMMON = {
    "backend.name": "deepspeed",
    "parallelism.zero": 3,
    "parallelism.recompute": "full",
    "training.precision": "bf16",  # fsdp_sft_trainer.py:293, weights in fp32 beside
    "training.grad_reduce": "fp32",
    "training.optimizer.weight_decay": 0.01,
    "training.optimizer.beta1": 0.9,
    "training.optimizer.clip": 1.0,
}


def steps(count: Any) -> int | None:
    """A number of steps; -1 leaves it to the text."""
    return int(count) if int(count) > 0 else None


def offloads(of: str) -> Row:
    """A switch for the states ``of`` the optimizer or the parameters."""
    return Row(f"backend.deepspeed.offload_{of}.device", lambda on: "cpu" if on else None)


def of_fsdp(leaves: Leaves, form: Fsdp, world: int | None) -> Source:
    """What the words of a program say."""
    values = {**form.defaults, **carried(leaves, form.rows)}
    values |= {**form.more(leaves), **_of_betas(leaves, form), **_warmup(leaves, form, values)}
    name = next((str(leaves[key].value) for key in form.models if key in leaves), "")
    model = known_model(name)
    message = f"{name or 'the model'} is none of ours; give model=NAME, or model=hf model.path=DIR"
    asked = () if model else (Ask("model", Problem("model", message, "import.missing")),)
    found = (_named(one, form, bool(model)) for one in fates(leaves, form.rows, form.reasons, lambda _: "", "verl"))
    return Source(
        kind=form.kind,
        values={**values, **({"cluster.gpus": world} if world else {}), **model},
        found=tuple(found),
        asks=(*opened(leaves, form.rows), *asked),
        remarks=tuple(_partly(leaves, form, world)),
    )


def _of_betas(leaves: Leaves, form: Fsdp) -> dict[str, Any]:
    betas = leaves[form.betas].value if form.betas in leaves else None
    return {"training.optimizer.beta2": betas[1]} if isinstance(betas, list) and len(betas) == 2 else {}


def _warmup(leaves: Leaves, form: Fsdp, values: Mapping[str, Any]) -> dict[str, int]:
    """A part of the steps that are stated."""
    ratio, whole = leaves[form.ratio].value if form.ratio in leaves else None, values.get("training.steps")
    if not isinstance(ratio, float | int) or not isinstance(whole, int):
        return {}
    return {"training.schedule.warmup_steps": int(whole * ratio)}


def _named(one: Found, form: Fsdp, read: bool) -> Found:
    """Keys that are read together with others."""
    if one.key in form.models and read:
        return replace(one, fate="mapped", path="model", reason="")
    warmup = "training.schedule.warmup_steps"
    return replace(one, fate="mapped", path=warmup, reason="") if one.key == form.ratio else one


def _partly(leaves: Leaves, form: Fsdp, world: int | None) -> Iterator[Remark]:
    """States that are sharded over a part of the ranks, and copied; a part of the model that is trained."""
    size, lora = leaves.get(form.size), leaves.get(form.lora)
    if size and isinstance(size.value, int) and 0 < size.value != world:
        message = f"{size.key} {size.value} shards over a part of the ranks: read as ZeRO-3 over all of them"
        yield Remark("warning", "import.fsdp", message, size.place)
    if lora and lora.value:
        message = "an adapter is trained, which is not described here; what is judged trains all of the model"
        yield Remark("warning", "import.adapter", message, lora.place)


def on_fsdp(leaves: Leaves, words: tuple[str, ...]) -> bool:
    """Whether an actor is on FSDP: neither its configuration's name nor a key says Megatron."""
    engine = next((str(leaves[key].value) for key in (f"{_ACTOR}strategy", "model_engine") if key in leaves), "")
    named = any("megatron" in word for word in words if word.startswith("--config"))
    return not (named or engine == "megatron" or any(key.startswith(f"{_ACTOR}megatron.") for key in leaves))


def lengths(leaves: Leaves) -> dict[str, Any]:
    """A sequence is a prompt and its answer, each at its longest."""
    keys = [f"data.max_{part}_length" for part in ("prompt", "response")]
    sizes = [leaves[key].value for key in keys if key in leaves]
    return {"training.sequence": sum(sizes)} if sizes and all(isinstance(size, int) for size in sizes) else {}


def _batches(leaves: Leaves) -> dict[str, Any]:
    said = VERL.more(leaves)
    paths = {"global_batch_size": "training.global_batch", "micro_batch_size": "training.micro_batch"}
    return {**lengths(leaves), **{paths[name]: value for name, value in said.items()}}


_ACTOR = "actor_rollout_ref.actor."
_MODEL = "actor_rollout_ref.model."
ACTOR = Fsdp(
    kind="verl configuration on FSDP, read as ZeRO-3",
    rows={
        f"{_ACTOR}ulysses_sequence_parallel_size": Row("parallelism.cp", int),
        f"{_ACTOR}ppo_micro_batch_size_per_gpu": Row("training.micro_batch", int),
        f"{_ACTOR}ppo_mini_batch_size": Row("training.global_batch", int),
        f"{_ACTOR}grad_clip": Row("training.optimizer.clip", float),
        f"{_ACTOR}optim.lr": Row("training.optimizer.lr", float),
        f"{_ACTOR}optim.weight_decay": Row("training.optimizer.weight_decay", float),
        f"{_ACTOR}optim.betas": Row("training.optimizer.beta1", first),
        f"{_ACTOR}optim.lr_warmup_steps": Row("training.schedule.warmup_steps", steps),
        f"{_ACTOR}optim.total_training_steps": Row("training.steps", steps),
        "trainer.total_training_steps": Row("training.steps", steps),
        f"{_ACTOR}fsdp_config.param_offload": offloads("param"),
        f"{_ACTOR}fsdp_config.optimizer_offload": offloads("optimizer"),
        f"{_MODEL}enable_gradient_checkpointing": Row("parallelism.recompute", lambda on: "full" if on else "none"),
    },
    defaults={
        **COMMON,
        "training.seed": 42,
        "training.optimizer.lr": 1e-6,
        "training.optimizer.beta2": 0.999,
        "training.schedule.style": "constant",
    },
    reasons=VERL.reasons,
    betas=f"{_ACTOR}optim.betas",
    ratio=f"{_ACTOR}optim.lr_warmup_steps_ratio",
    size=f"{_ACTOR}fsdp_config.fsdp_size",
    lora=f"{_MODEL}lora_rank",
    models=(f"{_MODEL}path",),
    more=_batches,
)
