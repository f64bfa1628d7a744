"""What the framework of a measured row did: that of its Spec, but for its source's practice and its own columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meshwright.cost.framework import SPREAD, Framework, framework_of
from meshwright.cost.numbers import Number
from meshwright.measured.cells import said
from meshwright.measured.practice import Practice
from meshwright.measured.row_machine import attention_tflops, gpu_of
from meshwright.model.operation import Kernels
from meshwright.rules import Layout
from meshwright.spec import Spec

__all__ = ["framework", "layout_of"]

_ENGINES_LOSS = 2.0
"""Bytes of a logit where the column says fused: one kernel of Transformer Engine writes the gradient over it, as in all
rows that say so (cross_entropy_fusion_impl is te in NVIDIA's recipes)."""


def framework(spec: Spec, record: Mapping[str, str], practice: Practice, fitted: bool) -> Framework:
    """``fitted``: the constants of its machine were fitted to the kernels that its source had."""
    usual = framework_of(layout_of(spec))
    own = _memory(spec, record, practice, usual) | {
        "captured": _captured(record, usual),
        "registers": False,  # peaks are the allocator's
        "batch_first": usual.batch_first or practice.fsdp == "torch",
        "ends_early": usual.ends_early or (practice.fsdp == "torch" and gpu_of(record) not in practice.whole_layers),
        **({} if fitted else {"attention_tflops": attention_tflops(spec.cluster.accelerator, record)}),
    }
    changes = practice.changes if spec.model.moe else {**practice.changes, **practice.dense}
    linear = {"loss_bytes": 0.0} if said(record, "loss") == "linear" else {}  # joined to the head, without its logits
    return replace(usual, **{**own, **changes, **linear}, kernels=_kernels(spec, record, practice, usual.kernels))


def layout_of(spec: Spec) -> Layout:
    """The numbers of one Spec whose degrees are all stated."""
    from meshwright.resolver import layout

    return layout(spec)


def _memory(spec: Spec, record: Mapping[str, str], practice: Practice, usual: Framework) -> dict[str, Any]:
    own: dict[str, Any] = {"optimizer_bytes": _states(spec, record, practice, usual)}
    if practice.memory_spread is not None and not practice.deepspeed:  # of unfused attention less is known
        own["memory_spread"] = practice.memory_spread if _flash(spec) else SPREAD
    if spec.backend.megatron.cross_entropy_fusion:
        own["loss_bytes"] = _ENGINES_LOSS
    return own


def _kernels(spec: Spec, record: Mapping[str, str], practice: Practice, usual: Kernels) -> Kernels:
    """What ``practice`` says and what the columns do; layers of others' own have fused attention, too."""
    eager = {} if "compile" in said(record, "fusions").split("+") else practice.eager
    norm = {"norm": True} if "RMS" in said(record, "attn_impl") else {}
    attention = {} if practice.deepspeed else {"flash": _flash(spec)}
    own: dict[str, Any] = {**practice.kernels, **_turned(spec, record, practice), **eager, **norm, **attention}
    return replace(usual, **own)


def _flash(spec: Spec) -> bool:
    return spec.backend.megatron.attention != "unfused" and spec.training.precision != "fp32"


def _turned(spec: Spec, record: Mapping[str, str], practice: Practice) -> dict[str, bool]:
    """Whether one kernel turns and joins latent attention's: as NVIDIA's recipes have it, whose models stretch it."""
    if spec.model.mla is None or practice.deepspeed:
        return {}
    return {"rope": not said(record, "model").lower().startswith(practice.turned_apart)}


def _states(spec: Spec, record: Mapping[str, str], practice: Practice, usual: Framework) -> Number:
    """Bytes of a parameter, where the source's optimizer was another than Megatron's."""
    if f"{said(record, 'model')} {gpu_of(record)}" in practice.sixteen_bit_states:
        return 4.0
    whole = not spec.backend.megatron.quantization.param_gather
    return usual.optimizer_bytes - 2.0 * (whole and "" < said(record, "release") <= practice.remainders_until)


def _captured(record: Mapping[str, str], usual: Framework) -> tuple[str, ...]:
    """Operations inside graphs, but for what the column leaves out: ``attn+moe_router-shared_experts``."""
    left_out = said(record, "graphs").partition("-")[2]
    return tuple(name for name in usual.captured if not left_out or not name.startswith(left_out))
