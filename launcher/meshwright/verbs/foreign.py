"""The words of ``import`` and ``check``: files, ``set.NAME=VALUE`` for what scripts leave open, and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.imports.found import Imported
from meshwright.imports.read import imported
from meshwright.spec.frozen import dataclass
from meshwright.verbs import Words

__all__ = ["Foreign", "foreign"]


@dataclass(frozen=True)
class Foreign:
    """What was imported, the verb's own options, and the overrides that are left."""

    imported: Imported
    options: Mapping[str, str]
    overrides: tuple[str, ...]


def foreign(words: Words, verb: str, options: Mapping[str, tuple[str, ...]]) -> Foreign:
    """Read the files among ``words``. ``options``: the verb's own, with the values each may have; () for any text.

    Raises:
        ConfigError: where no file is named, or an option has another value.

    """
    files = [word for word in words.overrides if "=" not in word or Path(word).is_file()]
    if not files:
        raise ConfigError(f"{verb} what? give a file, for example: meshwright {verb} pretrain.sh cluster=dgx_h100")
    rest = [word.partition("=")[::2] for word in words.overrides if word not in files]
    own = {name: value for name, value in rest if name in options}
    wrong = [(name, value) for name, value in own.items() if options[name] and value not in options[name]]
    if wrong:
        expected = "expected one of {}, got {!r}"
        raise ConfigError([Problem(name, expected.format(", ".join(options[name]), value)) for name, value in wrong])
    answers = {name.removeprefix("set."): value for name, value in rest if name.startswith("set.")}
    overrides = tuple(f"{name}={value}" for name, value in rest if name not in own and not name.startswith("set."))
    return Foreign(imported(files, answers), own, overrides)
