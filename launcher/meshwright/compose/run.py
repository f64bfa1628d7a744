"""What a user asked for: the stages of a run, and what the verbs are to do with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["Listing", "Options", "Rehearsal", "Run", "Search", "Text"]


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The miniature that ``rehearse`` trains."""

    ranks: int = 4
    steps: int = 40


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search looks for, and what it writes beside its answer."""

    objective: Literal["time", "throughput", "gpu_hours", "memory", "gpus"] = "time"
    top: int = 5
    place: int = 1
    days: float | None = None
    scaling: Literal["strong", "weak"] = "strong"
    table: str | None = None
    plot: str | None = None
    compile: bool = False
    folder: str | None = None
    nodes: int | None = None
    techniques: tuple[str, ...] | Literal["all", "none"] = ()


@dataclass(frozen=True, kw_only=True)
class Text:
    """What the verb data reads and writes."""

    input: tuple[str, ...] = ()
    prefix: str | None = None
    field: str = "text"
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which recipes of the library the verb recipes lists; None: whatever they have."""

    gpu: str | None = None
    model: str | None = None
    technique: str | None = None
    published: Literal["full", "partial", "sketch"] | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the verbs ask beside the run itself."""

    output: Literal["text", "json"] = "text"
    stage: str | None = None
    variant: str | None = None
    runs: str = "runs"
    to: str | None = None
    verify: bool = True
    why: Mapping[str, object] | None = None
    trace: str | None = None
    out: str | None = None
    format: Literal["html", "svg", "png"] = "html"
    chart: Literal["timeline", "memory", "ranks", "roofline"] = "timeline"
    rehearse: Rehearsal = Rehearsal()
    rows: str | None = None
    links: str | None = None
    search: Search = Search()
    data: Text = Text()
    recipes: Listing = Listing()


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A run: its stages in order, each a whole Spec. ``about`` and ``provenance`` are the recipe's, as composed.

    ``open``: with ``parallelism=auto`` a search decides the layouts; the values stated for each path it varies.
    None: the layouts are written.
    """

    name: str
    stages: tuple[Spec, ...]
    options: Options
    about: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    composed: Mapping[str, Any] = field(default_factory=dict)
    open: Mapping[str, tuple[Any, ...]] | None = None

    def __repr__(self) -> str:
        """Its name and its stages."""
        return f"<Run {self.name}: {', '.join(name for name, *_ in self._rows)}>"

    def _repr_html_(self) -> str:
        """Each stage's model, GPUs and batch."""
        from meshwright.layout.notebook import html_table

        return html_table(self.name, self._rows, ("stage", "model", "cluster", "global batch", "sequence"))

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                "/".join(spec.names[1:]) or "one stage",
                spec.model.name,
                f"{spec.cluster.gpus or '?'} GPUs of {spec.cluster.name}",
                str(spec.training.global_batch or "?"),
                str(spec.training.sequence),
            )
            for spec in self.stages
        ]
