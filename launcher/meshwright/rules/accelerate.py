"""What the Hugging Face Trainer cannot say, under accelerate with DeepSpeed or with PyTorch's FSDP2.

Places: transformers 5.24, accelerate 1.15. Both inherit more: DeepSpeed's rules, or those every backend has.
"""

from __future__ import annotations

from meshwright.rules._forms import always_overlaps, no_ramp, only, stated_length, unsplit
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import TORCHTITAN, Layout, Rule, implies
from meshwright.spec import DeepSpeedOptions
from meshwright.spec.techniques import DeepSpeedCheckpoint

__all__ = ["RULES"]

WITH_DEEPSPEED, WITH_FSDP = ("accelerate_deepspeed",), ("accelerate_fsdp",)
TRAINER = WITH_DEEPSPEED + WITH_FSDP


def _by_our_program(o: DeepSpeedOptions) -> bool:
    """Techniques that the JSON alone does not switch on."""
    tiled = o.tiling.loss > 1 or o.tiling.mlp > 1
    written = o.checkpoint != DeepSpeedCheckpoint()
    return tiled or written or o.zenflow.topk is not None or o.deep_compile.enabled or o.moe_dispatcher != "alltoall"


def _decays_to_the_end(r: Layout) -> bool:
    """Whether the schedule's decay and the run end together; unstated steps are another rule's."""
    schedule, steps = r.training.schedule, r.training.steps
    return schedule.style in ("constant", "wsd") or schedule.decay_steps is None or schedule.decay_steps == steps


def _inverse(r: Layout) -> bool:
    schedule = r.training.schedule
    return schedule.style != "inverse_sqrt" or (schedule.warmup_steps > 0 and schedule.min_lr == 0)


def _plain_states(r: Layout) -> bool:
    """Whether no backend is asked to keep states otherwise than in full on the GPU."""
    deepspeed = r.backend.deepspeed
    offloads = (deepspeed.offload_optimizer.device, deepspeed.offload_param.device)
    quantized = deepspeed.quantized_weights or deepspeed.quantized_gradients
    low = quantized or deepspeed.bf16_states
    return offloads == ("none", "none") and not low and r.backend.megatron.optimizer_moments == "fp32"


_RUN = (
    stated_length(
        "trainer",
        TRAINER,
        "the Trainer's schedules need it",
        "transformers trainer.py: max_steps, else whole epochs of a data set that only the script knows",
    ),
    no_ramp(
        "trainer",
        TRAINER,
        "the Trainer's batch does not grow; it has {training.ramp}",
        "transformers training_args.py: no such argument",
    ),
    only(
        "trainer.optimizer",
        TRAINER,
        "training.optimizer.name",
        "adamw",
        "the Trainer's {training.optimizer.name} has not the same hyperparameters, or does not exist; adamw",
        "transformers trainer_optimizer.py: SGD without momentum, Adam only decoupled",
    ),
    Rule(
        id="trainer.decay",
        path="training.schedule.decay_steps",
        backends=TRAINER,
        holds=_decays_to_the_end,
        message="{training.schedule.decay_steps} steps, but the Trainer's {training.schedule.style} decays over the "
        "whole run",
        source="transformers optimization.py: num_training_steps",
        repairs=change(training__schedule__decay_steps=None),
    ),
    Rule(
        id="trainer.inverse_sqrt",
        path="training.schedule.min_lr",
        backends=TRAINER,
        holds=_inverse,
        message="the Trainer's inverse square root starts from a warm-up and has no lowest rate; warmup_steps = "
        "{training.schedule.warmup_steps}, min_lr = {training.schedule.min_lr}",
        source="transformers optimization.py: _get_inverse_sqrt_schedule_lr_lambda",
        repairs=any_of(change(training__schedule__min_lr=0.0), change(training__schedule__style="cosine")),
    ),
    Rule(
        id="trainer.wsd",
        path="training.schedule.wsd_decay_style",
        backends=TRAINER,
        holds=lambda r: r.training.schedule.style != "wsd" or r.training.schedule.wsd_decay_style != "exponential",
        message="the Trainer's last phase is linear, cosine or minus_sqrt, not exponential",
        source="transformers optimization.py: _get_wsd_scheduler_lambda",
        repairs=change(training__schedule__wsd_decay_style="linear"),
    ),
    Rule(
        id="trainer.wsd_warmup",
        path="training.schedule.warmup_steps",
        backends=TRAINER,
        holds=lambda r: (
            r.training.schedule.style != "wsd"
            or r.training.schedule.min_lr == 0
            or r.training.schedule.warmup_steps == 0
        ),
        message="the Trainer's WSD warms up from the lowest rate, {training.schedule.min_lr}, not from 0",
        source="transformers optimization.py: factor * (1.0 - min_lr_ratio) + min_lr_ratio",
        repairs=any_of(change(training__schedule__min_lr=0.0), change(training__schedule__warmup_steps=0)),
    ),
    Rule(
        id="trainer.precision",
        path="training.precision",
        backends=TRAINER,
        holds=lambda r: r.training.precision in ("fp32", "fp16", "bf16"),
        message="the Trainer has no {training.precision}: fp32, fp16 and bf16",
        source="transformers training_args.py: fp16, bf16",
        repairs=change(training__precision="bf16"),
    ),
)

