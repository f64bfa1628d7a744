"""Rehearse recipes one after the other and note in docs/proofs.json how: ``run_recipes.py [--steps N] [NAME ...]``.

Without names: those that have no mark yet. A recipe counts as run when the miniature of its largest stage has the
losses of one process; the mark keeps the steps trained and the largest difference of each layout. Libraries are
imported once, and what trains by the very same files is trained once: an H100's recipe and a GB200's often shrink to
the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from meshwright.emit.backends import FILES
from meshwright.errors import ConfigError
from meshwright.library import files as library
from meshwright.rehearse import RankError, Rehearsal, miniature
from meshwright.rehearse.result import Curve
from meshwright.rehearse.run import Scene, curve, prepare, reading, result
from meshwright.rehearse.shrink import one_process
from meshwright.resolver import resolve
from meshwright.spec import Spec
from proofs import MARKS, note, noted

RANKS, STEPS = 4, 40
INSTALLED = {"megatron": "megatron-core", "deepspeed": "deepspeed"}


def main(names: list[str], steps: int) -> None:
    """One process a backend: what it imports first, every rank of it has."""
    groups: dict[str, list[str]] = {}
    for name in names or [name for name in library.names() if not noted(name).get("run")]:
        groups.setdefault(miniature(largest(name), RANKS, steps)[0].backend.name, []).append(name)
    if len(groups) == 1:
        with tempfile.TemporaryDirectory(prefix="meshwright-") as folder:
            _rehearse(*groups.values(), Stage(Path(folder), steps))
        return
    for group in groups.values():
        subprocess.run([sys.executable, __file__, "--steps", str(steps), *group], check=False)


def part(name: str) -> str:
    """Which variant and stage of a recipe is the one rehearsed."""
    return "/".join(_largest(name).names[1:]) or "run"


def _largest(name: str) -> Spec:
    return max(library.run(name).stages, key=lambda one: one.cluster.gpus or 0)


def largest(name: str) -> Spec:
    """The recipe's largest stage, under one name for all: a name changes paths, not training."""
    spec = _largest(name)
    return replace(spec, name="rehearsed", model=replace(spec.model, name="miniature"))


class Stage:
    """Where the rehearsals of many recipes take place; runs with the same files are trained once."""

    def __init__(self, folder: Path, steps: int) -> None:
        """Work in the empty ``folder``."""
        self.folder, self.steps = folder, steps
        self.scenes: dict[str, Scene] = {}
        self.curves: dict[tuple[str, str], Curve] = {}

    def rehearse(self, spec: Spec) -> Rehearsal:
        """As ``meshwright.rehearse.rehearse``, with what has been trained already."""
        minis = miniature(spec, RANKS, self.steps)
        alone = one_process(minis[0])
        scene = self._scene(minis, written(alone))
        return result(spec, minis, [self._curve(scene, alone, one) for one in (alone, *minis)], self.steps)

    def _scene(self, minis: Sequence[Spec], alone: str) -> Scene:
        if alone not in self.scenes:
            folder = self.folder / str(len(self.scenes))
            folder.mkdir()
            self.scenes[alone] = prepare(minis[:1], folder)
        return self.scenes[alone]

    def _curve(self, scene: Scene, alone: Spec, mini: Spec) -> Curve:
        key = written(alone), written(mini)
        if key not in self.curves:
            apart = replace(scene, folder=scene.folder / str(len(self.curves)))  # layouts of one name may differ
            self.curves[key] = curve(apart, resolve(reading(mini, scene.text)))
        return self.curves[key]


def written(mini: Spec) -> str:
    """All that its training reads: what is written for its backend."""
    return repr(FILES[mini.backend.name](resolve(mini)))


def _rehearse(names: Sequence[str], stage: Stage) -> None:
    for name in names:
        began = time.monotonic()
        try:
            rehearsal = stage.rehearse(largest(name))
        except (RankError, ConfigError) as error:
            print(name, "FAILED", error, flush=True)
            continue
        note(name, "run", [MARKS[rehearsal.backend]] if rehearsal.passed else [])
        note(name, "rehearsal", {"of": part(name), **found(rehearsal)})
        end = "; ".join(rehearsal.problems) or f"passed, {max(rehearsal.differences):.1e}"
        print(f"{name} {end} ({time.monotonic() - began:.0f} s)", flush=True)


def found(rehearsal: Rehearsal) -> dict[str, Any]:
    """What the mark keeps: the largest difference of each layout from one process, in nats a token."""
    layouts = zip(rehearsal.miniatures, rehearsal.differences, strict=True)
    return {
        "steps": len(rehearsal.reference.losses),
        "fallen": round(rehearsal.fallen, 2),
        "versions": {name: version(name) for name in (INSTALLED[rehearsal.backend], "torch")},
        "differences": {one.layout: float(f"{difference:.1e}") for one, difference in layouts},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    main(asked.names, asked.steps)
