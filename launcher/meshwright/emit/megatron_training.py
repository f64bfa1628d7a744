"""Batch, precision, optimizer, schedule, data and logging as Megatron-LM flags."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.emit._flags import flag, switch
from meshwright.layout.length import NEVER, UNSTATED_STEPS, decay_steps
from meshwright.layout.plan import Plan
from meshwright.spec import Data, Logging, Optimizer
from meshwright.spec.training import FP8_RECIPES

__all__ = ["training_flags"]


def training_flags(plan: Plan) -> Iterator[str]:
    """Everything about the run that is neither model nor layout."""
    training = plan.spec.training
    yield from _batch(plan)
    yield from _precision(plan)
    yield from _optimizer(training.optimizer)
    yield from _schedule(plan)
    yield from flag("--seed", training.seed, 1234)
    yield from _data(training.data)
    yield from _evaluation(plan)
    yield from _logging(training.logging)


def _batch(plan: Plan) -> Iterator[str]:
    """Batch and length. Under a ramp the length is in samples: a step would count micro_batch*dp (arguments.py:685)."""
    training, batch, length = plan.spec.training, plan.batch, plan.steps or UNSTATED_STEPS
    yield from flag("--seq-length", batch.sequence)
    yield from flag("--micro-batch-size", batch.micro_batch)
    if training.ramp:  # thresholds in tokens (core/num_microbatches_calculator.py); it replaces --global-batch-size
        steps = " ".join(f"{step.from_tokens}:{step.global_batch}" for step in training.ramp)
        yield from flag("--step-batch-size-schedule", steps)
        yield from flag("--train-samples", plan.sequences(length))
    else:
        yield from flag("--global-batch-size", batch.global_batch)
        yield from flag("--train-iters", length)


def _precision(plan: Plan) -> Iterator[str]:
    training, megatron = plan.spec.training, plan.spec.backend.megatron
    kind = training.precision
    yield from switch("--fp16", kind == "fp16")
    yield from switch("--bf16", kind in ("bf16", "nvfp4", *FP8_RECIPES))
    if kind in FP8_RECIPES:
        # E4M3 everywhere where scales are fine-grained (DeepSeek-V3, section 3.3.2), else E5M2 for gradients
        fine = kind in ("fp8_blockwise", "mxfp8")
        yield from flag("--fp8-format", "e4m3" if fine else "hybrid")
        yield from flag("--fp8-recipe", FP8_RECIPES[kind], "delayed")
    if kind == "nvfp4":
        yield from (*flag("--fp4-format", "e2m1"), *flag("--fp4-recipe", "nvfp4"))
    yield from switch("--grad-reduce-in-bf16", training.grad_reduce == "bf16")
    yield from switch("--accumulate-allreduce-grads-in-fp32", training.grad_reduce == "fp32" and kind != "fp32")
    yield from switch("--use-precision-aware-optimizer", megatron.precision_aware_optimizer)
    if megatron.optimizer_moments != "fp32":
        yield from flag("--exp-avg-dtype", megatron.optimizer_moments)
        yield from flag("--exp-avg-sq-dtype", megatron.optimizer_moments)
    yield from flag("--main-params-dtype", megatron.optimizer_master, "fp32")
    yield from flag("--main-grads-dtype", megatron.optimizer_gradients, "fp32")


def _optimizer(optimizer: Optimizer) -> Iterator[str]:
    """Megatron's adam is AdamW (decoupled weight decay is its default).

    Its optimizers of matrices step the rest by Adam, and Lion and SOAP take Adam's betas
    (core/optimizer/emerging_optimizers.py ``_default_adam_based_eopt_config_to_kwargs``).
    """
    yield from flag("--optimizer", {"adamw": "adam"}.get(optimizer.name, optimizer.name), "adam")
    yield from flag("--lr", optimizer.lr)
    if optimizer.name != "sgd":
        yield from flag("--adam-beta1", optimizer.beta1, 0.9)
        yield from flag("--adam-beta2", optimizer.beta2, 0.999)
        yield from flag("--adam-eps", optimizer.eps, 1e-8)
    if optimizer.name == "sgd":
        yield from flag("--sgd-momentum", optimizer.momentum, 0.9)
    if optimizer.name == "muon":
        yield from flag("--muon-momentum", optimizer.momentum, 0.9)
    yield from flag("--weight-decay", optimizer.weight_decay, 0.01)
    yield from flag("--clip-grad", optimizer.clip, 1.0)
    if optimizer.qk_clip is not None:
        yield from ("--qk-clip", "--qk-clip-threshold", str(optimizer.qk_clip))


_STYLES = {"wsd": "WSD", "inverse_sqrt": "inverse-square-root"}


def _schedule(plan: Plan) -> Iterator[str]:
    schedule = plan.spec.training.schedule
    unit, warmup, decay, last = _lengths(plan)
    yield from flag("--lr-decay-style", _STYLES.get(schedule.style, schedule.style), "linear")
    yield from flag(f"--lr-warmup-{unit}", warmup, 0)
    yield from flag(f"--lr-decay-{unit}", decay)
    yield from flag("--min-lr", schedule.min_lr, 0.0)
    if schedule.style == "wsd":
        yield from flag("--lr-wsd-decay-style", schedule.wsd_decay_style, "exponential")
        yield from flag(f"--lr-wsd-decay-{unit}", last)


def _lengths(plan: Plan) -> tuple[str, int, int | None, int | None]:
    """The unit, and in it the warm-up, the decay and WSD's last phase: under a ramp, samples trained until the step."""
    training = plan.spec.training
    schedule = training.schedule
    if not training.ramp:
        return "iters", schedule.warmup_steps, schedule.decay_steps, schedule.wsd_decay_steps
    end = decay_steps(training, plan.batch.global_batch)
    decay, last = plan.sequences(end), schedule.wsd_decay_steps
    anneal = None if last is None else decay - plan.sequences(end - last)
    return "samples", plan.sequences(schedule.warmup_steps), decay, anneal


