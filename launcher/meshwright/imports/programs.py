"""Programs that a launch script may start, beside Megatron-LM's own: which reader takes their words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from meshwright.imports import deepspeed, model_zoo, nemo, neox, shapes, slime, swift, verl_fsdp, verl_sft
from meshwright.imports.accelerate import of_accelerate
from meshwright.imports.bridge import of_bridge
from meshwright.imports.documents import Leaves, json_leaves, toml_leaves, yaml_leaves
from meshwright.imports.files import text_of
from meshwright.imports.found import Given, Place, Source, together
from meshwright.imports.launchers import Program
from meshwright.imports.megatron import of_flags
from meshwright.imports.ranks import Ranks
from meshwright.imports.run_folder import of_model, of_program
from meshwright.imports.script import Readers
from meshwright.imports.shaped import of_shape
from meshwright.imports.shell.scope import Scope
from meshwright.imports.torchtitan import of_toml
from meshwright.imports.trainer import of_trainer
from meshwright.imports.unknown import is_known, readable
from meshwright.imports.words import bare, flag_leaves, word_leaves
from meshwright.layout.in_folder import in_folder

__all__ = ["READERS"]


def _ours(one: Program) -> bool:
    """Our own program, or Megatron-LM's with the words of the run folder."""
    theirs = any("megatron/args.txt" in readable(text) for text, _ in one.words)
    return one.name.startswith("meshwright.train.") or theirs


def _of_ours(one: Program, counted: Ranks, scope: Scope) -> Source:
    """A run folder of ours: its files stand beside the script."""
    folder = Path(scope.file).parent
    if one.name.endswith(".deepspeed"):
        return _joined(_run_folder(folder / "deepspeed"), "launch script of a DeepSpeed run folder")
    path = folder / "megatron" / "args.txt"
    lines = enumerate(text_of(path).splitlines(), 1)
    words = [(word, Place(str(path), number)) for number, line in lines for word in _placed(line, folder)]
    source = of_flags(words, "launch script of a Megatron run folder", counted.world)
    entry = "meshwright" if one.name.startswith("meshwright.train.") else one.name
    return replace(source, values={**source.values, "launch.entry": entry})


def _placed(line: str, folder: Path) -> list[str]:
    return in_folder(shlex.split(line), str(folder.absolute()))


def _run_folder(folder: Path) -> Iterator[Source]:
    for name, reader in (("config.json", None), ("program.json", of_program), ("ds_config.json", deepspeed.of_json)):
        path = folder / name
        leaves, _ = json_leaves(text_of(path), str(path))
        yield of_model(path, leaves) if reader is None else reader(leaves)


def _joined(sources: Iterator[Source] | Sequence[Source], kind: str) -> Source:
    parts = list(sources)
    whole = together(parts, ())
    return Source(kind=kind, values=whole.values, found=whole.found, asks=whole.asks, remarks=whole.remarks)


def _trains(one: Program) -> bool:
    own = any(text.partition("=")[0] == "--per_device_train_batch_size" for text, _ in one.words)
    return own or one.name.startswith("swift ")


def _of_trainer(one: Program, counted: Ranks, scope: Scope) -> Source:
    """The Trainer's flags, with DeepSpeed's JSON and accelerate's YAML where they stand beside the script."""
    leaves = flag_leaves(one)
    parts = [_with_processes(of_trainer(leaves), one, scope)]
    config = one.option("config-file")
    if config and (path := _beside(config[0], scope)):
        parts.insert(0, of_accelerate(yaml_leaves(text_of(path), str(path))))
    if one.name.startswith("swift ") or PurePosixPath(one.name).parts[-3:-1] == ("swift", "cli"):
        parts[-1] = _preset(parts[-1], leaves)
    named = leaves.get("deepspeed")
    if named and (path := _beside(str(named.value), scope)):
        tuned, _ = json_leaves(text_of(path), str(path))
        parts.insert(0, deepspeed.of_json(tuned, trainer=True))
        parts[-1] = replace(parts[-1], values=_chosen(parts[-1], leaves))
    return _joined(parts, "launch script of Hugging Face Trainer")


def _preset(source: Source, leaves: Leaves) -> Source:
    """Ms-swift has DeepSpeed's files of its own, by the stage (swift/config/zero2.json)."""
    match = re.fullmatch(r"zero([0-3])(_offload)?", str(leaves["deepspeed"].value)) if "deepspeed" in leaves else None
    away = {"backend.deepspeed.offload_optimizer.device": "cpu"} if match and match[2] else {}
    away |= {"backend.deepspeed.offload_param.device": "cpu"} if match and match[2] and match[1] == "3" else {}
    if match is None:
        return source
    found = tuple(
        replace(one, fate="mapped", path="parallelism.zero", reason="") if one.key == "deepspeed" else one
        for one in source.found
    )
    return replace(source, values={**source.values, "parallelism.zero": int(match[1]), **away}, found=found)


def _with_processes(source: Source, one: Program, scope: Scope) -> Source:
    """Ms-swift's launcher takes the number of processes from the environment."""
    if not one.name.startswith("swift "):
        return source
    world, asks = swift.processes(scope)
    values = {**source.values, **({"cluster.gpus": world} if world else {})}
    return replace(source, values=values, asks=(*asks, *source.asks))


