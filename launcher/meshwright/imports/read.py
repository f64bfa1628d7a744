"""``imported(files)``: what a person has, read. Which reader takes a file is decided by what stands in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.imports import megatron_yaml
from meshwright.imports.documents import yaml_leaves
from meshwright.imports.files import text_of
from meshwright.imports.found import Imported, Place, Source, together
from meshwright.imports.megatron import of_flags
from meshwright.imports.megatron_arguments import Word
from meshwright.imports.script import of_script

__all__ = ["imported"]


def imported(paths: Sequence[str | Path], answers: Mapping[str, str] | None = None) -> Imported:
    """Every file of ``paths``; later ones win. ``answers``: values of what scripts leave open, by name.

    Nothing is executed, nothing is written.

    Raises:
        ConfigError: where a file cannot be read, or is of no kind that is known.

    """
    try:
        sources = [_source(Path(path), answers or {}) for path in paths]
    except RecursionError:
        raise ConfigError([Problem(str(paths[0]), "nested too deeply to be read", "import.depth")]) from None
    return together(sources, tuple(map(str, paths)))


def _source(path: Path, answers: Mapping[str, str]) -> Source:
    text, name = text_of(path), str(path)
    if megatron_yaml.printed(text):
        return megatron_yaml.of_log(text.splitlines(), name)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(text, name)
    if path.suffix in (".sh", ".sbatch", ".slurm", ".bash") or text.startswith("#!") or "\n#SBATCH" in text:
        return of_script(text, name, answers)
    if path.suffix in ("", ".txt", ".args") and text.lstrip().startswith("--"):
        return of_flags(_words(text, name), "list of Megatron-LM's flags")
    raise ConfigError([Problem(name, "no kind of file that is known; see docs/imports.md", "import.kind")])


def _yaml(text: str, name: str) -> Source:
    leaves = yaml_leaves(text, name)
    if any(path.rpartition(".")[2].startswith("--") for path in leaves):
        return megatron_yaml.of_flag_yaml(leaves)
    if any(path.startswith(("language_model.", "model_parallel.")) for path in leaves):
        return megatron_yaml.of_yaml(leaves)
    raise ConfigError([Problem(name, "no kind of YAML that is known; see docs/imports.md", "import.kind")])


def _words(text: str, name: str) -> list[Word]:
    """Shell-quoted words, as args.txt of a run folder holds them."""
    words: list[Word] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            said = shlex.split(line.rstrip("\\"), comments=True)
        except ValueError as error:
            raise ConfigError([Problem(f"{name}:{number}", str(error), "import.unreadable")]) from None
        words += [(word, Place(name, number)) for word in said]
    return words
