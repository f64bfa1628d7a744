"""Measured runs as layouts: one CSV row becomes a Spec, rows alike in structure become one array of layouts.

What the columns do not say (which kernels, what overlaps, how states are kept) follows from the framework that ran
them; ``PRACTICES`` says what is assumed of each. Columns are documented in docs/cost.md.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.cost.estimate import estimate
from meshwright.cost.framework import Framework, framework_of
from meshwright.cost.practices import DEFAULT, PRACTICES, Practice
from meshwright.cost.row_model import model_of
from meshwright.rules import Layout
from meshwright.spec import (
    Backend,
    Cluster,
    DeepSpeedOptions,
    Efficiency,
    Launch,
    MegatronOptions,
    Parallelism,
    PipelineSplit,
    Spec,
    Training,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Row", "cluster_named", "layout_of", "predict", "read", "row_of", "stack", "usable"]


@dataclass(frozen=True)
class Row:
    """A measured run that can be expressed."""

    row_id: str
    source: str
    group: str  # model and source: what is fitted or kept apart as a whole
    spec: Spec
    framework: Framework
    measured: Mapping[str, str]

    def number(self, column: str) -> float | None:
        """The column's value, or None where it is empty."""
        value = self.measured.get(column) or ""
        return float(value) if value else None

    @property
    def step_time(self) -> float | None:
        """Seconds of a step: as published, or the step's tokens over the published rate of tokens."""
        seconds, rate = self.number("iter_time_s"), self.number("tokens_per_gpu_s")
        if seconds is not None or rate is None:
            return seconds
        training, gpus = self.spec.training, self.spec.cluster.gpus
        return (training.global_batch or 0) * training.sequence / (rate * (gpus or 1))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def cluster_named(name: str) -> Cluster:
    """The cluster of conf/cluster/``name``.yaml."""
    from omegaconf import OmegaConf

    from meshwright.compose import CONF
    from meshwright.decode import decode

    folder = CONF / "cluster"
    merged: Any = OmegaConf.merge(OmegaConf.load(folder / "_base.yaml"), OmegaConf.load(folder / f"{name}.yaml"))
    plain: Any = OmegaConf.to_container(merged, resolve=True)
    plain.pop("defaults", None)
    return decode(Cluster, plain)


def row_of(record: Mapping[str, str], cluster: Cluster | None = None) -> Row:
    """The Spec of one record, on ``cluster`` where given, else on the one its source and GPU stand for.

    Raises:
        ValueError: saying why the row cannot be expressed.

    """
    source = record.get("source") or "rows"
    practice = PRACTICES.get(source, DEFAULT)
    if cluster is None and _gpu(record) not in practice.cluster:
        raise ValueError(f"no cluster describes the GPU {record['gpu']!r}")
    missing = [c for c in ("layers", "hidden", "heads", "seq", "gpus", "tp", "pp", "mbs", "gbs") if not record.get(c)]
    if missing:
        raise ValueError(f"not published: {', '.join(missing)}")
    for column, pattern, reason in _INEXPRESSIBLE:
        if re.search(pattern, record.get(column) or ""):
            raise ValueError(reason)
    cluster = replace(cluster, gpus=int(record["gpus"])) if cluster else _cluster(record, practice)
    unfused = (record.get("attn_impl") or "") in ("torch", "fused")  # keeps the mask of a dropout that does nothing
    model = model_of(record, practice.dropout, 0.1 if unfused else practice.dropout)
    spec = Spec(
        name=record.get("model") or "rows",
        model=model,
        cluster=cluster,
        parallelism=_parallelism(record, practice),
        training=_training(record, practice),
        backend=_backend(record, practice),
        launch=Launch(),
    )
    group = f"{source} {record.get('model', '')}"
    return Row(record.get("row_id", ""), source, group, spec, _framework(spec, record, practice), record)


