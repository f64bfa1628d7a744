"""A Hugging Face config.json -> our ``model`` mapping; what would be lost is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.model.architecture_table import ARCHITECTURES
from meshwright.model.architectures import Architecture, Flat, NoCounterpartError, resolved
from meshwright.model.transformers_names import names

__all__ = ["UnsayableError", "as_built", "name_of", "nested", "read"]

IRRELEVANT = frozenset(
    (
        *("_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures", "auto_map"),
        *("bos_token_id", "chunk_size_feed_forward", "decoder_start_token_id", "dtype", "eos_token_id"),
        *("forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label", "is_decoder"),
        *("is_encoder_decoder", "label2id", "model_type", "offset_alibi", "output_attentions"),
        *("output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "quantization_config"),
        *("return_dict", "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype"),
        *("transformers_version", "unk_token_id", "use_cache"),
    )
)
"""Keys about tokens, labels, generation and how stored weights are packed: they change no layer."""


WITHIN = {
    "gemma3": "gemma3_text",
    "kimi_k25": "kimi_k2",
    "llama4": "llama4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
"""Configurations around that of the text, which alone is read: what sees is another model."""

SAME = {"kimi_k2": "deepseek_v3"}
"""Files with code of their own that is another's, under its names (MoonshotAI/Kimi-K2, docs/deploy_guidance.md)."""


LACKS = "huggingface.lacks"
"""The rule of problems that are ours: the file is whole, and a Model cannot say it."""


class UnsayableError(ConfigError):
    """A whole file that no Model can say. transformers may build it all the same."""

    def __init__(self, problems: Sequence[Problem], file: Path, config: Mapping[str, Any]) -> None:
        """Take the problems, and what was read."""
        super().__init__(problems)
        self.file, self.config = file, config

    @property
    def lacks(self) -> str:
        """What no Model has, in words."""
        return "; ".join(problem.message.removeprefix(f"{self.file}: ") for problem in self.problems)


def read(path: str | Path) -> dict[str, Any]:
    """The model described by ``path``, a folder with a config.json or the file itself.

    Raises:
        UnsayableError: with one problem for each key that has no counterpart here.
        ConfigError: with one problem for each key that is missing or wrong.

    """
    file, config = _load(Path(path))
    architecture = _architecture(config, file)
    if config["model_type"] in WITHIN:
        config = config.get("text_config", {})
    config = {**config, "model_type": architecture.model_type}
    config = _canonical(config, file)
    flat, problems = _flat(architecture, config, file)
    problems += _lost(architecture, config, {} if problems else flat, file)
    if problems:
        ours = all(problem.rule == LACKS for problem in problems)
        raise UnsayableError(problems, file, config) if ours else ConfigError(problems)
    return {"name": name_of(config, file), "transformers": architecture.model_type, **nested(flat)}


def as_built(model: dict[str, Any]) -> dict[str, Any]:
    """What transformers trains of the model that a file describes.

    It builds no layers of multi-token prediction and never updates a router's bias
    (models/deepseek_v3/modeling_deepseek_v3.py: ``_keys_to_ignore_on_load_unexpected``, a buffer of zeros).
    """
    moe = {"moe": {**model["moe"], "bias_update_rate": 0.0}} if (model.get("moe") or {}).get("router_bias") else {}
    ahead = {"mtp": 0} if "mtp" in model else {}
    main = {"pattern": model["pattern"].partition("/")[0]} if model.get("pattern") else {}
    return {**model, **ahead, **main, **moe}


def _load(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file that ``path`` means, and what it holds."""
    try:
        file = path / "config.json" if path.is_dir() else path
        config = json.loads(file.read_text(), object_hook=_number)
    except OSError as error:
        message = f"cannot read {error.filename or path}: {error.strerror}"
        raise ConfigError([Problem("model.path", message)]) from None
    except RecursionError:
        raise ConfigError([Problem("model.path", f"{path} is nested too deeply for a config.json")]) from None
    except ValueError as error:
        raise ConfigError([Problem("model.path", f"{path} is not JSON: {error}")]) from None
    if not isinstance(config, dict):
        raise ConfigError([Problem("model.path", f"{path} is not a mapping")])
    return file, config


def _number(value: dict[str, Any]) -> Any:
    """Transformers writes infinity as ``{"__float__": "Infinity"}``."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def name_of(config: Mapping[str, Any], file: Path) -> str:
    """The model's name, as the files of a run can carry it."""
    stated = Path(str(config.get("_name_or_path") or file.resolve().parent.name)).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stated).strip("._-") or "model"


