"""What accelerate cannot say with PyTorch's FSDP2. Places: transformers 5.24, accelerate 1.15."""

from __future__ import annotations

from meshwright.rules._forms import always_overlaps, fsdp_zero, only, unsplit
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import TORCHTITAN, Layout, Rule, implies

__all__ = ["RULES", "WITH_FSDP"]

WITH_FSDP = ("accelerate_fsdp",)


def _plain_states(r: Layout) -> bool:
    """Whether no backend is asked to keep states otherwise than in full on the GPU."""
    deepspeed = r.backend.deepspeed
    offloads = (deepspeed.offload_optimizer.device, deepspeed.offload_param.device)
    quantized = deepspeed.quantized_weights or deepspeed.quantized_gradients
    low = quantized or deepspeed.bf16_states
    return offloads == ("none", "none") and not low and r.backend.megatron.optimizer_moments == "fp32"


RULES: tuple[Rule, ...] = (
    Rule(
        id="trainer.fsdp_degrees",
        path="parallelism",
        backends=WITH_FSDP,
        holds=lambda r: (r.tp == 1) & (r.pp == 1) & (r.ep == 1) & (r.etp == 1) & (r.sp == 0),
        message="tp = {tp}, pp = {pp}, ep = {ep}, etp = {etp}: accelerate has no pipeline and no experts' grid, "
        "and its tensor parallelism is the script's (tp_plan as the model is loaded)",
        source="accelerate parallelism_config.py; transformers trainer.py: model.tp_size",
        repairs=change(
            parallelism__tp=1,
            parallelism__sp=False,
            parallelism__pp=1,
            parallelism__vpp=1,
            parallelism__ep=1,
            parallelism__etp=1,
            parallelism__dp=None,
        ),
    ),
    unsplit("trainer.fsdp_split", WITH_FSDP, "accelerate", needs="trainer.fsdp_degrees"),
    fsdp_zero(
        "trainer.fsdp_zero",
        WITH_FSDP,
        "is DeepSpeed's",
        "accelerate utils/dataclasses.py: reshard_after_forward of fsdp_version 2",
        any_of(change(parallelism__zero=2), change(parallelism__zero=3)),
    ),
    only(
        "trainer.fsdp_instances",
        WITH_FSDP,
        "parallelism.optimizer_instances",
        1,
        "{spec.parallelism.optimizer_instances} instances: hybrid sharding is not exported",
    ),
    Rule(
        id="trainer.fsdp_context",
        path="parallelism.cp",
        backends=WITH_FSDP,
        needs=("trainer.fsdp_zero",),
        holds=lambda r: implies(r.cp > 1, (r.zero >= 2) & (r.training.sequence % (2 * r.cp) == 0)),
        message="cp = {cp} needs FSDP2 (zero = 2 or 3, it is {zero}) and a sequence that 2·cp divides, not "
        "{training.sequence} tokens",
        source="accelerate accelerator.py: context parallelism with fsdp_version=2; torch's ring deals 2·cp parts",
        repairs=any_of(change(parallelism__zero=3), change(parallelism__cp=1, parallelism__dp=None)),
    ),
    Rule(
        id="trainer.fsdp_attention",
        path="backend.deepspeed.attention",
        backends=WITH_FSDP,
        holds=lambda r: implies(r.cp > 1, r.backend.deepspeed.attention in ("auto", "sdpa")),
        message="cp = {cp}: torch's context parallelism runs with sdpa, not {backend.deepspeed.attention}",
        source="transformers trainer.py: context parallelism is supported only with SDPA attention",
        repairs=change(backend__deepspeed__attention="auto"),
    ),
    Rule(
        id="trainer.fsdp_sums",
        path="training.grad_reduce",
        backends=WITH_FSDP,
        needs=("trainer.precision",),
        holds=lambda r: implies(
            r.zero >= 2,
            (r.training.precision == "fp32") | ((r.training.precision == "bf16") & (r.training.grad_reduce == "bf16")),
        ),
        message="{training.grad_reduce} sums in {training.precision}: accelerate's FSDP2 sums gradients in the "
        "precision it computes in",
        source="accelerate utils/dataclasses.py: set_mixed_precision, reduce_dtype",
        repairs=any_of(
            change(training__grad_reduce="bf16", training__precision="bf16"),
            change(training__precision="fp32", training__grad_reduce="fp32"),
        ),
    ),
    Rule(
        id="fsdp.states",
        path="backend",
        backends=WITH_FSDP + TORCHTITAN,
        holds=_plain_states,
        message="offloaded or quantized states are DeepSpeed's, small moments Megatron's; FSDP2 has fp32 on the GPU",
        source="ours: they would be lost",
        repairs=change(
            backend__deepspeed__offload_optimizer__device="none",
            backend__deepspeed__offload_param__device="none",
            backend__deepspeed__quantized_weights=False,
            backend__deepspeed__quantized_gradients=False,
            backend__deepspeed__bf16_states=False,
            backend__megatron__optimizer_moments="fp32",
        ),
    ),
    Rule(
        id="trainer.ddp_sums",
        path="training.grad_reduce",
        backends=WITH_FSDP,
        holds=lambda r: implies(r.zero == 0, r.training.grad_reduce == "fp32"),
        message="grad_reduce={training.grad_reduce}: DDP keeps fp32 weights and sums fp32 gradients",
        source="torch nn/parallel/distributed.py: gradients have the weights' type",
        repairs=change(training__grad_reduce="fp32"),
    ),
    always_overlaps(
        "trainer.fsdp_overlap",
        WITH_FSDP,
        "DDP and FSDP2 always communicate behind the computation, and know no other overlap",
        "torch distributed/fsdp/_fully_shard",
    ),
)
