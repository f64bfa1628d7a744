"""What is said beside a plan's numbers: where techniques enter, and what the model of its cost leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshwright.cost import offload
from meshwright.cost.brought import brought, placed
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.other_schedules import other_schedules
from meshwright.cost.time import Step
from meshwright.layout.plan import Plan
from meshwright.spec import Spec

__all__ = ["notes"]


def notes(s: Scene, plan: Plan, loads: Sequence[Load], step: Step) -> Iterator[str]:
    """What leaves the GPU, what techniques and placement do, what others' schedules would, what is left out."""
    yield from offload.notes(s)
    yield from _orthogonal(s, loads, step)
    yield from _compiled(plan.spec, step)
    yield from brought(plan.spec)
    yield from placed(plan.spec, step)
    yield from other_schedules(s, loads, step, plan.batch.microbatches)
    yield from _left_out(plan.spec)


def _orthogonal(s: Scene, loads: Sequence[Load], step: Step) -> Iterator[str]:
    """Of Muon and SOAP, on the stage that has most of it."""
    if s.layout.training.optimizer.name not in ("muon", "soap"):
        return
    from meshwright.cost import muon, soap

    gathers, products = (float(max(part(s, load) for load in loads)) for part in (muon.gathering, muon.multiplying))
    if products:
        told = f", and gathering for it {gathers:.3g} s" if gathers else ""
        share = (gathers + products) / float(step.total)
        yield f"Muon's orthogonalization takes {products:.3g} s{told}: {share:.1%} of the step"
    turned, kept = (float(max(part(s, load) for load in loads)) for part in (soap.turning, soap.states))
    if turned:
        share, size = turned / float(step.total), f"{kept / 2**30:,.1f} GiB of states beside Adam's"
        yield f"SOAP's bases take {turned:.3g} s or more, {share:.1%} of the step, and {size}"


def _compiled(spec: Spec, step: Step) -> Iterator[str]:
    """DeepCompile's passes prefetch parameters and keep some gathered (compile/init_z3.py), which hides the exposed."""
    if spec.backend.name == "deepspeed" and spec.backend.deepspeed.deep_compile.enabled:
        yield (
            "DeepCompile saves no time here, for its passes choose as they measure: at most the "
            f"{float(step.data):.3g} s ({float(step.data / step.total):.1%} of the step) in which gathering and "
            "reduction are exposed, and what compiled kernels save; its authors saw ZeRO-3 up to 1.28 times as fast "
            "(arXiv:2504.09983). We have not run it: it needs a GPU"
        )


def _left_out(spec: Spec) -> Iterator[str]:
    """What the plan uses and the model leaves out."""
    o = spec.backend.deepspeed
    if spec.backend.name == "deepspeed" and (o.quantized_weights or o.quantized_gradients):
        yield "ZeRO++'s kernels that quantize take no time here; what they save is counted"
    if spec.backend.name == "deepspeed" and o.extra and _cut_by(o.extra):
        yield (
            "what each rank holds is counted by transformers' plan of the model, not by the preset_model or "
            "partition_config of backend.deepspeed.extra.tensor_parallel"
        )
    if spec.training.optimizer.name in ("muon", "soap") and spec.model.measured is not None:
        yield f"what {spec.training.optimizer.name} does takes no time here: which matrices the model has is not known"
    gpu = spec.cluster.accelerator
    if spec.training.precision == "fp32" and gpu.full_fp32_tflops is None and float(gpu.capability) >= 8:
        yield "fp32 is costed at TF32's rate, which PyTorch does not allow: accelerator.full_fp32_tflops is not stated"
    if spec.model.measured is not None:
        run = "a run on the meta device" if spec.model.measured.how == "run" else "the shapes of its modules"
        yield f"time and activations of {spec.model.measured.cls} are read from {run}; parameters are exact"
    if spec.model.sliding_window is not None:
        yield "MFU and HFU count attention in full, as if there were no sliding window"


def _cut_by(extra: Mapping[str, Any]) -> bool:
    """Whether what is passed through cuts the model; the keys of DeepSpeed are read for this alone."""
    from meshwright.rules.deepspeed_extra import cut_by_extra

    return cut_by_extra(extra)
