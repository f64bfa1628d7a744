"""Megatron-LM's arguments -> our ``training``: emit/megatron_training.py read backwards."""

from __future__ import annotations

from typing import Any

from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_data import data
from meshwright.imports.megatron_logging import evaluation, logging
from meshwright.imports.megatron_techniques import of_muon
from meshwright.spec.training import FP8_RECIPES

__all__ = ["CARRIED", "PLAIN", "REQUIRED", "training"]

Flat = dict[str, Any]

REQUIRED = {"training.sequence": "seq_length", "training.micro_batch": "micro_batch_size"}
"""Megatron stops without them (arguments.py:676, :1332)."""

PLAIN = {
    "training.global_batch": "global_batch_size",
    "training.seed": "seed",
    "training.optimizer.weight_decay": "weight_decay",
    "training.optimizer.clip": "clip_grad",
    "training.optimizer.beta1": "adam_beta1",
    "training.optimizer.beta2": "adam_beta2",
    "training.optimizer.eps": "adam_eps",
    "training.schedule.min_lr": "min_lr",
    "training.data.cache": "data_cache_path",
    "training.data.workers": "num_workers",
    "training.logging.interval": "log_interval",
    "training.logging.tensorboard": "tensorboard_dir",
    "training.logging.wandb_project": "wandb_project",
    "training.logging.wandb_name": "wandb_exp_name",
    "training.logging.save": "save",
    "training.logging.load": "load",
}
"""One argument each, the same value."""

CARRIED = {
    "training.sequence": "encoder_seq_length",
    "training.ramp": "step_batch_size_schedule rampup_batch_size",
    "training.steps": "train_iters train_samples train_tokens",
    "training.precision": "bf16 fp16 fp8 fp8_recipe fp4 fp4_recipe",
    "training.grad_reduce": "accumulate_allreduce_grads_in_fp32 grad_reduce_in_bf16",
    "training.optimizer.name": "optimizer",
    "training.optimizer.momentum": "sgd_momentum muon_momentum",
    "training.optimizer.lr": "lr",
    "training.optimizer.qk_clip": "qk_clip qk_clip_threshold",
    "training.schedule.style": "lr_decay_style",
    "training.schedule.warmup_steps": "lr_warmup_iters lr_warmup_samples lr_warmup_tokens lr_warmup_fraction",
    "training.schedule.decay_steps": "lr_decay_iters lr_decay_samples lr_decay_tokens",
    "training.schedule.wsd_decay_steps": "lr_wsd_decay_iters lr_wsd_decay_samples",
    "training.schedule.wsd_decay_style": "lr_wsd_decay_style",
    "training.data": "create_attention_mask_in_dataloader",
    "training.data.paths": "data_path mock_data",
    "training.data.split": "split",
    "training.data.tokenizer.kind": "tokenizer_type",
    "training.data.tokenizer.path": "tokenizer_model",
    "training.logging": "exit_signal_handler log_throughput",
}


def training(a: Arguments) -> Flat:
    """Batch, length, precision, optimizer, schedule, data and logging by dotted path."""
    stated = {path: a(name) for path, name in REQUIRED.items() if a(name) is not None}
    if a("encoder_seq_length") and not a("seq_length"):
        stated["training.sequence"] = a("encoder_seq_length")
    flat = {path: a(name) for path, name in PLAIN.items()}
    return {
        **flat,
        **evaluation(a),
        **logging(a),
        **stated,
        **_length(a),
        **_precision(a),
        **_optimizer(a),
        **_schedule(a),
        **data(a),
    }


def _length(a: Arguments) -> Flat:
    """Samples are steps of the global batch, floored as Megatron does; under a ramp they are tokens."""
    ramp, samples = ramp_of(a), a("train_samples")
    flat: Flat = {"training.ramp": ramp, "training.steps": a("train_iters")}
    if ramp:
        flat["training.global_batch"] = ramp[-1]["global_batch"]
    if samples and ramp:
        flat["training.tokens"] = samples * (a("seq_length") or 1)
    elif samples:
        flat["training.steps"] = samples // batch if (batch := _batch(a)) else None
    return flat


def ramp_of(a: Arguments) -> list[dict[str, int]]:
    """A schedule of thresholds in tokens; the older ramp counts samples and grows in equal steps."""
    if a("step_batch_size_schedule"):
        entries = str(a("step_batch_size_schedule")).replace(",", " ").split()
        pairs = [entry.partition(":")[::2] for entry in entries]
        return [{"from_tokens": _number(start), "global_batch": int(size)} for start, size in pairs]
    given, final, sequence = a("rampup_batch_size"), a("global_batch_size"), a("seq_length")
    if not (isinstance(given, list) and len(given) == 3 and final and sequence):
        return []
    start, increment, samples = given
    increments = (final - start) // increment if increment > 0 else 0
    if not 0 < increments <= 1000:
        return []
    each = samples / increments  # core/num_microbatches_calculator.py RampupBatchsizeNumMicroBatchesCalculator
    steps = [(int(i * each) * sequence, start + i * increment) for i in range(increments + 1)]
    return [{"from_tokens": tokens, "global_batch": size} for tokens, size in steps]


