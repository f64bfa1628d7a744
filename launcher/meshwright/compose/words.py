"""The words that Hydra is given, and its complaints about them in ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.spec.gpu_names import cluster_with

__all__ = ["CONF", "GROUPS", "folders", "opened", "problem_of", "refuse"]

CONF = Path(__file__).parents[1] / "conf"
GPU = "cluster.accelerator"
GROUPS = ("model", "cluster", "parallelism", "training", "backend", "launch", "software", "recipe")


def folders(config_dir: str | Path | None) -> tuple[Path, ...]:
    """Where options are looked for.

    Raises:
        ConfigError: where ``config_dir`` is no folder.

    """
    if config_dir is None:
        return (CONF,)
    if not Path(config_dir).is_dir():
        what = "is a file" if Path(config_dir).exists() else "does not exist"
        raise ConfigError([Problem("--config-dir", f"{config_dir} {what}; give a folder of options", "compose.folder")])
    return CONF, Path(config_dir)


def refuse(overrides: Sequence[str], config_dir: str | Path | None) -> None:
    """Raise ConfigError where a group is given no name: Hydra would complain without saying of which."""
    chosen = [word.lstrip("+").partition("=") for word in overrides]
    nameless = re.compile(r"(null|true|false|[\d.e+-]*|\{.*)", re.IGNORECASE)
    wrong = [
        _no_option(group, option, config_dir)
        for group, equals, option in chosen
        if group in GROUPS and equals and nameless.fullmatch(option)
    ]
    wrong += [_no_gpu(value, config_dir) for key, _, value in chosen if key == GPU and not value.startswith("{")]
    if wrong:
        raise ConfigError(wrong)


def _no_gpu(value: str, config_dir: str | Path | None) -> Problem:
    """A GPU given by its name: it comes with its cluster."""
    import yaml

    found: dict[str, list[str]] = {}
    for folder in folders(config_dir):
        for path in sorted((folder / "cluster").glob("[!_]*.yaml")):
            name = ((yaml.safe_load(path.read_text()) or {}).get("accelerator") or {}).get("name")
            if name:
                found.setdefault(name, []).append(path.stem)
    known = ", ".join(f"{name} ({' or '.join(clusters)})" for name, clusters in found.items())
    return Problem(GPU, f"{value!r} is no description of a GPU; choose a cluster that has it: {known}", "compose.gpu")


def opened(override: str) -> str:
    """``key=value`` with ``++`` before it, so that Hydra leaves the judging of keys to our decoder."""
    key = override.partition("=")[0]
    plain = "=" in override and key[:1] not in "+~" and key not in GROUPS and not key.startswith("hydra")
    return f"++{override}" if plain and re.fullmatch(r"[\w.\-]+", key) else override


def problem_of(error: Exception, config_dir: str | Path | None = None) -> Problem:
    """What Hydra complains of, as a line of ours."""
    text = str(error)
    override = getattr(error, "override", None)
    if isinstance(override, str):
        return _unreadable(override.removeprefix("++"))
    missing = re.search(r"Could not find '([^'/]+)/([^']*)'", text)
    if missing:
        return _no_option(missing[1], missing[2], config_dir)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return Problem(unknown[1], "unknown key", "compose.key")
    several = re.search(r"Ambiguous value for argument '(?:\+\+)?([^=']+)=", text)
    if several:
        message = "several values; sweep over them with -m, or write a list as [a,b]"
        return Problem(several[1], message, "compose.grammar")
    first = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return Problem("", f"cannot compose: {first or type(error).__name__}", "compose")


def _no_option(group: str, option: str, config_dir: str | Path | None) -> Problem:
    known = _options(group, config_dir)
    close = _named_after_its_gpu(group, option) or get_close_matches(option, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    return Problem(group, f"no option {option!r}; {hint}", "compose.option")


def _named_after_its_gpu(group: str, option: str) -> list[str]:
    """``cluster=H200-141GB``: the cluster that has such GPUs."""
    cluster = cluster_with(option) if group == "cluster" else None
    return [cluster] if cluster else []


def _options(group: str, config_dir: str | Path | None) -> list[str]:
    """The options of a group by name, those of ``config_dir`` with them."""
    found = {path.stem for folder in folders(config_dir) for path in (folder / group).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def _unreadable(override: str) -> Problem:
    """An override that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals:
        return Problem("", f"{override}: not an override; write key=value", "compose.grammar")
    hint = "quote it for Hydra as well as for the shell, 'key=\"value\"'; a list of points needs -m"
    return Problem(key, f"cannot read the value {value}; {hint}", "compose.grammar")
