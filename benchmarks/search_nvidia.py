"""Regenerate docs/search_nvidia.md: ``python benchmarks/search_nvidia.py``. A minute or so: four searches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from meshwright.library import files as library
from meshwright.report.search import layout_words
from meshwright.resolver import normalise
from meshwright.search.candidate import Candidate
from meshwright.search.exact import layout_cost, search
from meshwright.search.objective import Goal
from meshwright.search.rank import Ranking
from meshwright.search.reasons import PARTS, compare
from meshwright.search.space import Space, space
from meshwright.spec import Spec

TARGET = Path(__file__).parents[1] / "docs" / "search_nvidia.md"

RECIPES = (
    "nvidia_deepseek_v3_h100",
    "nvidia_deepseek_v3_gb200",
    "nvidia_qwen3_235b_a22b_h100",
    "nvidia_qwen3_235b_a22b_gb200",
)

INTRODUCTION = """\
# NVIDIA's layouts and the search's

For NVIDIA's performance recipes of the largest models: their layout, and the best that a search finds for the same
model, GPUs, batch, precision and techniques; both costed exactly, with the pipeline simulated. Contexts are not cut
(cp = 1), nor experts (etp = 1). Written by `python benchmarks/search_nvidia.py`.

What to believe: seconds are ours, and both sides of a line have them. A difference within 2 % is a tie. NVIDIA measured
its layouts and we did not, so a large one says first where our cost and their machine may differ: how much of the
experts' exchange between nodes is hidden, and what ZeRO-3 or full recomputation really takes at such sizes.
"""


def main() -> None:
    TARGET.write_text("\n".join([INTRODUCTION, *(line for name in RECIPES for line in _section(name))]), "utf-8")


def _section(name: str) -> Iterator[str]:
    spec = normalise(library.run(name).stages[0])
    own, found = layout_cost(spec, Goal()), search(_around(spec), Goal(top=3))
    print(name, own.step_time, found.best[0].step_time, flush=True)
    gpus = f"{spec.cluster.gpus:,} × {spec.cluster.accelerator.name}"
    yield f"## {spec.model.name} on {gpus}, {spec.training.precision}\n"
    yield "| layout | step s | GiB of a GPU |"
    yield "|---|---|---|"
    yield _row("NVIDIA's", own)
    yield from (_row(f"found, {place}", one) for place, one in enumerate(found.best, 1))
    yield f"\n{_outcome(own, found)}\n"
    yield from _differences(own, found.best[0])
    yield ""


def _around(spec: Spec) -> Space:
    return space(spec, {"parallelism.etp": (1,), "parallelism.cp": (1,)})


def _row(name: str, one: Candidate) -> str:
    return (
        f"| {name}: {layout_words(one).replace('|', '&#124;')} | {one.step_time:.2f} | {one.peak_memory / 2**30:.0f} |"
    )


def _outcome(own: Candidate, found: Ranking) -> str:
    gain = 1 - found.best[0].step_time / own.step_time
    said = (
        f"The best of {found.fitting:,} layouts that fit takes {abs(gain):.1%} {'less' if gain >= 0 else 'more'} time"
    )
    return f"{said}; {'no other of these can be better.' if found.proven else 'one left out might be as good.'}"


def _differences(own: Candidate, best: Candidate) -> Iterator[str]:
    """Keys that differ, and the parts of the step in which a hundredth of it or more is won or lost."""
    change = compare(own, best)
    keys = ", ".join(f"{name} {old} → {new}" for name, old, new in change.changes if name != "pipeline_split.layout")
    yield f"* What differs: {keys}."
    parts = {name: seconds for name, seconds in change.parts.items() if abs(seconds) >= 0.01 * own.step_time}
    for name, seconds in sorted(parts.items(), key=lambda pair: pair[1]):
        yield f"* {PARTS[name]}: {abs(seconds):.2f} s {'less' if seconds < 0 else 'more'}."


if __name__ == "__main__":
    main()
