"""Measured runs as layouts: one CSV row becomes a Spec.

What the columns do not say (which kernels, what overlaps, how states are kept) follows from the framework that ran
them; ``PRACTICES`` says what is assumed of each. Columns are documented in docs/cost.md.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from meshwright.cost.framework import Framework
from meshwright.library.files import option
from meshwright.measured.cells import count, flag, number, refuse_misshapen, said
from meshwright.measured.frameworks import practice_of
from meshwright.measured.practice import Practice
from meshwright.measured.released import filled
from meshwright.measured.row_framework import framework, layout_of
from meshwright.measured.row_layout import backend, parallelism, precision_of, training
from meshwright.measured.row_machine import as_said, gpu_of
from meshwright.measured.row_model import known_model, model_of
from meshwright.measured.row_rules import refuse_impossible
from meshwright.spec import Cluster, Efficiency, Launch, Spec
from meshwright.spec.decode import decode
from meshwright.spec.frozen import dataclass
from meshwright.spec.gpu_names import cluster_with, unknown_gpu

__all__ = ["Row", "cluster_named", "layout_of", "read", "row_of", "usable"]


@dataclass(frozen=True)
class Row:
    """A measured run that can be expressed."""

    row_id: str
    source: str
    group: str  # model and source: what is fitted or kept apart as a whole
    spec: Spec
    framework: Framework
    measured: Mapping[str, str]

    @property
    def peak_memory(self) -> float | None:
        """GiB of the fullest rank, or of the one its source looked at; None where it is not published."""
        return number(self.measured, "peak_mem_gib")

    @property
    def oom(self) -> bool | None:
        """Whether the run ran out of memory; None where that is not published."""
        return flag(self.measured, "oom")

    @property
    def step_time(self) -> float | None:
        """Seconds of a step: as published, or the step's tokens over the published rate of tokens."""
        seconds, rate = number(self.measured, "iter_time_s"), number(self.measured, "tokens_per_gpu_s")
        if seconds is not None or rate is None:
            return seconds
        training, gpus = self.spec.training, self.spec.cluster.gpus
        return (training.global_batch or 0) * training.sequence / (rate * (gpus or 1))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; one without an id is named after its line."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a byte order mark
        reader = csv.DictReader(file)
        return [{**record, "row_id": record.get("row_id") or f"line {reader.line_num}"} for record in reader]


@cache
def cluster_named(name: str) -> Cluster:
    """The cluster of conf/cluster/``name``.yaml."""
    return decode(Cluster, option("cluster", name))


def row_of(record: Mapping[str, str], cluster: Cluster | None = None) -> Row:
    """The Spec of one record, on ``cluster`` where given, else on the one its source and GPU stand for.

    Raises:
        ValueError: saying why the row cannot be expressed.

    """
    refuse_misshapen(record)
    source = said(record, "source") or "rows"
    practice = practice_of(record)
    _refuse_inexpressible(record, practice, cluster)
    record = filled(record, precision_of(record), practice.released) if practice.released else record
    record = {**record, **{column: cell for column, cell in practice.assumed.items() if not said(record, column)}}
    spec = _spec(record, practice, cluster)
    refuse_impossible(spec)
    group = f"{source} {record.get('model', '')}"
    fitted = cluster is None and isinstance(own_constants(record), Efficiency)  # to the kernels of its source
    row = Row(record.get("row_id", ""), source, group, spec, framework(spec, record, practice, fitted), record)
    _ = row.step_time, row.peak_memory, row.oom  # what is no number is refused now, not when it is compared
    return row


def _refuse_inexpressible(record: Mapping[str, str], practice: Practice, cluster: Cluster | None) -> None:
    if cluster is None and _cluster_name(record, practice) is None:
        raise ValueError(unknown_gpu(said(record, "gpu")))
    known = known_model(said(record, "model"))
    for column, words, reason in _INEXPRESSIBLE:
        if re.search(words, said(record, column)) and (column != "model" or known is None):
            raise ValueError(reason)
    sizes = () if known else ("layers", "hidden", "heads")
    missing = [column for column in (*sizes, "seq", "gpus", "tp", "pp", "mbs", "gbs") if not said(record, column)]
    if missing:
        raise ValueError(f"not published: {', '.join(missing)}")