_DEEPSPEED = (
    Rule(
        id="trainer.deepspeed_degrees",
        path="parallelism",
        backends=WITH_DEEPSPEED,
        holds=lambda r: (r.tp == 1) & (r.cp == 1) & (r.ep == 1),
        message="tp = {tp}, cp = {cp}, ep = {ep}: how the Trainer hands AutoTP, Ulysses and AutoEP to DeepSpeed "
        "depends on the script, and is not proven here; backend=deepspeed runs them",
        source="ours",
        repairs=change(parallelism__tp=1, parallelism__cp=1, parallelism__ep=1, parallelism__dp=None),
    ),
    Rule(
        id="trainer.deepspeed_techniques",
        path="backend.deepspeed",
        backends=WITH_DEEPSPEED,
        holds=lambda r: not _by_our_program(r.backend.deepspeed),
        message="tiles, ZenFlow, DeepCompile, DeepEP and writers of checkpoints are switched on by our program, or it "
        "counts steps or waits for them; the Trainer does neither",
        source="train/deepspeed_tiling.py; transformers integrations/deepspeed.py",
        repairs=change(
            backend__deepspeed__tiling__loss=1,
            backend__deepspeed__tiling__mlp=1,
            backend__deepspeed__zenflow__topk=None,
            backend__deepspeed__deep_compile__enabled=False,
            backend__deepspeed__deep_compile__offload="none",
            backend__deepspeed__moe_dispatcher="alltoall",
            backend__deepspeed__checkpoint__writer="torch",
            backend__deepspeed__checkpoint__node_local=False,
        ),
    ),
    Rule(
        id="trainer.deepspeed_offload",
        path="backend.deepspeed.offload_optimizer.device",
        backends=WITH_DEEPSPEED,
        holds=lambda r: (
            (r.backend.deepspeed.offload_optimizer.device == "none") | (r.training.optimizer.weight_decay == 0)
        ),
        message="an offloaded optimizer is DeepSpeed's own, to which the Trainer hands all parameters in one group: "
        "norms and biases would decay by {training.optimizer.weight_decay}, too",
        source="transformers integrations/deepspeed.py: DummyOptim(params=model_parameters)",
        repairs=any_of(
            change(backend__deepspeed__offload_optimizer__device="none"), change(training__optimizer__weight_decay=0.0)
        ),
    ),
)

_FSDP = (
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
    Rule(
        id="trainer.fsdp_zero",
        path="parallelism.zero",
        backends=WITH_FSDP,
        holds=lambda r: r.zero != 1,
        message="FSDP2 shards gradients (2) or parameters, too (3), DDP nothing (0); the optimizer alone (1) is "
        "DeepSpeed's",
        source="accelerate utils/dataclasses.py: reshard_after_forward of fsdp_version 2",
        repairs=any_of(change(parallelism__zero=2), change(parallelism__zero=3)),
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

RULES: tuple[Rule, ...] = _RUN + _DEEPSPEED + _FSDP
