"""Nothing a user sets is lost in an export: a field changes a file, is refused, or stands here with a reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshwright.emit.exports import EXPORTS
from meshwright.errors import ConfigError
from meshwright.resolver import holds, override
from test_emit_mutation import leaves, others
from test_export import BASES, written

DESCRIBES = "describes the hardware, or where and how ranks are started, which the program's own launcher does"
OTHER = "an option of a backend that does not run here"
NAMES = "names the run or the model"
DERIVED = "the same number stated instead of derived"

COMMON = {
    "stage": NAMES,
    "variant": NAMES,
    "model.name": NAMES,
    "cluster": DESCRIBES,
    "software": "what is installed; the rules and the notes read it",
    "training.evaluation.steps": "without an evaluation it has no length",
    "launch": DESCRIBES,
    "backend.name": "another program is launched here",
    "backend.megatron": OTHER,
    "training.microbatches": DERIVED,
    "training.schedule.wsd_decay_steps": "wsd only",
    "training.schedule.wsd_decay_style": "wsd only",
    "training.optimizer.momentum": "SGD only",
    "parallelism.order": "without stages both orders are one",
    "parallelism.cp_comm": "without context parallelism nothing is exchanged",
    "parallelism.overlap_p2p": "without chunks there is no such overlap",
    "model.mtp_loss_weight": "without multi-token prediction there is no such loss",
}

OF_EXPERTS = ("rank_capacity", "paged_stash", "flex_sms", "flex_backend", "router_fusion", "shared_expert_overlap")
READ_BY_MEGATRON = ("backend.megatron", "parallelism.order", "parallelism.cp_comm", "training.optimizer.momentum")

IRRELEVANT: dict[str, dict[str, str]] = {
    "accelerate_deepspeed": {
        **COMMON,
        "backend.deepspeed.allgather_bucket": "ZeRO 1 and 2 only",
        "backend.deepspeed.offload_optimizer": "without a device there is no offload",
        "backend.deepspeed.offload_param": "without a device there is no offload",
        "backend.deepspeed.attention": "the kernel stated that auto would choose",
        "backend.deepspeed.torch_adam": "the Trainer's AdamW is PyTorch's",
        "backend.deepspeed.super_offload_cores": "SuperOffload only",
        "backend.deepspeed.zenflow": "refused, but for what says nothing without topk",
        "backend.deepspeed.moe_dispatcher_sms": "DeepEP only",
    },
    "accelerate_fsdp": {**COMMON, "backend.deepspeed": OTHER},
    "bridge": {
        **{path: why for path, why in COMMON.items() if path not in READ_BY_MEGATRON},
        "backend.deepspeed": OTHER,
        "backend.megatron.fsdp": "ZeRO 2 and 3 only",
        "backend.megatron.moe_dispatcher": "without experts nothing is dispatched",
        "backend.megatron.moe_grouped_gemm": "without experts there is nothing to group",
        "backend.megatron.moe_permute_fusion": "without experts nothing is permuted",
        **{f"backend.megatron.moe_{name}": "without experts there is no such thing" for name in OF_EXPERTS},
        "training.optimizer.momentum": "SGD and Muon only",
        "backend.megatron.experts": "without experts none is fed",
        "backend.megatron.model": "the class stated that auto would choose",
        "backend.megatron.spec": "our layers are refused",
        "backend.megatron.checkpoint_format": "torch_dist stated instead of derived",
        "model.full_attention_every": "a pattern of sliding windows; without a window there is none",
        "model.max_positions": "rotary positions have no end",
        "model.position_offset": "learned positions only",
        "model.norm_before_positions": "learned positions only",
        "model.shared_parallel_norm": "without a parallel residual there is no norm to share",
        "model.attention_bias": "without linear biases there is none to leave out",
        "model.transformers": "the name in transformers",
        "training.data.epochs": "checked before a launch",
        "training.data.tokenizer.kind": "bytes and null are Megatron's NullTokenizer",
    },
    "torchtitan": {
        **COMMON,
        "backend.deepspeed": OTHER,
        "model.transformers": "the name in transformers",
        "model.full_attention_every": "a pattern of sliding windows; without a window there is none",
        "parallelism.pipeline_split.embedding": "without stages nothing is split",
        "parallelism.pipeline_split.loss": "without stages nothing is split",
        "training.data.epochs": "checked before a launch",
        "training.data.cache": "torchtitan's data are its own",
        "training.data.tokenizer.kind": "the folder is read, whatever its kind",
    },
}


def lost(program: str) -> Iterator[str]:
    """The fields that can be changed without effect."""
    base = BASES[program]
    before = written(base, program)
    for path, hint, value in leaves(base):
        for other in others(hint, value):
            mutated = override(base, path, other)
            try:
                if holds(mutated, program) and written(mutated, program) == before:
                    yield path
                    break
            except ConfigError:
                continue


@pytest.mark.parametrize("program", EXPORTS)
def test_no_field_is_lost(program: str) -> None:
    def known(path: str) -> set[str]:
        return {row for row in IRRELEVANT[program] if path == row or path.startswith(f"{row}.")}

    silent = set(lost(program))
    assert {path for path in silent if not known(path)} == set()
    assert set(IRRELEVANT[program]) - {row for path in silent for row in known(path)} == set()
