"""What torchtitan cannot say. Places: torchtitan 0.3. It shares what every backend refuses, and Megatron's pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from meshwright.rules._forms import always_overlaps, fsdp_zero, no_ramp, stated_length, whole_layers
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import TORCHTITAN, Layout, Rule, implies
from meshwright.spec import Model
from meshwright.spec.model import Rope

__all__ = ["RULES"]

_VARIES = (
    *("name", "layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "max_positions", "norm_eps"),
    *("tied_embeddings", "init_std", "rope", "transformers", "mtp_loss_weight", "full_attention_every"),
)
"""Fields of a Model in which torchtitan's Llama varies, and those that mean nothing in it."""

_LLAMA = {"activation": "swiglu", "norm": "rmsnorm", "positions": "rope"}


def _others(model: Model) -> Iterator[str]:
    """Fields of ``model`` that no Llama of torchtitan has so."""
    for field in fields(model):
        value = getattr(model, field.name)
        if field.name not in _VARIES and value != _LLAMA.get(field.name, field.default):
            yield f"{field.name} {value}"
    plain = Rope(base=model.rope.base, scaling=model.rope.scaling)
    if model.rope != plain or (model.rope.scaling and model.rope.scaling.kind != "llama3"):
        yield "rope (only a base and scaling of kind llama3)"


def _decays(r: Layout) -> bool:
    """Whether the schedule reaches the end of the run: beyond its own end torchtitan's rates turn round."""
    schedule, steps = r.training.schedule, r.training.steps
    return schedule.decay_steps is None or steps is None or schedule.decay_steps >= steps


_RUN = (
    Rule(
        id="torchtitan.model",
        path="model",
        backends=TORCHTITAN,
        holds=lambda r: not list(_others(r.model)),
        message=lambda r: f"is no Llama, the one architecture that is exported: {', '.join(_others(r.model))}",
        source="models/llama3/model.py",
    ),
    stated_length("torchtitan", TORCHTITAN, "torchtitan's schedule needs it", "config/configs.py: training.steps"),
    no_ramp(
        "torchtitan",
        TORCHTITAN,
        "torchtitan's batch does not grow; it has {training.ramp}",
        "config/configs.py: no such value",
    ),
    Rule(
        id="torchtitan.precision",
        path="training.precision",
        backends=TORCHTITAN,
        holds=lambda r: r.training.precision in ("fp32", "bf16") and r.training.grad_reduce == "fp32",
        message="{training.precision} with {training.grad_reduce} sums: fp32 and bf16 are exported, and sums are fp32",
        source="config/configs.py: mixed_precision_param, mixed_precision_reduce",
        repairs=change(training__precision="bf16", training__grad_reduce="fp32"),
    ),
    Rule(
        id="torchtitan.optimizer",
        path="training.optimizer.name",
        backends=TORCHTITAN,
        holds=lambda r: r.training.optimizer.name in ("adam", "adamw") and r.training.optimizer.clip > 0,
        message="{training.optimizer.name}, clipped at {training.optimizer.clip}: torchtitan has adam and adamw as "
        "ours, and always clips",
        source="components/optimizer/optimizer.py; trainer.py: clip_grad_norm_ at 0 makes every gradient 0",
        repairs=any_of(
            change(training__optimizer__name="adamw"),
            change(training__optimizer__clip=1.0),
            change(training__optimizer__name="adamw", training__optimizer__clip=1.0),
        ),
    ),
    Rule(
        id="torchtitan.schedule",
        path="training.schedule.style",
        backends=TORCHTITAN,
        holds=lambda r: (
            r.training.schedule.style != "inverse_sqrt"
            and not (r.training.schedule.style == "wsd" and r.training.schedule.wsd_decay_style == "exponential")
        ),
        message="{training.schedule.style}, {training.schedule.wsd_decay_style}: torchtitan decays linear, cosine "
        "or by a square root",
        source="components/optimizer/lr_scheduler.py: decay_type",
        repairs=any_of(
            change(training__schedule__wsd_decay_style="linear"), change(training__schedule__style="cosine")
        ),
    ),
    Rule(
        id="torchtitan.decay",
        path="training.schedule.decay_steps",
        backends=TORCHTITAN,
        holds=_decays,
        message="{training.schedule.decay_steps} steps, before the end of the run after {training.steps}: torchtitan's "
        "schedule has no rest at the lowest rate",
        source="components/optimizer/lr_scheduler.py: progress beyond 1",
        repairs=change(training__schedule__decay_steps=None),
    ),
    Rule(
        id="torchtitan.data",
        path="training.data",
        backends=TORCHTITAN,
        holds=lambda r: (
            not r.training.data.paths and r.training.data.tokenizer.kind in ("null", "bytes", "huggingface")
        ),
        message="torchtitan reads text of Hugging Face data sets with a Hugging Face tokenizer, not indexed ones; name "
        "its own with --dataloader.dataset",
        source="hf_datasets/text_datasets.py",
        repairs=change(
            training__data__paths=(),
            training__data__weights=(),
            training__data__tokenizer__kind="null",
            training__data__tokenizer__path=None,
        ),
    ),
)

