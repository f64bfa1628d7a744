"""What a measured row's framework did, where no practice of its source is known: by the column ``framework``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from meshwright.cost.framework import SPREAD
from meshwright.measured.cells import said
from meshwright.measured.practice import UNFUSED, Practice
from meshwright.measured.source_defaults import DEFAULT, PRACTICES

__all__ = ["practice_of"]

_FSDP = replace(PRACTICES["torchtitan"], cluster={}, memory_spread=SPREAD)  # whose code was not read
# torch._grouped_mm: products of all experts in one call (torchtitan@b5bcd76 torchtitan/models/common/moe.py:95;
# prime-rl@d8f290e src/prime_rl/trainer/config.py, moe_use_grouped_mm)
_GROUPED = replace(PRACTICES["torchtitan"], cluster={}, changes={**_FSDP.changes, "expert_launches": 0.0})
# its SFT casts the logits of every model to fp32 (prime-rl@d8f290e src/prime_rl/trainer/models/layers/lm_head.py:25)
# and, though it deletes ``logits`` before the backward (sft/train.py:269), ``out`` holds them until the next forward is
# over: they stand beside their log-softmax and two gradients. Its peaks are max_memory_reserved (:324)
_PRIME_RL = replace(_GROUPED, changes={**_GROUPED.changes, "loss_bytes": 16.0})
# transformers' checkpoints were reentrant until its version 5: all of a layer is run again
_DEEPSPEED = Practice(
    deepspeed=True, zero=3, transformer_engine=False, grad_reduce="bf16", changes={"ends_early": False}
)
# InternEvo@c628a8c configs/7B_sft.py: bf16 gradients, reduced beside the backward pass; flash-attn's norm, rotary
# positions, activation and loss, each one kernel; nothing is added by products (internlm/core/parallel/comm/utils.py)
_INTERNEVO = Practice(
    transformer_engine=False,
    grad_reduce="bf16",
    zero=1,
    changes={**UNFUSED, "gradient_bytes": 2.0, "overlaps_gather": False},
)

# as BigScience's, whose peaks are the whole process' and whose embedding has a norm
_MEGATRON_DEEPSPEED = replace(
    PRACTICES["bigscience"],
    cluster={},
    context_gib=0.0,
    cached_step=0.0,
    cached_words=0.0,
    memory_spread=SPREAD,
    changes={**PRACTICES["bigscience"].changes, "boundary_bytes": 0.0},
)

_FRAMEWORKS: tuple[tuple[str, Practice], ...] = (
    (r"megatron.?deepspeed|deepspeed.?megatron|neox", _MEGATRON_DEEPSPEED),
    (r"foundry|composer", PRACTICES["llm-foundry"]),
    (r"auto.?model", PRACTICES["nvidia-automodel"]),
    (r"nanotron", replace(PRACTICES["nanotron_ultrascale"], measured_stage="fullest", memory_spread=SPREAD)),
    (r"intern.?evo", _INTERNEVO),
    (r"megatron.?bridge", PRACTICES["nvidia-megatron-bridge"]),
    (r"nemo\b", PRACTICES["nvidia-nemo-docs"]),
    (r"deepspeed|\bzero.?[123]\b|xtuner|llama.?factory|axolotl", _DEEPSPEED),
    (r"prime.?rl", _PRIME_RL),
    (r"torchtitan", _GROUPED),
    (r"fsdp|accelerate|lightning|lit.?gpt|torchtune|olmo|hsdp", _FSDP),
)
"""(pattern in the column, what is assumed), the first that is found; DEFAULT, Megatron-core's, of all else."""


def practice_of(record: Mapping[str, str]) -> Practice:
    """Of its source where that is known, else of its framework."""
    source, name = said(record, "source") or "rows", said(record, "framework").lower()
    if source in PRACTICES:
        return PRACTICES[source]
    return next((practice for words, practice in _FRAMEWORKS if re.search(words, name)), DEFAULT)
