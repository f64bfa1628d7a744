"""Regenerate docs/search_nvidia.md: ``python benchmarks/search_nvidia.py``. Minutes: two searches a recipe."""

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
from meshwright.search.techniques import asked_of, reasons, with_techniques
from meshwright.spec import Spec

TARGET = Path(__file__).parents[1] / "docs" / "search_nvidia.md"

RECIPES = (
    ("nvidia_deepseek_v3_h100", "fp8_cs"),
    ("nvidia_deepseek_v3_h100", "bf16"),
    ("nvidia_deepseek_v3_gb200", "fp8_mx"),
    ("nvidia_qwen3_235b_a22b_h100", "fp8_cs"),
    ("nvidia_qwen3_235b_a22b_gb200", "fp8_mx"),
)
"""The precisions that NVIDIA measured, and bf16 on H100."""

INTRODUCTION = """\
# NVIDIA's layouts and the search's

For NVIDIA's performance recipes of the largest models: their layout, and the best that a search finds for the same
model, GPUs, batch, precision and techniques; both costed exactly, with the pipeline simulated. Contexts are not cut
(cp = 1), nor experts (etp = 1). Then the same with `search.techniques=all`. Written by
`python benchmarks/search_nvidia.py`.

What to believe: seconds are ours, and both sides of a line have them. A difference within 2 % is a tie. What NVIDIA
measured of its own layout stands beside ours; of the layouts found nobody measured any. A large gain says first where
our cost and a machine may differ:

* A smaller ep keeps tokens on fewer nodes, and more stages hold the experts instead: as much memory, less exchange. The
  model takes experts' loads as even, and a group of fewer ranks evens them less.
* More stages send more often; how sends of neighbouring stages contend for a node's links is not modelled.
* Memory is used to nine tenths, where their layouts leave a third: what fragmentation takes decides.
* Overlap is one number for a cluster. How much of an exchange hides behind another micro-batch differs by layout.
"""


def main() -> None:
    TARGET.write_text("\n".join([INTRODUCTION, *(line for one in RECIPES for line in _section(*one))]), "utf-8")


def _section(name: str, variant: str) -> Iterator[str]:
    spec = normalise(library.run(name, variant).stages[0])
    own, found = layout_cost(spec, Goal()), search(_around(spec), Goal(top=3))
    print(name, variant, own.step_time, found.best[0].step_time, flush=True)
    gpus = f"{spec.cluster.gpus:,} × {spec.cluster.accelerator.name}"
    yield f"## {spec.model.name} on {gpus}, {spec.training.precision}\n"
    yield "| layout | step s | GiB of a GPU |"
    yield "|---|---|---|"
    yield _row("NVIDIA's", own)
    yield from (_row(f"found, {place}", one) for place, one in enumerate(found.best, 1))
    yield f"\n{_outcome(own, found)}{_measured(name, variant, spec, own)}\n"
    yield from _differences(own, found.best[0])
    yield from _with_techniques(spec, own)
    yield ""


def _measured(name: str, variant: str, spec: Spec, own: Candidate) -> str:
    """What NVIDIA published of its layout, where it did."""
    (record,) = (one for one in library.recipe(name).records if one.variant == variant)
    claim = record.claims.get("tokens_per_s_per_gpu")
    if claim is None:
        return ""
    tokens = (spec.training.global_batch or 0) * spec.training.sequence
    seconds = tokens / (float(claim.value) * spec.cluster.gpus)
    return f" Measured of NVIDIA's ({claim.where}): {seconds:.2f} s, {own.step_time / seconds - 1:+.0%} ours."


def _with_techniques(spec: Spec, own: Candidate) -> Iterator[str]:
    """The best with the techniques to choose from, and why each is taken or not."""
    asked = asked_of("all")
    best = search(with_techniques(_around(spec), "all"), Goal(top=1)).best[0]
    yield f"\nWith every technique to choose from: {best.step_time:.2f} s ({best.step_time / own.step_time - 1:+.1%}),"
    yield f"{layout_words(best).replace('|', '&#124;')}.\n"
    yield from (f"* {line}." for line in reasons(best.spec, asked))


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