def _chosen(source: Source, leaves: Leaves) -> dict[str, object]:
    """DeepSpeed's stage is its JSON's to say where the Trainer shards nothing itself."""
    stated = source.values if "fsdp" in leaves else {k: v for k, v in source.values.items() if k != "parallelism.zero"}
    return dict(stated)


def _beside(name: str, scope: Scope) -> Path | None:
    if not is_known(name) or len(name) > 255:
        return None
    here = Path(scope.file).parent
    candidates = (Path(name), here / name, here / PurePosixPath(name).name)
    return next((path for path in candidates if path.is_file()), None)


def _titan(one: Program) -> bool:
    return any(text.partition("=")[0] in ("--job.config_file", "--job.config-file") for text, _ in one.words)


def _of_titan(one: Program, counted: Ranks, scope: Scope) -> Source:
    """The file that is named, with the words behind it on top."""
    leaves = {name.replace("config-file", "config_file"): given for name, given in flag_leaves(one).items()}
    named = leaves.pop("job.config_file")
    path = _beside(str(named.value), scope)
    below = toml_leaves(text_of(path), str(path)) if path else {}
    source = of_toml({**below, **leaves} or {"job.config_file": named})
    return replace(source, values={**source.values, **({"cluster.gpus": counted.world} if counted.world else {})})


def _verl(one: Program) -> bool:
    ours = one.name.startswith("verl.trainer.") or any(text.startswith("actor_rollout_ref.") for text, _ in one.words)
    return ours and re.search(r"generation|main_eval", one.name) is None


def _of_sft(one: Program, counted: Ranks, scope: Scope) -> Source:
    leaves = word_leaves(one)
    return verl_sft.of_sft(leaves or bare(one), one.name, _of_trainer_section(leaves) or counted.world)


def _of_trainer_section(leaves: Leaves) -> int | None:
    """The GPUs that verl's trainer asks Ray for."""
    counts = [leaves[key].value for key in ("trainer.nnodes", "trainer.n_gpus_per_node") if key in leaves]
    known = len(counts) == 2 and all(isinstance(count, int) for count in counts)
    return counts[0] * counts[1] if known else None


def _of_verl(one: Program, counted: Ranks, scope: Scope) -> Source:
    leaves = word_leaves(one)
    world = _of_trainer_section(leaves)
    if leaves and verl_fsdp.on_fsdp(leaves, tuple(text for text, _ in one.words)):
        return verl_fsdp.of_fsdp(leaves, verl_fsdp.ACTOR, world)
    source = of_shape(leaves or bare(one), shapes.VERL, world)
    sequence = verl_fsdp.lengths(leaves)
    asks = tuple(ask for ask in source.asks if ask.path not in sequence)
    return replace(source, values={**source.values, **sequence}, asks=asks)


def _nemo(one: Program) -> bool:
    return not one.name.startswith("verl.") and any(
        text.startswith(("model.", "train.", "trainer.")) and "=" in text for text, _ in one.words
    )


def _of_nemo(one: Program, counted: Ranks, scope: Scope) -> Source:
    """NeMo 1 counts devices in its trainer; Megatron-Bridge has a section ``train``."""
    leaves = word_leaves(one)
    if not any(key.startswith("trainer.") for key in leaves):
        return of_bridge(leaves, counted.world)
    counts = [leaves[key].value for key in ("trainer.num_nodes", "trainer.devices") if key in leaves]
    known = len(counts) == 2 and all(isinstance(count, int) for count in counts)
    return of_shape(leaves, nemo.NEMO, counts[0] * counts[1] if known else counted.world)


def _neox(one: Program) -> bool:
    return PurePosixPath(one.name).name in ("deepy.py", "train.py") and any(
        readable(text).endswith((".yml", ".yaml")) for text, _ in one.words
    )


def _of_neox(one: Program, counted: Ranks, scope: Scope) -> Source:
    """All files that are named, later ones on top."""
    paths = [path for text, _ in one.words if text.endswith((".yml", ".yaml")) and (path := _beside(text, scope))]
    leaves: Leaves = {}
    for path in paths:
        leaves |= yaml_leaves(text_of(path), str(path))
    return of_shape(leaves or {"config": Given("config", "", one.place)}, neox.NEOX, counted.world)


def _slime(one: Program) -> bool:
    return slime.takes([text for text, _ in one.words])


def _of_slime(one: Program, counted: Ranks, scope: Scope) -> Source:
    return slime.of_slime(one.words)


def _of_zoo(one: Program, counted: Ranks, scope: Scope) -> Source:
    return model_zoo.of_zoo(one, scope.file, scope.answers)


def _swift(one: Program) -> bool:
    return one.name.startswith("megatron ") or PurePosixPath(one.name).parts[-3:-1] == ("cli", "_megatron")


def _of_swift(one: Program, counted: Ranks, scope: Scope) -> Source:
    return swift.of_swift(flag_leaves(one) or bare(one), scope)


READERS: Readers = (
    (_ours, _of_ours),
    (model_zoo.takes, _of_zoo),
    (_swift, _of_swift),
    (_slime, _of_slime),
    (_trains, _of_trainer),
    (_titan, _of_titan),
    (lambda one: verl_sft.takes(one.name), _of_sft),
    (_verl, _of_verl),
    (_nemo, _of_nemo),
    (_neox, _of_neox),
)
"""In the order in which they are asked."""
