"""The sections of docs/accuracy.md that tell precision and techniques apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import mean, median
from typing import get_args

from meshwright.cost.fitting import Fits, fits
from meshwright.measured.frameworks import practice_of
from meshwright.measured.validate import Judged

__all__ = ["published", "told_apart", "what_they_bring"]

SOURCES = ("nvidia-dgxc-benchmarking", "nvidia-megatron-bridge", "nvidia-nemo-docs", "megatron_dsv3_gb200")
NVIDIA = ("nvidia-megatron-bridge", "nvidia-dgxc-benchmarking", "nvidia-nemo-docs", "nvidia-automodel")
COLUMNS = ("recompute", "graphs", "dispatcher", "fusions", "overlap", "offload", "attn_impl")
LAYOUT = ("tp", "pp", "vpp", "cp", "ep", "mbs")
BESIDE = ("seq", "zero_stage", "sp")  # what else tells layouts apart
SAID = 0.03  # a change of layout or software that measures less than this is no line


def told_apart(judged: Sequence[Judged]) -> str:
    """Errors by precision and kind of model, and of mixtures by what was switched on."""
    timed = [j for j in judged if j.measured_time and j.row.source in SOURCES[:3]]
    moe = [j for j in timed if j.row.spec.model.moe]
    lines = [
        "## Precision and techniques",
        "",
        "Step time of NVIDIA's rows (fitted, as above, or held out).",
        "",
        _HEAD,
    ]
    lines += _groups(timed, lambda j: f"{j.row.spec.training.precision}, {_kind(j)}")
    lines += _groups(moe, lambda j: f"mixtures, graphs: {j.row.spec.backend.megatron.cuda_graphs.kind}")
    lines += _groups(moe, lambda j: f"mixtures, dispatcher: {_dispatcher(j)}")
    lines += _groups(moe, lambda j: f"mixtures, overlap of experts: {_yes(j.row.spec.parallelism.overlap_ep)}")
    return "\n".join(lines) + "\n"


_HEAD = "| rows | n | median | p90 | max | bias |\n|---|---|---|---|---|---|"


def _kind(j: Judged) -> str:
    return "mixtures" if j.row.spec.model.moe else "dense"


def _dispatcher(j: Judged) -> str:
    options = j.row.spec.backend.megatron
    return options.moe_flex_backend if options.moe_dispatcher == "flex" else options.moe_dispatcher


def _yes(flag: bool) -> str:
    return "on" if flag else "off"


def _groups(judged: Sequence[Judged], name: Callable[[Judged], str]) -> Iterator[str]:
    for key in sorted({name(j) for j in judged}):
        errors = [j.step_time / (j.measured_time or 1) - 1 for j in judged if name(j) == key]
        sizes = sorted(map(abs, errors))
        figures = (median(sizes), sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))], sizes[-1], mean(errors))
        yield f"| {key} | {len(errors)} | {' | '.join(f'{100 * figure:.1f} %' for figure in figures)} |"


def published(judged: Sequence[Judged]) -> str:
    """What is said of layouts that are known to have run: rows, and in brackets layouts that differ."""
    ran = [j for j in judged if (j.measured_time or j.measured_memory) and not j.oom]
    lines = [
        "## Published layouts that ran",
        "",
        "What `plan` would say of them, in rows (and layouts that differ), by the interval of their kind (see above).",
        "The sweeps among them go up to the layout that no longer fits.",
        "",
    ]
    lines += ["| source | likely | about even | unlikely |", "|---|---|---|---|"]
    others = sorted({j.row.source for j in ran} - {*NVIDIA})
    lines += [_line(source, [j for j in ran if j.row.source == source]) for source in (*NVIDIA, *others)]
    megatron = [j for j in ran if practice_of(j.row.measured).memory_spread is None]
    lines.append(_line("all of Megatron's layers", megatron))
    lines.append(_line("all others", [j for j in ran if j not in megatron]))
    lines.append(_line("all", ran))
    return "\n".join(lines) + "\n"


def _line(name: str, judged: Sequence[Judged]) -> str:
    said = [(fits(j.fit_probability), _layout(j)) for j in judged]
    words = ([layout for word, layout in said if word == wanted] for wanted in get_args(Fits))
    return f"| {name} | {' | '.join(f'{len(found)} ({len({*found})})' for found in words)} |"


def _layout(j: Judged) -> tuple[str, ...]:
    words = (j.row.measured.get(column, "") for column in ("model", "gpu", *LAYOUT, *BESIDE, *COLUMNS))
    return (j.row.spec.training.precision, *words)


def what_they_bring(judged: Sequence[Judged]) -> str:
    """Throughput of one release over the one before it, where something was switched: measured and predicted."""
    lines = ["## What each technique is predicted to bring", ""]
    lines += [
        "Throughput over the release before, of the same model on as many of the same GPUs, where what was switched"
    ]
    lines += [
        "on differs. The software changes, too, which no column says: what is measured beyond the prediction is its."
    ]
    lines += ["", "| model, GPU | from → to | switched | measured | predicted |", "|---|---|---|---|---|"]
    lines += [line for group in _series(judged) for pair in pairwise(group) for line in _step(*pair)]
    return "\n".join(lines) + "\n"


def _series(judged: Sequence[Judged]) -> Iterator[list[Judged]]:
    """Rows of one source, model, GPU and number of them, in the order of releases; of one release the fastest."""
    groups: dict[tuple[str, str, str, int | None], dict[str, Judged]] = {}
    for j in judged:
        m, release = j.row.measured, j.row.measured.get("release", "")
        if j.measured_time and release and j.row.source in ("nvidia-megatron-bridge", "megatron_dsv3_gb200"):
            of_release = groups.setdefault((j.row.source, m["model"], m["gpu"], j.row.spec.cluster.gpus), {})
            best = of_release.get(release)
            if best is None or _rate(j, j.measured_time) > _rate(best, best.measured_time or 1):
                of_release[release] = j
    for _, of_release in sorted(groups.items(), key=lambda item: str(item[0])):
        yield [of_release[release] for release in sorted(of_release)]


def _rate(j: Judged, seconds: float) -> float:
    return (j.row.spec.training.global_batch or 1) * j.row.spec.training.sequence / seconds


def _step(before: Judged, after: Judged) -> Iterator[str]:
    switched = list(_switched(before, after))
    measured = _rate(after, after.measured_time or 1) / _rate(before, before.measured_time or 1) - 1
    if not switched or abs(measured) < SAID:
        return
    predicted = _rate(after, after.step_time) / _rate(before, before.step_time) - 1
    a, b = before.row.measured, after.row.measured
    yield (
        f"| {a['model']}, {a['gpu']} | {a['release']} → {b['release']} | {'; '.join(switched)} "
        f"| {100 * measured:+.1f} % | {100 * predicted:+.1f} % |"
    )


def _switched(before: Judged, after: Judged) -> Iterator[str]:
    a, b = before.row.measured, after.row.measured
    old, new = before.row.spec.training.precision, after.row.spec.training.precision
    if old != new:
        yield f"{old} → {new}"
    for column in COLUMNS:
        one, other = (m.get(column) or "none" for m in (a, b))
        if one != other:
            yield f"{column} {_short(one)} → {_short(other)}"
    hosts = [j.row.spec.cluster.efficiency.launch_us for j in (before, after)]
    if len({*hosts}) > 1:
        yield f"host {hosts[0]:g} → {hosts[1]:g} us an operation"
    layouts = (" ".join(f"{c}{m.get(c) or 1}" for c in LAYOUT) for m in (a, b))
    if len({*layouts}) > 1:
        yield "layout"


def _short(value: str) -> str:
    return value.replace("transformer_engine:", "").replace("selective:", "")
