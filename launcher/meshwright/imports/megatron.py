"""Megatron-LM's arguments -> values of ours, and the fate of each argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshwright.emit.megatron_model import UNFUSED
from meshwright.errors import Problem
from meshwright.imports import (
    megatron_layout,
    megatron_logging,
    megatron_mixers,
    megatron_model,
    megatron_moe,
    megatron_rope,
    megatron_techniques,
    megatron_training,
)
from meshwright.imports.asks import left_open, open_ask
from meshwright.imports.foreign_parts import DERIVED, FOREIGN, OTHER
from meshwright.imports.former_flags import OTHER_MODELS
from meshwright.imports.former_units import graphs, in_samples
from meshwright.imports.found import Ask, Found, Given, Remark, Source, shown
from meshwright.imports.megatron_arguments import Arguments, Word, default, flags_of, known, of_words
from meshwright.imports.megatron_remarks import remarks
from meshwright.imports.megatron_types import unfit
from meshwright.imports.mindspeed import translated
from meshwright.imports.unknown import is_known, readable
from meshwright.rules.megatron_flags import KEYS

__all__ = ["PATHS", "of_arguments", "of_flags"]

_TABLES = (
    megatron_model.CARRIED,
    megatron_rope.CARRIED,
    megatron_mixers.CARRIED,
    megatron_moe.CARRIED,
    megatron_layout.CARRIED,
    megatron_techniques.CARRIED,
    megatron_training.CARRIED,
    megatron_logging.CARRIED,
    megatron_model.REQUIRED,
    megatron_training.REQUIRED,
    megatron_model.PLAIN,
    megatron_layout.PLAIN,
    megatron_techniques.PLAIN,
    megatron_training.PLAIN,
)

PATHS: Mapping[str, str] = {
    name: path for table in _TABLES for path, arguments in table.items() for name in arguments.split()
}
"""By argument: the key of ours that carries it."""

_REQUIRED = {**megatron_model.REQUIRED, **megatron_training.REQUIRED}


def of_flags(words: Sequence[Word], kind: str, world: int | None = None) -> Source:
    """What a command line of ``words`` says."""
    given, lost, loose = of_words(words)
    return of_arguments(given, lost, kind, world, loose)


def of_arguments(
    given: Mapping[str, Given],
    lost: Iterable[Found],
    kind: str,
    world: int | None = None,
    loose: Iterable[Given] = (),
) -> Source:
    """What arguments by name say. ``lost``: what no argument came of; ``world``: ranks, where they are known.

    ``loose``: words that only the outside knows, which may be any arguments.
    """
    given, lost = in_samples(graphs(translated(given))), tuple(lost)
    wrong = {name: text for name, one in given.items() if _known(one) and (text := unfit(name, one.value))}
    closed = {name: one for name, one in given.items() if _known(one) and name not in wrong}
    a = Arguments(closed, world, given.keys() - closed.keys())
    values = _values(a)
    opened = [one for one in given.values() if not _known(one)]
    return Source(
        kind=kind,
        values={path: value for path, value in values.items() if path not in _opened_paths(given, closed)},
        found=(*lost, *(_found(name, a, values) for name in closed), *_left_open(opened, given)),
        asks=(*_open_asks(given, loose), *_wrong_asks(given, wrong), *_missing(values, given, kind)),
        remarks=(*remarks(a), *_other_models(a, values), *_forks(lost)),
    )


def _values(a: Arguments) -> dict[str, Any]:
    """By dotted path; arguments that have none are passed on as they are."""
    values = {
        **megatron_model.model(a),
        **megatron_layout.layout(a),
        **megatron_techniques.techniques(a),
        **megatron_training.training(a),
    }
    passed = [name for name in a.given if _fate(name, a, values) == "passed"]
    extra = [word for name in passed for word in flags_of(name, a(name))]
    return {**values, "backend.megatron.extra": extra, **({"cluster.gpus": a.world} if a.world else {})}


def _known(one: Given) -> bool:
    return is_known(_text(one.value))


def _wrong_asks(given: Mapping[str, Given], wrong: Mapping[str, str]) -> Iterator[Ask]:
    for name, text in wrong.items():
        one, path = given[name], PATHS.get(name, f"backend.megatron.extra.{name}")
        message = f"{one.place}: {one.key} takes {shown(one.value)!r}: {text}"
        yield Ask(path, Problem(path, message, "import.value"))


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _fate(name: str, a: Arguments, values: Mapping[str, Any]) -> str:
    if name in PATHS and name not in FOREIGN:
        return "dropped" if _unread(name, a) else "default" if a(name) == default(name) else "mapped"
    if name in _implied(a, values):
        return "mapped"
    if not known(name) or name in DERIVED or _unread(name, a):
        return "dropped"
    if a(name) == default(name) or a(name) is None:
        return "default"
    flags = flags_of(name, a(name))
    return "dropped" if name in FOREIGN or not flags or flags[0] in KEYS else "passed"


def _unread(name: str, a: Arguments) -> str | None:
    """Why an argument says nothing beside the others."""
    if reason := megatron_techniques.unread(name, a):
        return reason
    wanted = name in megatron_logging.UNRECORDED and megatron_logging.recorded(a)
    return "one step of the first rank of each stage is recorded here" if wanted else None


def _implied(a: Arguments, values: Mapping[str, Any]) -> Iterator[str]:
    """Arguments that the emitter states by itself for such a run (emit/megatron_model.py, megatron_training.py)."""
    if a("eval_global_batch_size") == values.get("training.global_batch"):
        yield "eval_global_batch_size"
    if megatron_logging.recorded(a):
        yield from megatron_logging.RECORDED
    yield from megatron_techniques.implied(values.get("backend.megatron.cuda_graphs.kind", "none"))
    if "model.delta_net.key_heads" in values or "model.indexer.heads" in values:
        yield "experimental_attention_variant"
    if "model.indexer.heads" in values:
        yield from ("dsa_indexer_rotate_activation", "dsa_indexer_k_norm_epsilon", "apply_rope_fusion")
    activation = values.get("model.activation")
    if activation in UNFUSED or (activation == "gelu_tanh" and not values.get("model.linear_bias")):
        yield "bias_gelu_fusion"
    if activation in ("geglu", "geglu_tanh"):
        yield "bias_swiglu_fusion"
    latent, stretched = "model.mla.kv_lora_rank" in values, values.get("model.rope.scaling.kind")
    if stretched is None if latent else stretched == "yarn":
        yield "apply_rope_fusion"


def _found(name: str, a: Arguments, values: Mapping[str, Any]) -> Found:
    one, fate = a.given[name], _fate(name, a, values)
    kept = Found(one.key, shown(one.value), one.place, "mapped", _path(name, fate))
    if fate == "mapped":
        return kept
    if fate == "dropped":
        reason = FOREIGN.get(name) or DERIVED.get(name) or _unread(name, a) or _decided(name, a) or _UNSAID
        return replace(kept, fate="dropped", path="", reason=reason)
    return replace(kept, fate="default" if fate == "default" else "passed")


def _path(name: str, fate: str) -> str:
    """The key of ours that carries an argument."""
    if name in megatron_logging.RECORDED and fate == "mapped":
        return "training.logging.profile"
    return PATHS.get(name, "backend.megatron.extra")


def _other_models(a: Arguments, values: Mapping[str, Any]) -> Iterator[Remark]:
    for name in a.given:
        if FOREIGN.get(name) == OTHER and _fate(name, a, values) == "dropped":
            one = a.given[name]
            yield Remark("warning", "import.model", f"{one.key} is not carried: {OTHER}", one.place)


def _forks(lost: Iterable[Found]) -> Iterator[Remark]:
    for one in lost:
        if one.key in OTHER_MODELS:
            yield Remark("warning", "import.model", f"{one.key} is not carried: {OTHER}", one.place)


def _decided(name: str, a: Arguments) -> str | None:
    """A key of ours that says it in another way, which only its user can choose."""
    flags = flags_of(name, a(name)) if known(name) else []
    return f"{KEYS[flags[0]]} says it here; set that" if flags and flags[0] in KEYS else None


_UNSAID = "megatron-core 0.19.2 has no flag that says so"


def _opened_paths(given: Mapping[str, Given], closed: Mapping[str, Given]) -> set[str]:
    return {PATHS[name] for name in given if name not in closed and name in PATHS}


def _needed(path: str) -> bool:
    """Whether a value decides what is trained, how fast and where; paths and names of files do not."""
    files = ("training.data", "training.logging")
    return not path.startswith(files) and path != "backend.megatron.extra"


def _open_asks(given: Mapping[str, Given], loose: Iterable[Given]) -> Iterator[Ask]:
    for name, one in given.items():
        path = PATHS.get(name, "")
        if not _known(one) and path and _needed(path):
            yield open_ask(path, one)
    yield from (open_ask("backend.megatron.extra", one) for one in loose)


def _left_open(opened: Iterable[Given], given: Mapping[str, Given]) -> Iterator[Found]:
    by_key = {one.key: name for name, one in given.items()}
    for one in opened:
        path = PATHS.get(by_key[one.key], "")
        asked = path if path and _needed(path) else ""
        yield Found(one.key, shown(readable(str(_text(one.value)))), one.place, "dropped", asked, left_open(one))


def _missing(values: Mapping[str, Any], given: Mapping[str, Given], kind: str) -> Iterator[Ask]:
    """What Megatron asks for and nobody says."""
    open_paths = {PATHS.get(name) for name, one in given.items() if not _known(one)}
    for path, name in _REQUIRED.items():
        if values.get(path) is None and name not in given and path not in open_paths:
            yield Ask(
                path, Problem(path, f"not in the {kind}: {_flag(name)} is missing{_hint(path, given)}; {_give(path)}")
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _hint(path: str, given: Mapping[str, Given]) -> str:
    tokenizer = given.get("tokenizer_type")
    if path != "model.vocab" or tokenizer is None:
        return ""
    return f", and {tokenizer.value} does not say how many tokens it has"


def _give(path: str) -> str:
    return f"add it, or give {path}=N"