_INEXPRESSIBLE = (
    ("precision", "(?i)nvfp4", "NVFP4 is not described by a Spec"),
    ("recompute", "offload", "activations that are offloaded are not described by a Spec"),
    ("notes", r"\bLoRA\b", "LoRA trains other weights than a Spec describes"),
    ("model", "(?i)nemotron-([hn]|3)", "Mamba layers are not described by a Spec"),
    ("model", "(?i)qwen3-next", "linear attention is not described by a Spec"),
    ("model", "(?i)deepseek-v4", "sparse attention is not described by a Spec"),
)
"""(column, pattern in it, why such a row cannot be expressed)."""


def _cluster(record: Mapping[str, str], practice: Practice) -> Cluster:
    """The cluster with the constants of the environment that the rows come from, where those were fitted."""
    cluster = cluster_named(practice.cluster[_gpu(record)])
    variant = practice.accelerator if "96GB" in record["gpu"] else {}
    environment = environments().get(f"{record.get('source')} {_gpu(record)}")
    return replace(
        cluster,
        gpus=int(record["gpus"]),
        accelerator=replace(cluster.accelerator, **variant),  # type: ignore[arg-type]
        efficiency=environment or cluster.efficiency,
    )


def _gpu(record: Mapping[str, str]) -> str:
    """Its name; a question mark says that the source left it to be guessed."""
    return record["gpu"].replace("?", "").replace("(", "").replace(")", "")


@cache
def environments() -> Mapping[str, Efficiency]:
    """Fitted constants by ``source GPU``, of data/environments.yaml."""
    from omegaconf import OmegaConf

    from meshwright.decode import decode

    path = Path(__file__).parents[1] / "data" / "environments.yaml"
    plain: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    return {name: decode(Efficiency, values) for name, values in plain.items()}


def _framework(spec: Spec, record: Mapping[str, str], practice: Practice) -> Framework:
    usual = framework_of(layout_of(spec))
    attention = record.get("attn_impl") or ""
    norm = {"norm": True} if "RMS" in attention else {}
    return replace(usual, **practice.changes, kernels=replace(usual.kernels, **{**practice.kernels, **norm}))