def _number(text: str) -> int:
    """With Megatron's suffixes K, M, B, T (core/num_microbatches_calculator.py _parse_numeric_value)."""
    power = {"K": 3, "M": 6, "B": 9, "T": 12}.get(text[-1:].upper(), 0)
    return int(float(text[:-1] if power else text) * 10**power) if power or not text.isdigit() else int(text)


def _batch(a: Arguments) -> int | None:
    """Sequences of a step; where it is not said, the micro-batches of all replicas, one each."""
    if a("global_batch_size"):
        return int(a("global_batch_size"))
    world, degrees = a.world, (a("tensor_model_parallel_size"), a("pipeline_model_parallel_size"))
    if world and a("micro_batch_size"):
        return int(a("micro_batch_size") * max(1, world // (degrees[0] * degrees[1] * a("context_parallel_size"))))
    return None


_FP8 = {recipe: precision for precision, recipe in FP8_RECIPES.items()}


def _precision(a: Arguments) -> Flat:
    """Bfloat16 reduces in fp32 unless told otherwise (arguments.py:1190); an fp32 run has nothing else to reduce."""
    kind = "bf16" if a("bf16") else "fp16" if a("fp16") else "fp32"
    if a("fp8"):
        kind = _FP8.get(a("fp8_recipe"), a("fp8_recipe"))
    if a("fp4"):
        kind = a("fp4_recipe")
    half = a("main_grads_dtype") == "bf16" and not a("accumulate_allreduce_grads_in_fp32")
    reduced = "bf16" if a("grad_reduce_in_bf16") or (a("bf16") and half) else "fp32"
    return {"training.precision": kind, "training.grad_reduce": reduced}


def _optimizer(a: Arguments) -> Flat:
    """Megatron's adam is AdamW, and dist_muon its former name of Muon, sharded by layers (arguments.py:1672)."""
    name = {"adam": "adamw", "dist_muon": "muon"}.get(a("optimizer"), a("optimizer"))
    momentum = a("muon_momentum" if of_muon(a) else "sgd_momentum")
    most = a("qk_clip_threshold") if a("qk_clip") else None
    flat = {"name": name, "momentum": momentum, "qk_clip": most, **({} if a("lr") is None else {"lr": a("lr")})}
    return {f"training.optimizer.{key}": value for key, value in flat.items()}


_PHASES = {"1-sqrt": "minus_sqrt"}  # Swiss AI's Megatron-LM
_STYLES = {"WSD": "wsd", "inverse-square-root": "inverse_sqrt"}


def _schedule(a: Arguments) -> Flat:
    style = _style(a)
    decay, last = _steps(a, "lr_decay"), _last_phase(a)
    warmup = _steps(a, "lr_warmup") or 0
    if a("lr_warmup_fraction") is not None:
        whole = decay or _length(a)["training.steps"]
        warmup = int(a("lr_warmup_fraction") * whole) if whole else 0
    flat: Flat = {"training.schedule.style": style, "training.schedule.warmup_steps": warmup}
    flat["training.schedule.decay_steps"] = decay
    if style == "wsd":
        flat["training.schedule.wsd_decay_steps"] = last
        flat["training.schedule.wsd_decay_style"] = _PHASES.get(a("lr_wsd_decay_style"), a("lr_wsd_decay_style"))
    return flat


def _style(a: Arguments) -> Any:
    """WSD without a last phase in this run stays at its height."""
    style = _STYLES.get(a("lr_decay_style"), a("lr_decay_style"))
    return "constant" if style == "wsd" and a("lr_wsd_decay_iters") == 0 else style


def _last_phase(a: Arguments) -> int | None:
    """Of WSD, in steps; under a ramp the samples before it are the longer part."""
    whole, last = a("lr_decay_samples"), a("lr_wsd_decay_samples")
    if whole and last and (ramp := ramp_of(a)):
        return _ramped(whole, ramp, a("seq_length")) - _ramped(whole - last, ramp, a("seq_length"))
    return _steps(a, "lr_wsd_decay")


def _steps(a: Arguments, name: str) -> int | None:
    """In steps: iterations, or the steps in which the samples are trained, ramp included."""
    if a(f"{name}_iters"):
        return int(a(f"{name}_iters"))
    samples = a(f"{name}_samples")
    ramp, batch = ramp_of(a), _batch(a)
    if not samples or not (ramp or batch):
        return None
    return _ramped(samples, ramp, a("seq_length")) if ramp else samples // (batch or 1)


def _ramped(samples: int, ramp: list[dict[str, int]], sequence: int) -> int:
    """The steps that ``samples`` take while the batch grows (layout/length.py)."""
    from meshwright.layout.length import steps_of_tokens
    from meshwright.spec import RampStep, Training

    steps = tuple(RampStep(**step) for step in ramp)
    run = Training(sequence=sequence, tokens=samples * sequence, ramp=steps)
    return int(steps_of_tokens(run, ramp[-1]["global_batch"]))
