"""``meshwright import FILE...``: every key with its fate; ``to=DIR`` writes a recipe for ``--config-dir DIR``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.imports.found import Imported
from meshwright.imports.run import described, groups
from meshwright.model.huggingface import nested
from meshwright.report.terminal import terminal
from meshwright.spec import Spec
from meshwright.spec.identity import plain
from meshwright.verbs import Words
from meshwright.verbs.foreign import foreign

__all__ = ["run"]

OPTIONS: dict[str, tuple[str, ...]] = {"output": ("text", "json", "yaml"), "to": ()}


def run(words: Words) -> int:
    """Print the account, and what it makes; write nothing but where ``to`` says."""
    from meshwright.report import imports
    from meshwright.report.print_json import print_json

    asked = foreign(words, "import", OPTIONS)
    spec = described(asked.imported, asked.overrides, words.config_dir).stages[0]
    text = _recipe(spec, asked.imported, asked.overrides)
    output = asked.options.get("output", "text")
    if output == "json":
        print_json({"keys": imports.keys(asked.imported), "configuration": plain(asdict(spec))})
    elif output == "yaml":
        print(text, end="")
    else:
        imports.show_account(asked.imported, terminal(), whole=True)
    if "to" in asked.options:
        print(f"meshwright plan --config-dir {asked.options['to']} recipe={_written(spec, text, asked.options['to'])}")
    elif output == "text":
        print(text, end="")
    return 0


def _written(spec: Spec, text: str, folder: str) -> str:
    path = Path(folder) / "recipe" / f"{spec.name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ConfigError([Problem("to", f"cannot write {path}: {error.strerror}")]) from None
    return spec.name


def _recipe(spec: Spec, imported: Imported, words: tuple[str, ...]) -> str:
    """What the files and the words state, as a recipe of one stage."""
    paths = [*imported.values, *(word.partition("=")[0].lstrip("+") for word in words if "." in word.partition("=")[0])]
    options = [*groups(imported, words), *(word for word in words if "." not in word.partition("=")[0])]
    chosen = dict(word.partition("=")[::2] for word in options)
    whole = plain(asdict(spec))
    values = nested({"name": spec.name, "model.name": spec.model.name, **dict(_stated(paths, whole))})
    lines = [f"  - override /{group}: {option}" for group, option in chosen.items()]
    head = f"# @package _global_\n# Imported from {', '.join(imported.files)}.\ndefaults:\n" + "\n".join(lines)
    return f"{head}\n\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _stated(paths: list[str], whole: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values at the paths; a part that the run has not (experts of a dense model) has none."""
    for path in paths:
        value: Any = whole
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            yield path, value
