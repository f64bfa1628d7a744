"""Forms of rules that several programs share: a value that one cannot be told, a run without an end, a split."""

from __future__ import annotations

from functools import reduce

from meshwright.rules._repairs import Proposals, any_of, change
from meshwright.rules._rule import Layout, Number, Rule
from meshwright.spec import PipelineSplit

__all__ = ["LOST", "always_overlaps", "fsdp_zero", "no_ramp", "only", "stated_length", "unsplit", "whole_layers"]

LOST = "ours: it would be lost"

_VARIED = {"parallelism.etp": "etp", "parallelism.sp": "sp"}
"""Paths whose value is the layout's, one number or many."""

_OVERLAP = {"overlap_grad_reduce": True, "overlap_param_gather": True, "overlap_tp": False, "overlap_ep": False}


def only(
    rule: str, backends: tuple[str, ...], path: str, value: object, message: str, source: str = LOST, needs: str = ""
) -> Rule:
    """``path`` has one value that ``backends`` can be told."""
    return Rule(
        id=rule,
        path=path,
        backends=backends,
        needs=(needs,) if needs else (),
        holds=lambda r: _at(r, path) == value,
        message=message,
        source=source,
        repairs=change(**{path.replace(".", "__"): value}),
    )


def stated_length(program: str, backends: tuple[str, ...], who: str, source: str) -> Rule:
    """``who`` needs to know when the run ends."""
    return Rule(
        id=f"{program}.length",
        path="training.steps",
        backends=backends,
        holds=lambda r: r.training.steps is not None or r.training.tokens is not None,
        message=f"not set, and {who}; give training.steps or training.tokens",
        source=source,
    )


def no_ramp(program: str, backends: tuple[str, ...], message: str, source: str) -> Rule:
    """The batch stays as it is."""
    return only(f"{program}.ramp", backends, "training.ramp", (), message, source)


def unsplit(rule: str, backends: tuple[str, ...], who: str, needs: str) -> Rule:
    """No split over stages where there are none."""
    return Rule(
        id=rule,
        path="parallelism.pipeline_split",
        backends=backends,
        needs=(needs,),
        holds=lambda r: (
            (r.first + r.last + r.embedding + r.loss == 0) & (r.spec.parallelism.pipeline_split.layout is None)
        ),
        message=f"a split over stages, but {who} runs without a pipeline",
        source=LOST,
        repairs=lambda _: ({"parallelism.pipeline_split": PipelineSplit()},),
    )


def whole_layers(rule: str, backends: tuple[str, ...], message: str, source: str) -> Rule:
    """All layers are recomputed, each by itself, or none."""
    return Rule(
        id=rule,
        path="parallelism.recompute",
        backends=backends,
        needs=("recompute.full",),
        holds=lambda r: (
            (r.recompute == 0)
            | (
                (r.recompute == 2)
                & (r.spec.parallelism.recompute_method == "uniform")
                & (r.spec.parallelism.recompute_layers == 1)
            )
        ),
        message=message,
        source=source,
        repairs=any_of(
            change(
                parallelism__recompute="full",
                parallelism__recompute_method=None,
                parallelism__recompute_layers=None,
                parallelism__recompute_modules=None,
            ),
            change(parallelism__recompute="none", parallelism__recompute_modules=None),
        ),
    )


def fsdp_zero(rule: str, backends: tuple[str, ...], one: str, source: str, repairs: Proposals) -> Rule:
    """Every stage of ZeRO but the first; ``one``: what that is here."""
    return Rule(
        id=rule,
        path="parallelism.zero",
        backends=backends,
        holds=lambda r: r.zero != 1,
        message="FSDP2 shards gradients (2) or parameters, too (3), DDP nothing (0); the optimizer alone (1) " + one,
        source=source,
        repairs=repairs,
    )


def always_overlaps(rule: str, backends: tuple[str, ...], message: str, source: str) -> Rule:
    """PyTorch's data parallelism communicates behind the computation, and nothing else does."""
    return Rule(
        id=rule,
        path="parallelism.overlap_grad_reduce",
        backends=backends,
        holds=lambda r: all(getattr(r.spec.parallelism, name) is value for name, value in _OVERLAP.items()),
        message=message,
        source=source,
        repairs=change(**{f"parallelism__{name}": value for name, value in _OVERLAP.items()}),
    )


def _at(r: Layout, path: str) -> Number:
    return getattr(r, _VARIED[path]) if path in _VARIED else reduce(getattr, path.split("."), r.spec)
