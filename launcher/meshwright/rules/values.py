"""What a few values say together; what one may be by itself is in ``ranges``.

Judged before every rule, on the Spec alone: a search varies layouts, so none of this enters its masks. Degrees and
sizes that every rule divides by are in ``grid.POSITIVE``; what depends on the layout is a rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from meshwright.errors import Problem
from meshwright.model.layers import MIXERS, parts
from meshwright.model.pattern import read_ahead, read_pattern
from meshwright.rules.launch import launch_problems
from meshwright.rules.ranges import out_of_range
from meshwright.rules.requirements import lacking
from meshwright.spec import Data, Model, Parallelism, Spec, Training

__all__ = ["RECOMPUTED", "value_problems"]


RECOMPUTED = ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts")
"""What selective recompute can name: core/transformer/transformer_config.py:1768, but for parts that no Model has."""


def value_problems(spec: Spec, backend: str) -> list[Problem]:
    """What is wrong with single values, as far as ``backend`` reads them."""
    return [
        *_names(spec),
        *_capability(spec.cluster.accelerator.capability),
        *out_of_range(spec, backend),
        *_pattern(spec.model),
        *_carried(spec.model),
        *_ahead(spec.model),
        *_dropped(spec.model),
        *_unused(spec.model),
        *_indexed(spec.model),
        *_rotated(spec.model),
        *_growth(spec.model),
        *_modules(spec.parallelism),
        *_ramp(spec.training),
        *_rates(spec.training),
        *_wsd(spec.training),
        *_data(spec.training.data),
        *_evaluation(spec.training),
        *launch_problems(spec),
        *lacking(spec, backend),
    ]


def _names(spec: Spec) -> Iterator[Problem]:
    """A run and its stages name folders and jobs."""
    for path, name in (("name", spec.name), ("variant", spec.variant or "x"), ("stage", spec.stage or "x")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            allowed = "start with a letter or digit, use only these, '.', '_' and '-', and at most 200 of them"
            yield Problem(path, f"{name!r} cannot name a folder; {allowed}", "value.name")


def _capability(text: str) -> Iterator[Problem]:
    """Rules and costs read it as a number: major.minor, as the CUDA programming guide counts devices."""
    if not re.fullmatch(r"\d+\.\d+", text):
        message = f"{text!r} is no compute capability such as 9.0; 0.0 where there is none"
        yield Problem("cluster.accelerator.capability", message, "value.capability")


def _pattern(model: Model) -> Iterator[Problem]:
    """Readable, of as many layers as the model has, with what its parts need, and the only word on its subject."""
    if model.pattern is None:
        return
    try:
        found, ahead = read_pattern(model.pattern), read_ahead(model.pattern)
    except ValueError as error:
        yield Problem("model.pattern", str(error), "value.pattern")
        return
    if ahead and not model.mtp:
        message = "writes layers of multi-token prediction, model.mtp = 0; leave / out, or say how many"
        yield Problem("model.pattern", message, "value.pattern")
    if len(found) != model.layers:
        message = f"writes {len(found)} layers, model.layers = {model.layers}; make them equal"
        yield Problem("model.pattern", message, "value.pattern")
    for part in dict.fromkeys(part for kind in (*found, *ahead) for part in parts(kind)):
        for option in part.options:
            if getattr(model, option) is None:
                yield Problem(f"model.{option}", f"not set, and model.pattern has {part.symbol}", "value.pattern")
    for path, value in _short_forms(model):
        if value:
            yield Problem(path, f"{value} says again what model.pattern says; leave it out", "value.pattern")


def _ahead(model: Model) -> Iterator[Problem]:
    """How layers of multi-token prediction are made, where there are some."""
    for name in ("mtp_repeated", "mtp_detached"):
        if getattr(model, name) and not model.mtp:
            message = "true, and model.mtp = 0 has no layers of multi-token prediction; leave it out, or say how many"
            yield Problem(f"model.{name}", message, "value.mtp", ({f"model.{name}": False},))


def _dropped(model: Model) -> Iterator[Problem]:
    """Which tokens are dropped is a question of those beyond a capacity."""
    if model.moe is not None and model.moe.capacity_factor is None and model.moe.drop_policy != "probs":
        message = f"{model.moe.drop_policy}, and without model.moe.capacity_factor none is dropped; leave it out"
        yield Problem("model.moe.drop_policy", message, "value.drop", ({"model.moe.drop_policy": "probs"},))


def _carried(model: Model) -> Iterator[Problem]:
    """A residual that goes on from what is normed has a norm for each part, and may have a factor."""
    if model.norm_placement == "carried":
        if model.parallel_residual:
            message = "true, and norm_placement = carried norms the residual again before the MLP; leave one out"
            yield Problem("model.parallel_residual", message, "value.carried")
    elif model.residual_weight is not None:
        message = f"{model.residual_weight}, and norm_placement = {model.norm_placement} carries the residual as it is"
        yield Problem("model.residual_weight", f"{message}; leave it out, or say carried", "value.carried")


def _unused(model: Model) -> Iterator[Problem]:
    """Only a pattern can say which layers are of these kinds; without one an indexer is in all of them."""
    everywhere = MIXERS["sparse_attention"].symbol if model.pattern is None else model.pattern
    windows = () if model.pattern is None else ("sliding_window",)  # without a pattern, the layers' own
    for option in ("delta_net", "mamba", "short_convolution", "multipliers", "indexer", *windows):
        users = [part.symbol for part in MIXERS.values() if option in (*part.options, *part.extras)]
        if getattr(model, option) is not None and set(users).isdisjoint(everywhere):
            message = f"set, and model.pattern has no {' or '.join(users)}; write it there, or leave this out"
            yield Problem(f"model.{option}", message, "value.pattern")


def _indexed(model: Model) -> Iterator[Problem]:
    """An indexer chooses for latent attention, and turns as many channels of its heads as that one does."""
    if model.indexer is None:
        return
    if model.mla is None:
        yield Problem(
            "model.mla",
            "not set, and model.indexer chooses tokens for latent attention; set model.indexer=null",
            "value.indexer",
        )
    elif model.indexer.head_dim < model.mla.qk_rope_dim:
        least = model.mla.qk_rope_dim
        message = f"{model.indexer.head_dim} channels hold no positions of {least}; set model.indexer.head_dim={least}"
        yield Problem("model.indexer.head_dim", message, "value.indexer")


def _short_forms(model: Model) -> Iterator[tuple[str, int]]:
    yield "model.full_attention_every", model.full_attention_every
    if model.moe:
        yield "model.moe.first_dense", model.moe.first_dense
        yield "model.moe.every", model.moe.every - 1


def _rotated(model: Model) -> Iterator[Problem]:
    """Rotary positions turn pairs of a head's channels; both backends turn 22 where a fraction gives 21."""
    if model.positions != "rope":
        return
    path, size = ("mla.qk_rope_dim", model.mla.qk_rope_dim) if model.mla else ("head_dim", model.head_dim)
    turned = size if model.mla else int(size * model.rope.fraction)
    if size > 0 < model.rope.fraction and (turned == 0 or turned + turned % 2 > size):
        message = f"{turned} of {size} channels of a head are rotated, and rope turns pairs; give an even number"
        yield Problem(f"model.{path}", message, "value.rope")


