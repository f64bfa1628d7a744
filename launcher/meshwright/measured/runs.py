"""Run folders as measured rows: config.yaml says what was trained, metrics.jsonl and run.json what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from meshwright.cost.framework import framework_of
from meshwright.errors import ConfigError, Problem
from meshwright.measured.gpu_names import same_gpu
from meshwright.measured.rows import Row, layout_of
from meshwright.spec import Cluster, Spec
from meshwright.spec.decode import decode
from meshwright.train import machine, metrics

__all__ = ["SOURCE", "folders_in", "rows_of", "run_row"]

SOURCE = "runs"
DEPTHS = ("plan.json", "*/plan.json", "*/*/plan.json")  # a run, runs or the stages of one, runs with stages
GIB = 2**30
Skip = tuple[str, str, str]  # row, source, reason


def folders_in(given: Iterable[Path]) -> list[Path]:
    """The run folders given, or inside the folders given (a sweep's, a recipe's stages), each once.

    Raises:
        ConfigError: naming each folder that holds none.

    """
    found = {path: sorted({plan.parent for depth in DEPTHS for plan in path.glob(depth)}) for path in given}
    empty = [
        Problem("runs", f"{path} holds no run; give a folder that compile or launch wrote", "runs.none")
        for path, inside in found.items()
        if not inside
    ]
    if empty:
        raise ConfigError(empty)
    return list(dict.fromkeys(folder for inside in found.values() for folder in inside))


def rows_of(folders: Iterable[Path], cluster: Cluster | None = None) -> tuple[list[Row], list[Skip]]:
    """The runs that say something, on ``cluster`` where given instead of their own; the others with the reason."""
    rows, skipped = [], []
    for folder in folders:
        try:
            rows.append(run_row(folder, cluster))
        except OSError as error:  # a person or a full disk may have damaged it
            skipped.append((folder.name, SOURCE, f"{Path(error.filename or folder).name}: {error.strerror or error}"))
        except ValueError as error:
            skipped.append((folder.name, SOURCE, "; ".join(str(error).splitlines())))
    return rows, skipped


def run_row(folder: Path, cluster: Cluster | None = None) -> Row:
    """One run folder as a row; its group is the model.

    Raises:
        ValueError: where it cannot be read, measured nothing, or ran on another GPU than it was planned for.

    """
    spec, ran_on = _spec(folder), machine.read(folder)
    gpu = str(ran_on.get("gpu") or ("CPU" if ran_on else spec.cluster.accelerator.name))
    if not same_gpu(gpu, spec.cluster):
        raise ValueError(f"planned for {spec.cluster.accelerator.name}, ran on {gpu}")
    if cluster is not None:
        spec = replace(spec, cluster=replace(cluster, gpus=spec.cluster.gpus, nodes=spec.cluster.nodes))
    cells = dict(_cells(folder, spec))
    if not cells:
        raise ValueError(f"no step of its whole batch is in metrics.jsonl beyond the first {metrics.WARM_UP}")
    cells |= {"gpu": gpu, "oom": "false", "recompute": spec.parallelism.recompute}
    framework = replace(framework_of(layout_of(spec)), registers=False)  # the allocator's peak is without these
    return Row(folder.name, SOURCE, f"{SOURCE} {spec.model.name}", spec, framework, cells)


def _spec(folder: Path) -> Spec:
    try:
        return decode(Spec, yaml.safe_load((folder / "config.yaml").read_text()))
    except (yaml.YAMLError, OSError) as error:
        raise ValueError(f"config.yaml cannot be read: {' '.join(str(error).split())}") from None


def _cells(folder: Path, spec: Spec) -> Iterator[tuple[str, str]]:
    """What was measured, by the columns of measured rows."""
    lines = metrics.read(folder / "metrics.jsonl")
    found = metrics.measured(lines, (spec.training.global_batch or 0) * spec.training.sequence)
    if found.step_time is not None:
        yield "iter_time_s", repr(found.step_time)
        if found.allocated is not None:
            yield "peak_mem_gib", repr(found.allocated / GIB)
