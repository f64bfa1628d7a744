"""Train the miniatures and one process from the same weights on the same text, and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from meshwright.emit.backends import trainer
from meshwright.jobs.run_folder import compile
from meshwright.layout.plan import Plan
from meshwright.rehearse.processes import train, warm
from meshwright.rehearse.result import Curve, Rehearsal
from meshwright.rehearse.shrink import miniature, one_process, substitutions
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass
from meshwright.train.metrics import read

__all__ = ["TOLERANCE", "Scene", "curve", "expected_drop", "layout_name", "prepare", "reading", "rehearse", "result"]

CHARACTERS = 400_000  # of text: more than a miniature reads
# nats; every run is in fp32. Of the differences in docs/rehearsals.json and proofs.json one model's are 3.6e-6 to
# 6.0e-6, by the machine, and all others at most 9.5e-7, two roundings of a loss; norms whose gradients nobody sums are
# 7e-5 off after twelve steps and 2e-4 after forty.
TOLERANCE = 2e-5
# nats in so many steps; the loss falls fastest at first, so fewer steps lose more than their share
DROP, DROP_STEPS = 1.0, 40


def rehearse(
    spec: Spec, folder: Path, ranks: int = 4, steps: int = 40, tell: Callable[[str], None] = lambda _: None
) -> Rehearsal:
    """Train what ``miniature`` makes of ``spec``, in the empty ``folder``; ``tell`` hears what is going on.

    Raises:
        ConfigError: where there is no miniature.
        RankError: where one of its processes failed.

    """
    minis = miniature(spec, ranks, steps)
    tell("drawing the initial weights")
    scene = prepare(minis, folder)
    curves = []
    for plan in (scene.alone, *scene.plans):
        tell(f"training: {layout_name(plan)}")
        curves.append(curve(scene, plan))
    return result(spec, minis, curves, steps)


def result(spec: Spec, minis: Sequence[Spec], curves: Sequence[Curve], steps: int) -> Rehearsal:
    """What the ``curves`` of one process and of each of ``minis`` say of ``spec``."""
    return Rehearsal(
        name=spec.name,
        model=spec.model.name,
        backend=minis[0].backend.name,
        reference=curves[0],
        miniatures=tuple(curves[1:]),
        tolerance=TOLERANCE,
        drop=expected_drop(steps),
        substitutions=tuple(substitutions(spec, tuple(minis))),
    )


def expected_drop(steps: int) -> float:
    """By how many nats the loss must fall between the first step and the last of ``steps``."""
    return DROP * min(1.0, (steps - 1) / (DROP_STEPS - 1))


@dataclass(frozen=True)
class Scene:
    """What the runs of a rehearsal share: a folder with the text and the initial weights."""

    folder: Path
    text: Path  # a dataset's prefix
    alone: Plan  # one process
    plans: tuple[Plan, ...]
    words: tuple[str, ...]  # flags of every run


def prepare(minis: Sequence[Spec], folder: Path) -> Scene:
    """Write the text, and the weights that every run starts from."""
    backend = minis[0].backend.name
    warm(trainer(backend), folder / "imports.log")
    text = folder / "text"
    train("meshwright.train.data", 1, [str(text), str(CHARACTERS)], folder / "logs")
    alone, *plans = [resolve(reading(mini, text)) for mini in (one_process(minis[0]), *minis)]
    words = INITIAL[backend](alone, folder) if backend in INITIAL else ()
    return Scene(folder, text, alone, tuple(plans), words)


def curve(scene: Scene, plan: Plan, program: str | None = None) -> Curve:
    """Train ``plan`` with the program of its backend, or with ``program``."""
    folder = scene.folder / (program or "") / layout_name(plan).replace(" ", "-")
    compile(plan, folder, verify=False)
    start = time.perf_counter()
    train(program or trainer(plan.spec.backend.name), plan.grid.world, [str(folder), *scene.words], folder / "logs")
    losses = tuple(float(line["loss"]) for line in read(folder / "metrics.jsonl"))
    return Curve(layout_name(plan), plan.grid.world, losses, time.perf_counter() - start)


def layout_name(plan: Plan) -> str:
    """For example ``tp2 sp pp2 vpp2 [1,2|2,1]`` or ``dp2 zero1``; one process is ``one process``."""
    p, grid = plan.spec.parallelism, plan.grid
    if grid.world == 1:
        return "one process"
    degrees = (("tp", p.tp), ("pp", p.pp), ("vpp", p.vpp), ("cp", p.cp), ("ep", p.ep), ("etp", p.etp), ("dp", grid.dp))
    words = [f"{name}{degree}" for name, degree in degrees if degree > 1]
    if p.sp:
        words.insert(1, "sp")
    if p.pp > 1:
        split = "|".join(",".join(str(chunk.layers) for chunk in stage.chunks) for stage in plan.stages)
        words.append(f"[{split}]")
    return " ".join([*words, f"zero{p.zero}"] if p.zero else words)


def reading(mini: Spec, text: Path) -> Spec:
    """``mini`` trained on ``text``, the prefix of a dataset."""
    training = mini.training
    return replace(mini, training=replace(training, data=replace(training.data, paths=(str(text),))))


def _saved_by_one(alone: Plan, folder: Path) -> tuple[str, ...]:
    """Flags that start a run from weights saved by one process, resharded: a step that learns nothing, then a save."""
    weights = folder / "weights"
    compile(alone, folder / "initial", verify=False)
    words = ["--lr", "0", "--min-lr", "0", "--train-iters", "1", "--save", str(weights)]
    train(trainer(alone.spec.backend.name), 1, [str(folder / "initial"), *words], folder / "initial" / "logs")
    return ("--pretrained-checkpoint", str(weights), "--save", "")  # nothing goes on from the end of a rehearsal


INITIAL: dict[str, Callable[[Plan, Path], tuple[str, ...]]] = {"megatron": _saved_by_one}
"""Where weights drawn from the seed depend on the layout, what makes those that every run starts from."""