def _growth(model: Model) -> Iterator[Problem]:
    """Growing queries are two numbers."""
    if (model.query_growth is None) != (model.query_growth_from is None):
        path = "query_growth" if model.query_growth is None else "query_growth_from"
        yield Problem(f"model.{path}", "not set, and the other number of growing queries is", "value.growth")


def _modules(parallelism: Parallelism) -> Iterator[Problem]:
    for i, module in enumerate(parallelism.recompute_modules or ()):
        if module not in RECOMPUTED:
            message = f"{module!r} is no part of a layer; there are {', '.join(RECOMPUTED)}"
            yield Problem(f"parallelism.recompute_modules[{i}]", message, "value.recompute_modules")


def _ramp(training: Training) -> Iterator[Problem]:
    for i, step in enumerate(training.ramp):
        for name, value, least in (("from_tokens", step.from_tokens, 0), ("global_batch", step.global_batch, 1)):
            if value < least:
                message = f"{value} is out of range; give at least {least}"
                yield Problem(f"training.ramp[{i}].{name}", message, "value.ramp")


def _rates(training: Training) -> Iterator[Problem]:
    peak, lowest = training.optimizer.lr, training.schedule.min_lr
    if lowest > peak:
        message = f"{lowest} is more than the peak, training.optimizer.lr = {peak}; give at most that"
        yield Problem("training.schedule.min_lr", message, "value.min_lr")


def _wsd(training: Training) -> Iterator[Problem]:
    schedule = training.schedule
    last, whole = schedule.wsd_decay_steps, schedule.decay_steps or training.steps or _steps(training)
    if schedule.style == "wsd" and last is not None and whole is not None and last > whole:
        message = f"a last phase of {last:,} steps does not fit into {whole:,} steps; give at most these"
        yield Problem("training.schedule.wsd_decay_steps", message, "value.wsd")


def _steps(training: Training) -> int | None:
    """Of the tokens, as far as the Spec alone says so: with a ramp or a derived batch there are more."""
    if training.tokens is None or not training.global_batch or training.ramp or training.sequence < 1:
        return None
    return -(-training.tokens // (training.global_batch * training.sequence))


def _data(data: Data) -> Iterator[Problem]:
    if data.tokenizer.kind in ("huggingface", "sentencepiece", "tiktoken") and data.tokenizer.path is None:
        message = f"not set; a {data.tokenizer.kind} tokenizer is read from a local folder or file"
        yield Problem("training.data.tokenizer.path", message, "data.tokenizer")
    if data.weights and len(data.weights) != len(data.paths):
        message = f"{len(data.weights)} weights for {len(data.paths)} paths; give one each, or none"
        yield Problem("training.data.weights", message, "data.weights")
    if data.weights and min(data.weights) <= 0:
        yield Problem("training.data.weights", f"{min(data.weights):g} is not above 0", "data.weights")
    if not _three_shares(data.split):
        message = f"{data.split!r} is not three shares for training, validation and test; write for example '99,1,0'"
        yield Problem("training.data.split", message, "data.split")


def _evaluation(training: Training) -> Iterator[Problem]:
    split = training.data.split
    if training.evaluation.wanted and training.data.paths and _three_shares(split) and not _shares(split)[1]:
        message = (
            f"{split!r} leaves nothing to validate on, which training.evaluation asks for; give the second a share"
        )
        yield Problem("training.data.split", message, "data.validation", ({"training.data.split": "99,1,0"},))


def _three_shares(split: str) -> bool:
    shares = _shares(split)
    return len(shares) == 3 and min(shares) >= 0 and math.isfinite(sum(shares)) and shares[0] > 0


def _shares(split: str) -> list[float]:
    try:
        return [float(share) for share in split.split(",")]
    except ValueError:
        return []