def _architecture(config: Mapping[str, Any], file: Path) -> Architecture:
    kind = config.get("model_type")
    kind = WITHIN.get(str(kind), kind)
    kind = SAME.get(str(kind), kind)
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return ARCHITECTURES[kind]
    if names(kind):
        raise UnsayableError([_lack(file, f"model_type {kind!r} has parts that no model here has")], file, config)
    own = f"model_type {kind!r} is no causal language model of transformers 5"
    if config.get("auto_map"):
        raise UnsayableError([_lack(file, f"{own}")], file, config)
    raise ConfigError([_problem(file, own)])


def _canonical(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    known = names(config["model_type"])
    assert known is not None, "every entry of the table is a model of transformers"
    try:
        return known.canonical(config)
    except ValueError as error:
        raise ConfigError([_problem(file, str(error))]) from None


def _flat(architecture: Architecture, config: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Every field by its dotted path."""
    flat: dict[str, Any] = {}
    problems: list[Problem] = []
    for part in architecture.parts:
        try:
            values = part.read(config)
        except _UNREADABLE as error:
            problems.append(_unreadable(file, part.keys, config, error))
            continue
        for path, value in values.items():
            if value is ...:
                problems.append(_problem(file, f"{part.keys[0]} {_absence(config, part.keys[0])}"))
            elif isinstance(value, float) and not isfinite(value):
                problems.append(_problem(file, f"{part.keys[0]}: {value} is no number"))
            elif flat.setdefault(path, value) != value:
                problems.append(_lack(file, f"{part.keys[0]}: {value!r} contradicts {flat[path]!r} of model.{path}"))
    try:
        return (flat if problems else _followed(architecture, flat)), problems
    except _UNREADABLE as error:
        return flat, [_problem(file, f"what follows from its sizes does not: {error}")]


def _followed(architecture: Architecture, flat: Flat) -> dict[str, Any]:
    """With what follows from other values, and what the architecture implies."""
    flat = {path: resolved(value, flat) for path, value in flat.items()}
    flat |= {path: architecture.fixed(path, flat) for path in architecture.implied}
    whole = (("moe.first_dense", 0), ("moe.every", 1)) if flat.get("pattern") else ()  # which says it all
    return flat | {path: usual for path, usual in whole if path in flat}


def _absence(config: Mapping[str, Any], key: str) -> str:
    return "is null, and the model needs a value" if key in config else "is missing"


_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError)
"""What a value of an unforeseen kind makes of our translation of it."""


def _unreadable(file: Path, keys: tuple[str, ...], config: Mapping[str, Any], error: Exception) -> Problem:
    if isinstance(error, NoCounterpartError):
        return _lack(file, f"{keys[0]}: {error}")
    if isinstance(error, ValueError):
        return _problem(file, f"{keys[0]}: {error}")
    if isinstance(error, KeyError) and error.args[0] not in (config.get(k) for k in keys):
        return _problem(file, f"{keys[0]}: needs {error.args[0]}, which is missing")
    return _lack(file, f"{keys[0]}: {config.get(keys[0])!r} has no counterpart here")


def _lost(architecture: Architecture, config: Mapping[str, Any], flat: Flat, file: Path) -> Iterator[Problem]:
    """Keys that mean something which a Model cannot say; ``flat`` is empty where it could not be read.

    A key that is off (null, false, zero, empty) means nothing, unless transformers has it on.
    """
    known = {key for part in architecture.parts for key in part.keys} | IRRELEVANT | set(architecture.ignored)
    named = names(architecture.model_type)
    held = {**architecture.required, **architecture.former}
    for key, value in config.items():
        if key in held:
            wanted = value if callable(held[key]) and not flat else resolved(held[key], flat)
            if value != wanted:
                yield _lack(file, f"{key}: {value!r} has no counterpart here, only {wanted!r}")
        elif key not in known and (value or (named and key in named.on)):
            yield _lack(file, f"{key}: {value!r} has no counterpart here")


def _problem(file: Path, text: str) -> Problem:
    return Problem("model.path", f"{file}: {text}", "huggingface.read")


def _lack(file: Path, text: str) -> Problem:
    return Problem("model.path", f"{file}: {text}", LACKS)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping by dotted paths as mappings within mappings."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return nested
