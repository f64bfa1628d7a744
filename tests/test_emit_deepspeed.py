"""DeepSpeed's JSON for a Plan: what stands there, what must not, and that nothing of the Spec is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.emit.deepspeed import config, program
from meshwright.resolver import override, refusals, resolve
from meshwright.spec import Spec
from meshwright.spec.model import Moe


def deepspeed(gpus: int = 8, changes: Mapping[str, Any] | None = None, **degrees: Any) -> Spec:
    """A small Llama for DeepSpeed, ZeRO 1 unless said otherwise."""
    described = spec(small_model(), gpus, **{"zero": 1, **degrees})
    described = override(described, "backend.name", "deepspeed")
    for path, value in (changes or {}).items():
        described = override(described, path, value)
    return described


def emitted(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return config(resolve(deepspeed(*args, **kwargs)))


def test_the_whole_json_of_a_plain_run() -> None:
    assert emitted(changes={"training.global_batch": 32}, zero=2) == {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "steps_per_print": 1,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
        },
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": 500_000_000,
            "overlap_comm": True,
            "allgather_bucket_size": 500_000_000,
        },
        "bf16": {"enabled": True},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def test_accumulation_counts_replicas_not_ranks() -> None:
    """AutoTP's and Ulysses' ranks are no replicas: the global batch is micro * accumulation * dp."""
    for degrees in ({"tp": 4}, {"cp": 4}):
        found = emitted(16, {"training.global_batch": 32}, **degrees)
        assert found["train_micro_batch_size_per_gpu"] * found["gradient_accumulation_steps"] * 4 == 32
        assert "train_batch_size" not in found


def test_degrees() -> None:
    assert emitted(tp=2)["tensor_parallel"] == {"autotp_size": 2}
    assert emitted(cp=2)["sequence_parallel_size"] == 2
    moe = small_model(moe=Moe(experts=8, topk=2, ffn=256), transformers="mixtral")
    found = emitted(changes={"model": moe}, ep=4)
    assert found["expert_parallel"] == {"enabled": True, "autoep_size": 4, "preset_model": "mixtral"}


def test_stage_3_has_its_own_keys_and_no_others() -> None:
    found = emitted(changes={"backend.deepspeed.hpz": 8}, zero=3)["zero_optimization"]
    assert found["zero_hpz_partition_size"] == 8
    assert found["stage3_prefetch_bucket_size"] == 50_000_000
    assert "allgather_bucket_size" not in found
    assert not [key for key in emitted(zero=1)["zero_optimization"] if key.startswith("stage3_")]


def test_stage_0_is_said_and_nothing_else_of_zero() -> None:
    found = emitted(changes={"training.precision": "fp32"}, zero=0)
    assert found["zero_optimization"] == {"stage": 0}
    assert not {"bf16", "fp16", "data_types"} & set(found)


def test_offload() -> None:
    found = emitted(
        changes={
            "backend.deepspeed.offload_optimizer.device": "cpu",
            "backend.deepspeed.offload_optimizer.ratio": 0.5,
            "backend.deepspeed.offload_param.device": "nvme",
            "backend.deepspeed.offload_param.nvme_path": "scratch",
        },
        zero=3,
    )["zero_optimization"]
    assert found["offload_optimizer"] == {"device": "cpu", "pin_memory": True, "ratio": 0.5}
    assert found["offload_param"] == {"device": "nvme", "pin_memory": True, "nvme_path": "scratch"}


def test_clipping_is_said_even_when_off() -> None:
    """DeepSpeed clips at 1.0 unless told otherwise."""
    assert emitted(changes={"training.optimizer.clip": 0.0})["gradient_clipping"] == 0.0


def test_optimizers() -> None:
    assert emitted(changes={"training.optimizer.name": "adam"})["optimizer"]["params"]["adam_w_mode"] is False
    sgd = emitted(changes={"training.optimizer.name": "sgd"})
    assert sgd["optimizer"] == {"type": "SGD", "params": {"lr": 3e-4, "momentum": 0.9, "weight_decay": 0.1}}
    assert sgd["zero_allow_untested_optimizer"] is True


def test_extra_is_merged_key_by_key() -> None:
    extra = {"zero_optimization": {"round_robin_gradients": True}, "wall_clock_breakdown": True}
    found = emitted(changes={"backend.deepspeed.extra": extra}, zero=2)
    assert found["wall_clock_breakdown"] is True
    assert found["zero_optimization"]["round_robin_gradients"] is True
    assert found["zero_optimization"]["stage"] == 2


def test_extra_carries_what_autotp_cuts_by_a_table_of_ones_own() -> None:
    """Keys of DeepSpeed's own that no option here says: docs/cost.md."""
    rules = {"layer_specs": [{"patterns": [".*\\.o_proj\\.weight$"], "partition_type": "row"}]}
    for section in ({"partition_config": rules}, {"preset_model": "llama"}):
        found = emitted(changes={"backend.deepspeed.extra": {"tensor_parallel": section}}, tp=2)["tensor_parallel"]
        assert found == {"autotp_size": 2, **section}


