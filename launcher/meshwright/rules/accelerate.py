"""What the Hugging Face Trainer cannot say, under accelerate with DeepSpeed or with PyTorch's FSDP2.

Places: transformers 5.24, accelerate 1.15. Both inherit more: DeepSpeed's rules, or those every backend has. What FSDP2
cannot say is in ``accelerate_fsdp``.
"""

from __future__ import annotations

from meshwright.rules._forms import no_ramp, only, stated_length
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Rule
from meshwright.rules.accelerate_fsdp import RULES as FSDP
from meshwright.rules.accelerate_fsdp import WITH_FSDP
from meshwright.spec import DeepSpeedOptions
from meshwright.spec.techniques import DeepSpeedCheckpoint

__all__ = ["RULES"]

WITH_DEEPSPEED = ("accelerate_deepspeed",)
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
            backend__deepspeed__checkpoint__load_universal=False,
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

RULES: tuple[Rule, ...] = _RUN + _DEEPSPEED + FSDP
