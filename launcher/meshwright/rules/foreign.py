"""Options of one backend that another does not read: refused where they change what is trained or what fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from meshwright.errors import Repair
from meshwright.rules._repairs import Proposals, any_of, change
from meshwright.rules._rule import DEEPSPEED, EVERY, MEGATRON, Layout, Rule
from meshwright.spec import Backend

__all__ = ["RULES", "unread"]


def _offload(name: str, what: str) -> Rule:
    return Rule(
        id=f"megatron.{name}",
        path=f"backend.deepspeed.{name}.device",
        backends=MEGATRON,
        holds=lambda r: getattr(r.backend.deepspeed, name).device == "none",
        message=f"{{backend.deepspeed.{name}.device}} is for DeepSpeed; Megatron's files would keep {what} on the GPU: "
        "choose backend=deepspeed",
        source="ours: it would be lost",
        repairs=any_of(_on_megatron(name), change(**{f"backend__deepspeed__{name}__device": "none"})),
    )


_AWARE = "backend.megatron.precision_aware_optimizer"


def _on_megatron(name: str) -> Proposals:
    """Megatron's own offload of the same part of the optimizer, with what it asks for."""

    def propose(r: Layout) -> Iterator[Repair]:
        if name == "offload_optimizer" and r.backend.megatron.optimizer_offload.fraction == 0:
            part = r.backend.deepspeed.offload_optimizer.ratio
            moved = {
                f"backend.deepspeed.{name}.device": "none",
                **({f"backend.deepspeed.{name}.ratio": 1.0} if part < 1 else {}),
                "backend.megatron.optimizer_offload.fraction": part,
            }
            aware = {} if r.backend.megatron.precision_aware_optimizer else {_AWARE: True}
            yield moved | aware | ({} if r.zero == 1 else {"parallelism.zero": 1})

    return propose


def _quantized(name: str) -> Rule:
    return Rule(
        id=f"megatron.{name}",
        path=f"backend.deepspeed.{name}",
        backends=MEGATRON,
        holds=lambda r: not getattr(r.backend.deepspeed, name),
        message="ZeRO++ is DeepSpeed's; Megatron would send in full precision: choose backend=deepspeed",
        source="ours: it would be lost",
        repairs=change(**{f"backend__deepspeed__{name}": False}),
    )


RULES: tuple[Rule, ...] = (
    _offload("offload_optimizer", "the optimizer's state"),
    _offload("offload_param", "parameters"),
    _quantized("quantized_weights"),
    _quantized("quantized_gradients"),
    Rule(
        id="megatron.bf16_states",
        path="backend.deepspeed.bf16_states",
        backends=MEGATRON,
        holds=lambda r: not r.backend.deepspeed.bf16_states,
        message="states all in bf16 are DeepSpeed's; Megatron would keep fp32; its own are optimizer_moments=bf16",
        source="ours: it would be lost",
        repairs=change(backend__deepspeed__bf16_states=False),
    ),
    Rule(
        id="deepspeed.moments",
        path="backend.megatron.optimizer_moments",
        backends=DEEPSPEED,
        holds=lambda r: r.backend.megatron.optimizer_moments == "fp32",
        message="{backend.megatron.optimizer_moments} moments are Megatron's; DeepSpeed's Adam keeps them in fp32",
        source="ours: it would be lost",
        repairs=change(backend__megatron__optimizer_moments="fp32"),
    ),
)


def unread(backend: Backend, name: str) -> list[str]:
    """Paths of what is set for other backends than ``name``, which reads none of it."""
    return [
        path
        for other in EVERY
        if other != name
        for path in _changed(getattr(backend, other), getattr(Backend(), other), f"backend.{other}")
    ]


def _changed(value: Any, default: Any, path: str) -> Iterator[str]:
    for field in fields(value):
        now, was = getattr(value, field.name), getattr(default, field.name)
        if is_dataclass(now):
            yield from _changed(now, was, f"{path}.{field.name}")
        elif now != was:
            yield f"{path}.{field.name}"
