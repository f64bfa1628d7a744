"""``imported(files)``: what a person has, read. Which reader takes a file is decided by what stands in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.imports import megatron_yaml, model_zoo, nemo, neox, replicas
from meshwright.imports.accelerate import of_accelerate
from meshwright.imports.bridge import of_bridge
from meshwright.imports.checkpoint import METADATA, of_checkpoint
from meshwright.imports.deepspeed import of_json
from meshwright.imports.documents import Leaves, json_leaves, toml_leaves, yaml_leaves
from meshwright.imports.files import refuse_large, text_of
from meshwright.imports.folders import told_by
from meshwright.imports.found import Found, Given, Imported, Place, Remark, Source, shown, together
from meshwright.imports.megatron import of_flags
from meshwright.imports.megatron_arguments import Word
from meshwright.imports.primus import of_primus
from meshwright.imports.primus import takes as is_primus
from meshwright.imports.programs import READERS
from meshwright.imports.run_folder import of_model, of_program
from meshwright.imports.script import of_script
from meshwright.imports.shaped import of_shape
from meshwright.imports.torchtitan import of_toml
from meshwright.imports.trainer import of_trainer

__all__ = ["imported"]


def imported(paths: Sequence[str | Path], answers: Mapping[str, str] | None = None) -> Imported:
    """Every file of ``paths``; later ones win. ``answers``: values of what scripts leave open, by name.

    Nothing is executed, nothing is written.

    Raises:
        ConfigError: where a file cannot be read, or is of no kind that is known.

    """
    files = list(dict.fromkeys(file for path in paths for file in _with_company(told_by(Path(path)))))
    try:
        parts = _one_of_neox(files)
        sources = [_source(path, answers or {}) if path not in parts else parts[path] for path in files]
    except RecursionError:
        raise ConfigError([Problem(str(paths[0]), "nested too deeply to be read", "import.depth")]) from None
    return replicas.named(together(sources, tuple(map(str, files))))


def _one_of_neox(files: Sequence[Path]) -> dict[Path, Source]:
    """Several YAML files of gpt-neox are one configuration, which its launcher joins: the first one stands for all."""
    named = [path for path in files if path.suffix in (".yaml", ".yml") and path.is_file()]
    if len(named) < 2:
        return {}
    for path in named:
        refuse_large(path)
    read = {path: yaml_leaves(text_of(path), str(path)) for path in named}
    parts = {path: leaves for path, leaves in read.items() if _reader(leaves) in (_neox, None)}
    if not any(_reader(leaves) is _neox for leaves in parts.values()):
        return {}
    first, *others = parts
    joined: Leaves = {}
    again: list[Found] = []
    for leaves in parts.values():
        twice = ((joined[key], one.place) for key, one in leaves.items() if key in joined)
        again += [_overruled(one, by) for one, by in twice]
        joined = {**joined, **leaves}
    whole = _neox(joined)
    return {
        first: replace(whole, found=(*again, *whole.found)),
        **{path: Source(kind=f"{whole.kind}, read with {first.name}") for path in others},
    }


def _overruled(one: Given, by: Place) -> Found:
    return Found(one.key, shown(one.value), one.place, "dropped", reason=f"given again at {by}, which wins")


def _with_company(path: Path) -> Iterator[Path]:
    """A DeepSpeed run folder keeps its model and its program beside the configuration."""
    beside = [path.parent / name for name in ("config.json", "program.json")] if path.name == "ds_config.json" else []
    if path.suffix in (".yaml", ".yml") and (tuned := _deepspeed_of(path)):
        yield tuned
    yield path
    yield from (other for other in beside if other.is_file())


def _deepspeed_of(path: Path) -> Path | None:
    """The DeepSpeed JSON that a Trainer's YAML names, from its own folder or one above it."""
    named = (
        re.search(r"^(?:deepspeed|[ \t]+deepspeed_config_file):\s*[\"']?([\w./-]+\.json)", text_of(path), re.MULTILINE)
        if path.is_file()
        else None
    )
    folders = [path.parent, *path.resolve().parents][:6] if named else []
    return next((folder / named[1] for folder in folders if named and (folder / named[1]).is_file()), None)


def _source(path: Path, answers: Mapping[str, str]) -> Source:
    if path.suffix == ".pt" or path.name == METADATA:
        return of_checkpoint(path)
    text, name = text_of(path), str(path)
    if megatron_yaml.printed(text):
        return megatron_yaml.of_log(text.splitlines(), name)
    refuse_large(path)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(text, name, answers)
    if path.suffix == ".json":
        return _json(text, path)
    if path.suffix == ".toml":
        return _toml(toml_leaves(text, name), name)
    if path.suffix in (".sh", ".sbatch", ".slurm", ".bash") or text.startswith("#!") or "\n#SBATCH" in text:
        return of_script(text, name, answers, READERS)
    if path.suffix in ("", ".txt", ".args") and text.lstrip().startswith("--"):
        return of_flags(_words(text, name), "list of Megatron-LM's flags")
    raise ConfigError([Problem(name, "no kind of file that is known; see docs/imports.md", "import.kind")])