_TOKENIZERS = {
    "null": "NullTokenizer",
    "bytes": "NullTokenizer",
    "huggingface": "HuggingFaceTokenizer",
    "sentencepiece": "SentencePieceTokenizer",
    "tiktoken": "TikTokenizer",
}


def _data(data: Data) -> Iterator[str]:
    """Attention is causal by its kind, so that loaders need not make a mask of all pairs of tokens.

    Megatron's do without the flag, in fp32 at first (core/datasets/gpt_dataset.py:798): 64 GiB for 131,072 tokens.
    """
    yield "--no-create-attention-mask-in-dataloader"
    yield from flag("--tokenizer-type", _TOKENIZERS[data.tokenizer.kind])
    yield from flag("--tokenizer-model", data.tokenizer.path)
    if data.paths:
        yield "--data-path"
        weights = data.weights or ()
        pairs = zip(weights, data.paths, strict=True) if weights else ((None, path) for path in data.paths)
        for weight, path in pairs:
            yield from (path,) if weight is None else (f"{weight:g}", path)
        yield from flag("--split", data.split)
    else:
        yield "--mock-data"
    yield from flag("--data-cache-path", data.cache)
    yield from flag("--num-workers", data.workers, 2)


def _evaluation(plan: Plan) -> Iterator[str]:
    """Without these flags nothing is evaluated (train.megatron); what is done at the end, our program decides."""
    evaluation = plan.spec.training.evaluation
    if not evaluation.wanted:
        return
    yield from flag("--eval-interval", evaluation.interval or NEVER)
    yield from flag("--eval-iters", evaluation.steps)
    if plan.spec.training.ramp:  # whose schedule takes the place of --global-batch-size
        yield from flag("--eval-global-batch-size", plan.batch.global_batch)


def _logging(logging: Logging) -> Iterator[str]:
    yield from flag("--log-interval", logging.interval, 100)
    yield "--log-throughput"
    yield from flag("--tensorboard-dir", logging.tensorboard)
    yield from flag("--wandb-project", logging.wandb_project)
    yield from flag("--wandb-exp-name", logging.wandb_name)
    yield from flag("--save", logging.save)
    yield from flag("--load", logging.load)
    yield from flag("--save-interval", logging.save_interval or (NEVER if logging.save else None))  # arguments.py:1319
    if logging.async_save:  # the worker of the other strategy is NVIDIA's resiliency extension
        yield from ("--async-save", "--use-persistent-ckpt-worker", "--async-strategy", "mcore")
    yield "--exit-signal-handler"