def _spec(record: Mapping[str, str], practice: Practice, cluster: Cluster | None) -> Spec:
    dropout = float(said(record, "dropout") or practice.dropout)
    unfused = said(record, "attn_impl") in ("torch", "fused")  # settled: 5 bytes a score
    return Spec(
        name=record.get("model") or "rows",
        model=model_of(record, dropout, 0.1 if unfused else dropout),
        cluster=_cluster(record, practice, cluster),
        parallelism=parallelism(record, practice),
        training=training(record, practice),
        backend=backend(record, practice),
        launch=Launch(),
    )


_INEXPRESSIBLE = (
    ("notes", r"\bLoRA\b", "LoRA trains other weights than a Spec describes"),
    (
        "model",
        r"(?i)nemotron[\W_]*([hn]|3(?!\d))",
        "conf/model has none of its name, and the columns say nothing of Mamba layers",
    ),
    ("model", r"(?i)qwen3[\W_]*next", "conf/model has none of its name, and the columns say nothing of delta nets"),
    ("fusions", "cudnn-frontend#256", "its source notes that a kernel of that release was many times too slow"),
    ("model", r"(?i)deepseek[\W_]*v4", "its attention is not described by a Spec"),
)
"""(column, pattern in it, why such a row cannot be expressed); of a model, where conf/model has none of its name."""


def _cluster(record: Mapping[str, str], practice: Practice, given: Cluster | None) -> Cluster:
    """``given``, else the cluster with the constants of the environment that the rows come from, if any were fitted."""
    if given:
        return as_said(replace(given, gpus=count(record, "gpus")), record)
    name = _cluster_name(record, practice)
    assert name is not None  # row_of refuses GPUs that no cluster has
    cluster = cluster_named(name)
    own = own_constants(record)
    if isinstance(own, float):
        own = replace(cluster.efficiency, launch_us=own)
    cluster = replace(cluster, gpus=count(record, "gpus"), efficiency=own or cluster.efficiency)
    return cluster if isinstance(own, Efficiency) else as_said(cluster, record)


def own_constants(record: Mapping[str, str]) -> Efficiency | float | None:
    """Of a row's machine, by its release where that had another host; see ``environments``."""
    known, machine = environments(), f"{record.get('source')} {gpu_of(record)}"
    return known.get(f"{machine} {said(record, 'release')}", known.get(machine))


def _cluster_name(record: Mapping[str, str], practice: Practice) -> str | None:
    return practice.cluster.get(gpu_of(record)) or cluster_with(gpu_of(record))


@cache
def environments() -> Mapping[str, Efficiency | float | None]:
    """Fitted constants by ``source GPU`` or ``source GPU release``, of data/environments.yaml; None: the cluster's.

    A number is ``launch_us`` of a host of another time; all else is the cluster's.
    """
    path = Path(__file__).parents[1] / "data" / "environments.yaml"
    plain = yaml.safe_load(path.read_text("utf-8")) if path.exists() else {}
    return {name: decode(Efficiency, v) if isinstance(v, dict) else v and float(v) for name, v in plain.items()}


def usable(
    records: Iterable[Mapping[str, str]], cluster: Cluster | None = None
) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """The rows that can be expressed, on ``cluster`` where given; (row, source, reason) of those that cannot."""
    rows, skipped = [], []
    for record in records:
        try:
            rows.append(row_of(record, cluster))
        except ValueError as error:
            reason = "; ".join(str(error).splitlines())
            skipped.append((record.get("row_id") or "", record.get("source") or "", reason))
    return rows, skipped