def _toml(leaves: Leaves, name: str) -> Source:
    if not any(key.startswith(("training.", "parallelism.", "job.")) for key in leaves):
        raise ConfigError([Problem(name, "no kind of TOML that is known; see docs/imports.md", "import.kind")])
    return of_toml(leaves)


def _json(text: str, path: Path) -> Source:
    leaves, commented = json_leaves(text, str(path))
    if "model_type" in leaves:
        return of_model(path, leaves)
    if {"sequence", "schedule.style", "tp"} <= leaves.keys():
        return of_program(leaves)
    if "per_device_train_batch_size" in leaves:
        return of_trainer(leaves)
    if leaves.keys() & {"pipe_parallel_size", "pipe-parallel-size"}:
        return _neox(leaves)
    if not leaves.keys() & {"zero_optimization.stage", "train_micro_batch_size_per_gpu", "train_batch_size"}:
        raise ConfigError([Problem(str(path), "no kind of JSON that is known; see docs/imports.md", "import.kind")])
    source = of_json(leaves)
    comment = Remark("error", "import.comments", "comments are no JSON: DeepSpeed stops at them", Place(str(path)))
    return replace(source, remarks=(*source.remarks, comment)) if commented else source


def _yaml(text: str, name: str, answers: Mapping[str, str]) -> Source:
    leaves = yaml_leaves(text, name)
    if any(path.rpartition(".")[2].startswith("--") for path in leaves):
        return model_zoo.of_model(leaves, Path(name), answers) or megatron_yaml.of_flag_yaml(leaves, answers)
    if reader := _reader(leaves):
        return reader(leaves)
    of = next((whose for whose, keys in _UNREAD.items() if any(key.startswith(keys) for key in leaves)), None)
    said = f"a configuration of {of}, which is not read" if of else "no kind of YAML that is known"
    raise ConfigError([Problem(name, f"{said}; see docs/imports.md", "import.kind")])


_UNREAD = {
    "NeMo-RL": ("policy.megatron_cfg.", "policy.dtensor_cfg."),
    "AReaL": ("allocation_mode", "actor.scheduling_spec", "actor.mb_spec."),
}
"""Programs whose files are known by these keys, and have no reader."""


def _reader(leaves: Leaves) -> Callable[[Leaves], Source] | None:
    return next((reader for takes, reader in _YAML if takes(leaves)), None)


def _sections(leaves: Leaves) -> Source:
    return megatron_yaml.of_yaml(leaves)


def _neox(leaves: Leaves) -> Source:
    """Dashes and underscores are one in its keys."""
    return of_shape({key.replace("-", "_"): one for key, one in leaves.items()}, neox.NEOX)


_NEMO_OTHERS = ("model.vision", "model.unet_config", "model.first_stage_key", "model.mm_cfg")
"""Sections of CLIP's, of Stable Diffusion's, of models that see."""


def _nemo(leaves: Leaves) -> Source:
    other = next((one for key, one in leaves.items() if key.startswith(_NEMO_OTHERS)), None)
    if other:
        message = f"{other.key} is of another kind of model than a decoder"
        raise ConfigError([Problem(str(other.place), message, "import.model")])
    counts = [leaves[key].value for key in ("trainer.num_nodes", "trainer.devices") if key in leaves]
    known = len(counts) == 2 and all(isinstance(count, int) for count in counts)
    return of_shape(leaves, nemo.NEMO, counts[0] * counts[1] if known else None)


def _has(*keys: str) -> Callable[[Leaves], bool]:
    return lambda leaves: any(key in leaves for key in keys)


_YAML: tuple[tuple[Callable[[Leaves], bool], Callable[[Leaves], Source]], ...] = (
    (
        lambda leaves: any(key.startswith(("language_model.", "model_parallel.")) for key in leaves),
        megatron_yaml.of_yaml,
    ),
    (is_primus, of_primus),
    (_has("distributed_type", "compute_environment"), of_accelerate),
    (_has("per_device_train_batch_size", "base_model"), of_trainer),
    (_has("pipe_parallel_size", "model_parallel_size", "pos_emb", "pipe-parallel-size"), _neox),
    (_has("trainer.devices", "trainer.num_nodes"), _nemo),
    (_has("train.global_batch_size", "train.micro_batch_size", "model.tensor_model_parallel_size"), of_bridge),
)
"""What a file of each kind holds, and its reader; the first that fits."""


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
