"""Pictures of recipes for the site: what fills the memory of each pipeline stage of the longest part of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from meshwright.library import files as library
from meshwright.report.page.picture import draw
from meshwright.report.page.subject import Subject
from meshwright.resolver import resolve

__all__ = ["picture", "pictures"]


def pictures(names: Iterable[str]) -> Mapping[str, str]:
    """The SVG of each recipe; drawn by as many processes as there are cores."""
    with ProcessPoolExecutor() as pool:
        asked = list(names)
        return dict(zip(asked, pool.map(picture, asked, chunksize=4), strict=True))


def picture(name: str) -> str:
    """The memory of the stage or variant that trains the most tokens; of the last one where none states its length."""
    plans = [resolve(spec) for run in library.runs(name) for spec in run.stages]
    longest = max(reversed(plans), key=lambda plan: plan.tokens)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.svg"
        draw("memory", Subject(longest), path)
        return path.read_text("utf-8")