_LAYOUT = (
    fsdp_zero(
        "torchtitan.zero",
        TORCHTITAN,
        "is no choice",
        "config/configs.py: data_parallel_shard_degree, fsdp_reshard_after_forward",
        any_of(change(parallelism__zero=3), change(parallelism__zero=2)),
    ),
    Rule(
        id="torchtitan.replicas",
        path="parallelism.zero",
        backends=TORCHTITAN,
        needs=("torchtitan.zero",),
        holds=lambda r: implies((r.zero == 0) & (r.dp > 1), (r.tp == 1) & (r.cp == 1) & (r.pp == 1)),
        message="dp = {dp} at ZeRO 0 with tp = {tp}, cp = {cp}, pp = {pp}: DDP is not combined with the others, "
        "FSDP2 is",
        source="models/llama3/parallelize.py: DDP has not supported > 1D parallelism",
        repairs=any_of(change(parallelism__zero=3), change(parallelism__zero=2)),
    ),
    Rule(
        id="torchtitan.instances",
        path="parallelism.optimizer_instances",
        backends=TORCHTITAN,
        needs=("torchtitan.zero",),
        holds=lambda r: implies(
            r.spec.parallelism.optimizer_instances > 1,
            (r.zero >= 2) & (r.dp % r.spec.parallelism.optimizer_instances == 0),
        ),
        message="{spec.parallelism.optimizer_instances} instances need zero = 2 or 3, it is {zero}, and divide "
        "dp = {dp}",
        source="config/configs.py: data_parallel_replicate_degree",
        repairs=change(parallelism__optimizer_instances=1),
    ),
    Rule(
        id="torchtitan.kv_heads",
        path="parallelism.tp",
        backends=TORCHTITAN,
        holds=lambda r: r.model.kv_heads % r.tp == 0,
        message="tp = {tp} does not divide {model.kv_heads} key/value heads",
        source="models/common/decoder.py: update_from_config",
        repairs=change(parallelism__tp=1, parallelism__sp=False, parallelism__dp=None),
    ),
    Rule(
        id="torchtitan.vocabulary",
        path="parallelism.tp",
        backends=TORCHTITAN,
        holds=lambda r: r.model.vocab % r.tp == 0,
        message="tp = {tp} does not divide {model.vocab} words, and torchtitan pads none",
        source="models/llama3/sharding.py: the vocabulary is sharded",
        repairs=change(parallelism__tp=1, parallelism__sp=False, parallelism__dp=None),
    ),
    Rule(
        id="torchtitan.tied",
        path="model.tied_embeddings",
        backends=TORCHTITAN,
        holds=lambda r: implies(r.pp > 1, not r.model.tied_embeddings),
        message="tied embeddings with pp = {pp}: torchtitan ties no weights across stages",
        source="models/common/decoder.py: update_from_config",
        repairs=change(parallelism__pp=1, parallelism__vpp=1, parallelism__dp=None),
    ),
    Rule(
        id="torchtitan.context",
        path="parallelism.cp",
        backends=TORCHTITAN,
        holds=lambda r: implies(
            r.cp > 1, (r.training.sequence % (2 * r.cp) == 0) & (r.spec.parallelism.cp_comm == "all_gather")
        ),
        message="cp = {cp} gathers keys and values (cp_comm=all_gather, it is {spec.parallelism.cp_comm}) of a "
        "sequence that 2·cp divides, not {training.sequence} tokens",
        source="config/configs.py: context_parallel_load_balancer headtail; flex attention",
        repairs=any_of(change(parallelism__cp_comm="all_gather"), change(parallelism__cp=1, parallelism__dp=None)),
    ),
    Rule(
        id="torchtitan.interleaved",
        path="training.global_batch",
        backends=TORCHTITAN,
        needs=("batch.global",),
        holds=lambda r: implies(r.vpp > 1, r.microbatches % r.pp == 0),
        message="{microbatches} micro-batches do not divide by pp = {pp}, as the interleaved schedule asks",
        source="torch distributed/pipelining/schedules.py: ScheduleInterleaved1F1B",
        repairs=change(parallelism__vpp=1),
    ),
    Rule(
        id="torchtitan.group",
        path="parallelism.microbatch_group",
        backends=TORCHTITAN,
        holds=lambda r: implies(r.vpp > 1, r.spec.parallelism.microbatch_group in (None, r.spec.parallelism.pp)),
        message="{spec.parallelism.microbatch_group} micro-batches a chunk: torchtitan's groups are pp = {pp}",
        source="torch distributed/pipelining/schedules.py: ScheduleInterleaved1F1B",
        repairs=change(parallelism__microbatch_group=None),
    ),
    whole_layers(
        "torchtitan.recompute",
        TORCHTITAN,
        "whole layers are recomputed, each of them: recompute=full, uniform, 1 layer; torchtitan's selective "
        "one chooses operations, not modules",
        "distributed/activation_checkpoint.py: FullAC, SelectiveAC",
    ),
    Rule(
        id="torchtitan.order",
        path="parallelism.order",
        backends=TORCHTITAN,
        holds=lambda r: implies(r.pp > 1, r.spec.parallelism.order == "tp-cp-ep-dp-pp"),
        message="torchtitan's ranks are ordered tp-cp-ep-dp-pp, not {spec.parallelism.order}",
        source="distributed/parallel_dims.py",
        repairs=change(parallelism__order="tp-cp-ep-dp-pp"),
    ),
    always_overlaps(
        "torchtitan.overlap",
        TORCHTITAN,
        "DDP and FSDP2 always communicate behind the computation; overlap in tensor parallelism is not exported",
        "torch distributed/fsdp/_fully_shard; config/configs.py: enable_async_tensor_parallel needs compilation",
    ),
)

RULES: tuple[Rule, ...] = _RUN + _LAYOUT