def predict(rows: Sequence[Row]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Step seconds and peak GiB of every row, as its source would have measured them."""
    import numpy as np

    seconds, memory = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for members, layout, framework in stack(rows):
        result = estimate(layout, framework)
        practice = PRACTICES.get(rows[members[0]].source, DEFAULT)
        first, _, last = result.stages
        peak = {"first": first.total, "last": last.total, "fullest": result.peak_memory}[practice.measured_stage]
        seconds[members], memory[members] = result.step_time, peak / 2**30 + practice.context_gib
    return seconds, memory


def _int(record: Mapping[str, str], column: str, default: int = 1) -> int:
    return int(float(record.get(column) or default))


def _parallelism(record: Mapping[str, str], practice: Practice) -> Parallelism:
    tp, pp, cp = (_int(record, c) for c in ("tp", "pp", "cp"))
    said = practice.recompute or record.get("recompute") or "none"
    # JAX's rows do not say; MaxText's remat_policy is "full" unless set
    kind = "full" if said.startswith(("full", "unknown")) else "selective" if said.startswith("selective") else "none"
    return Parallelism(
        tp=tp,
        sp=tp > 1 and (record.get("sp") == "true" or (not record.get("sp") and practice.sequence_parallel)),
        pp=pp,
        vpp=_int(record, "vpp", practice.vpp),
        pipeline_split=PipelineSplit(embedding=practice.even_ends, loss=practice.even_ends),
        cp=cp,
        ep=_int(record, "ep"),
        etp=_int(record, "etp"),
        dp=_int(record, "gpus") // (tp * pp * cp),
        zero=_int(record, "zero_stage", 0),
        recompute=kind,  # type: ignore[arg-type]
        recompute_method="uniform" if kind == "full" else None,
        recompute_layers=1 if kind == "full" else None,
        recompute_modules=_modules(said),
        cp_comm=practice.cp_comm,  # type: ignore[arg-type]
        overlap_grad_reduce=practice.overlap_data,
        overlap_param_gather=practice.overlap_data,
        overlap_p2p=practice.overlap_pipeline,
        overlap_tp=practice.overlap_tensor,
    )


_EVERY_SECOND = ("layernorm", "act", "second_matmul")  # torchtitan's op-level checkpointing keeps every other product
_MODULES = ("core_attn", "mlp", "moe", "shared_experts", "layernorm", "moe_act", "mla_up_proj")


def _modules(said: str) -> tuple[str, ...] | None:
    if "op" in said and "SAC" in said:
        return _EVERY_SECOND
    words = said.replace("[", " ").replace("]", " ").replace("+", " ").replace(":", " ").split()
    return tuple(word for word in words if word in _MODULES) or None


def _training(record: Mapping[str, str], practice: Practice) -> Training:
    precision = (record.get("precision") or "bf16").lower()
    eight = "mxfp8" if "mxfp8" in precision else "fp8_tensorwise" if re.search("fp8|float8", precision) else ""
    kind = eight or ("fp16" if "fp16" in precision else "bf16")
    reduce = "fp32" if precision.startswith(("amp", "bf16 compute")) else practice.grad_reduce
    return Training(
        sequence=_int(record, "seq"),
        micro_batch=_int(record, "mbs"),
        global_batch=_int(record, "gbs"),
        precision=kind,  # type: ignore[arg-type]
        grad_reduce=reduce,  # type: ignore[arg-type]
    )


def _backend(record: Mapping[str, str], practice: Practice) -> Backend:
    attention = record.get("attn_impl") or ""
    old = practice.dropout > 0 and "flash" not in attention
    unfused = old or attention in ("torch", "fused", "local") or attention.startswith("unfused")
    engine = practice.transformer_engine and attention != "local"
    megatron = MegatronOptions(
        fsdp=practice.fsdp,  # type: ignore[arg-type]
        transformer="transformer_engine" if engine else "local",
        gradient_accumulation_fusion=engine,
        attention="unfused" if unfused else "auto",
        cross_entropy_fusion=practice.fused_loss,
    )
    return Backend(
        name="deepspeed" if practice.deepspeed else "megatron", megatron=megatron, deepspeed=DeepSpeedOptions()
    )


def layout_of(spec: Spec) -> Layout:
    """The numbers of one Spec whose degrees are all stated."""
    from meshwright.resolver import layout

    return layout(spec)


_SIZES = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "max_positions")


def stack(rows: Sequence[Row]) -> list[tuple[list[int], Layout, Framework]]:
    """Rows alike in everything but numbers as one Layout of arrays, each with the rows' positions and framework."""
    import numpy as np

    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((_structure(row.spec), row.framework), []).append(i)
    result = []
    for members in groups.values():
        specs = [rows[i].spec for i in members]
        layouts = [layout_of(spec) for spec in specs]
        sizes: dict[str, Any] = {n: np.array([getattr(spec.model, n) for spec in specs]) for n in _SIZES}
        sequence: Any = np.array([spec.training.sequence for spec in specs])
        spec = replace(
            specs[0],
            model=replace(specs[0].model, **sizes),
            training=replace(specs[0].training, sequence=sequence),
        )
        names = [f.name for f in fields(Layout) if f.name != "spec"]
        numbers = {n: np.array([getattr(each, n) for each in layouts]) for n in names}
        result.append((members, Layout(**numbers, spec=spec), rows[members[0]].framework))
    return result


def _structure(spec: Spec) -> Any:
    zeros: dict[str, Any] = dict.fromkeys(_SIZES, 0)
    model = replace(spec.model, name="", transformers=None, **zeros)
    p = spec.parallelism
    kept = (p.recompute_modules, p.cp_comm, p.overlap_grad_reduce, p.overlap_tp, p.overlap_p2p, p.recompute_layers)
    training = (spec.training.precision, spec.training.grad_reduce)
    return (str(model), spec.cluster.name, kept, training, str(spec.backend))


def usable(records: Iterable[Mapping[str, str]]) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """The rows that can be expressed, and (row, source, reason) of those that cannot."""
    rows, skipped = [], []
    for record in records:
        try:
            rows.append(row_of(record))
        except ValueError as error:
            skipped.append((record.get("row_id", ""), record.get("source", ""), str(error)))
    return rows, skipped