def test_no_nulls() -> None:
    """DeepSpeed crashes on a null section."""

    def leaves(value: Any) -> Iterator[Any]:
        for inner in value.values():
            yield from leaves(inner) if isinstance(inner, Mapping) else [inner]

    assert None not in list(leaves(emitted(changes={"backend.deepspeed.offload_optimizer.device": "cpu"}, zero=3)))


IRRELEVANT = {
    "parallelism.order": "the tensor group is always fastest, and there is no pipeline",
    "parallelism.cp_comm": "Ulysses exchanges heads all to all; the key is Megatron's",
    "parallelism.overlap_p2p": "pipelines only",
    "parallelism.overlap_param_gather": "below stage 3 DeepSpeed gathers once, after the step",
    "training.optimizer.momentum": "SGD only",
}
"""Fields that change nothing DeepSpeed sees, with the reason."""

CHANGES = {
    "parallelism.tp": 2,
    "parallelism.pp": 2,
    "parallelism.cp": 2,
    "parallelism.zero": 3,
    "parallelism.sp": True,
    "parallelism.recompute": "full",
    "parallelism.overlap_grad_reduce": False,
    "parallelism.overlap_tp": True,
    "parallelism.overlap_ep": True,
    "parallelism.optimizer_instances": 2,
    "parallelism.microbatch_group": 2,
    "training.micro_batch": 2,
    "training.global_batch": 64,
    "training.sequence": 256,
    "training.steps": 7,
    "training.precision": "fp16",
    "training.grad_reduce": "bf16",
    "training.seed": 1,
    "training.optimizer.name": "adam",
    "training.optimizer.lr": 1.0,
    "training.optimizer.beta1": 0.5,
    "training.optimizer.beta2": 0.5,
    "training.optimizer.eps": 0.5,
    "training.optimizer.weight_decay": 0.5,
    "training.optimizer.clip": 0.5,
    "training.schedule.style": "wsd",
    "training.schedule.warmup_steps": 3,
    "training.schedule.min_lr": 0.1,
    "training.data.paths": ("text",),
    "training.data.split": "1,0,0",
    "training.logging.interval": 5,
    "training.logging.tensorboard": "tb",
    "training.logging.wandb_project": "p",
    "training.logging.save": "s",
    "training.logging.load": "l",
    "backend.deepspeed.reduce_bucket": 5,
    "backend.deepspeed.allgather_bucket": 5,
    "backend.deepspeed.hpz": 2,
    "backend.deepspeed.torch_adam": True,
    "backend.deepspeed.quantized_weights": True,
    "backend.deepspeed.quantized_gradients": True,
    "backend.deepspeed.bf16_states": True,
    "backend.deepspeed.attention": "flash_attention_2",
    "backend.deepspeed.offload_optimizer.device": "cpu",
    "backend.deepspeed.offload_optimizer.ratio": 0.5,
    "backend.deepspeed.offload_param.device": "cpu",
    "backend.deepspeed.extra": {"dump_state": True},
    "parallelism.order": "tp-cp-ep-pp-dp",
    "parallelism.cp_comm": "a2a",
    "parallelism.overlap_p2p": False,
    "parallelism.recompute_method": "block",
    "parallelism.overlap_param_gather": False,
    "training.optimizer.momentum": 0.1,
}


@pytest.mark.parametrize("path", CHANGES)
def test_every_changed_field_is_emitted_or_refused(path: str) -> None:
    before = deepspeed(changes={"training.global_batch": 32})
    after = override(before, path, CHANGES[path])
    if path.startswith("parallelism.") and path.split(".")[1] in ("tp", "pp", "cp"):
        after = replace(after, parallelism=replace(after.parallelism, dp=None))
    lost = not refusals(after, "deepspeed") and files(after) == files(before)
    assert lost == (path in IRRELEVANT)


def files(described: Spec) -> tuple[Any, Any]:
    plan = resolve(described)
    return config(plan), program(plan)
