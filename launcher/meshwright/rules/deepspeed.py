"""What DeepSpeed with transformers refuses, or accepts and gets wrong. Places: DeepSpeed 0.19.8, in ``deepspeed/``.

What the models lack is in ``deepspeed_model``, the degrees in ``deepspeed_degrees``, ZeRO in ``deepspeed_zero``
and what leaves the GPU in ``deepspeed_offload``.
"""

from __future__ import annotations

from dataclasses import replace

from meshwright.rules._forms import whole_layers
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import DEEPSPEED, TRANSFORMERS, Layout, Rule
from meshwright.rules.deepspeed_degrees import RULES as DEGREES
from meshwright.rules.deepspeed_extra import check_extra
from meshwright.rules.deepspeed_model import RULES as MODEL
from meshwright.rules.deepspeed_offload import RULES as OFFLOAD
from meshwright.rules.deepspeed_techniques import RULES as TECHNIQUES
from meshwright.rules.deepspeed_zero import RULES as ZERO

__all__ = ["RULES"]


def _contradictions(r: Layout) -> str:
    found = check_extra(r.backend.deepspeed.extra, int(r.zero))
    return "; ".join(str(replace(one, path=one.path.removeprefix("backend.deepspeed.extra."))) for one in found)


def _autocast(r: Layout) -> bool:
    """Whether torch casts as it goes, from weights in fp32."""
    return r.backend.deepspeed.autocast != "none"


_REST = (
    whole_layers(
        "deepspeed.recompute",
        TRANSFORMERS,
        "transformers recomputes whole layers, each of them: recompute=full, uniform, 1 layer; not "
        "{spec.parallelism.recompute}, {spec.parallelism.recompute_method}, {spec.parallelism.recompute_layers}",
        "transformers modeling_layers.py: GradientCheckpointingLayer",
    ),
    Rule(
        id="deepspeed.entry",
        path="launch.entry",
        backends=DEEPSPEED,
        holds=lambda r: r.backend.name != "deepspeed" or r.spec.launch.entry == "meshwright",
        message="{spec.launch.entry} is a program of Megatron-LM; DeepSpeed is launched with ours",
        source="ours",
        repairs=change(launch__entry="meshwright"),
    ),
    Rule(
        id="deepspeed.autocast",
        path="backend.deepspeed.autocast",
        backends=DEEPSPEED,
        holds=lambda r: not _autocast(r) or r.training.precision == "fp32",
        message="torch.autocast casts weights of fp32 as it goes; weights in {training.precision} leave it nothing",
        source="runtime/torch_autocast.py:36",
        repairs=any_of(change(training__precision="fp32"), change(backend__deepspeed__autocast="none")),
    ),
    Rule(
        id="deepspeed.autocast_quantized",
        path="backend.deepspeed.quantized_weights",
        backends=DEEPSPEED,
        holds=lambda r: not (_autocast(r) and r.backend.deepspeed.quantized_weights),
        message="torch.autocast does not go with quantized weights",
        source="runtime/torch_autocast.py:29",
        repairs=any_of(
            change(backend__deepspeed__quantized_weights=False), change(backend__deepspeed__autocast="none")
        ),
    ),
    Rule(
        id="deepspeed.extra",
        path="backend.deepspeed.extra",
        backends=DEEPSPEED,
        holds=lambda r: (
            sum((r.zero == stage) & bool(check_extra(r.backend.deepspeed.extra, stage)) for stage in range(4)) == 0
        ),
        message=_contradictions,
        source="runtime/config.py:340-420: unknown keys are ignored silently",
        repairs=change(backend__deepspeed__extra={}),
    ),
)

RULES: tuple[Rule, ...] = MODEL + DEGREES + ZERO + OFFLOAD + TECHNIQUES + _REST
