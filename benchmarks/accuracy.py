"""Regenerate docs/accuracy.md from the shipped rows: ``python benchmarks/accuracy.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import meshwright
from meshwright.measured.rows import read, usable
from meshwright.measured.validate import document

PACKAGE = Path(meshwright.__file__).parent
TARGET = Path(__file__).parents[1] / "docs" / "accuracy.md"
LEFT_OUT = TARGET.with_name("left_out.json")  # written by fit_environments.py

INTRODUCTION = """\
# Accuracy

Written by `python benchmarks/accuracy.py` from the rows in `launcher/meshwright/data/measured.csv`: measurements that
others published, with their sources in `sources.csv` beside it. Errors are predicted over measured less one.

The nine constants of a machine (docs/cost.md) were fitted on the rows of that machine, with a prior that weighs as much
as one row. So the tables "Step time" and "Peak memory" show the fit and not a forecast; "Groups kept out" is the
forecast. No fit has seen `korthikanti2022` and `llama3_paper`, but they are no blind test either: the weight of
`megatron_sc21`, the bounds on `matmul` and `intra_link` in the A100 fit, and what is assumed of each source's kernels
were settled while looking at the former, and the constants of `grand_teton_h100` are those of three candidates that
come nearest to the latter.

Memory has no fitted constants, but what it counts at the head, what is assumed of each framework (`PRACTICES` in
launcher/meshwright/measured/source_defaults.py) and the usable part of a GPU were settled on the rows of
`simumax-b200`, `torchtitan`, `nanotron_ultrascale` and `hagemann2023`: their errors, too, are of the fit.
"""

PEERS = """
## Against other estimators

The peers' figures were obtained by running each of them on the same rows, except vTrain's own (from its paper).
Ours are of the fit; the first line's rows were seen by no fit (see above).

| rows | ours | best other estimator |
|---|---|---|
| Korthikanti et al. 2022, Table 5 | {korthikanti2022} | Calculon 3.65 % (its own rows), SimuMax 4.7 % |
| vTrain, 64 to 512 A100 | {vtrain-multi} | SimuMax 13.2 %, Calculon 15.3 %, vTrain itself 14.7 % |
| vTrain, one node | {vtrain-single} | vTrain itself 8.4 %, SimuMax 23.9 %, Calculon 38.9 % |
| SimuMax's 8 B200, step time | {simumax-b200} | SimuMax 4.8 to 5.2 % |
| SimuMax's 8 B200, peak memory | {memory simumax-b200} | SimuMax 0.3 to 0.8 %, mbridge 2.7 %, Megatron-LM 39 % |

## Where we are worse, and why

* **nanotron, step time**: the sweep ran on a fabric whose throughput varied tenfold between neighbouring layouts; rows
  that the source marks slow are not shipped, and what remains is still bimodal. No constant explains it.
* **MoE on Blackwell** (Megatron-Bridge): grouped kernels, HybridEP and CUDA graphs doubled throughput
  between releases of one layout; the model knows one set of constants.
* **MT-NLG, GLM-130B**: older DeepSpeed pipelines; predicted too fast by a fifth and more.
"""


def main() -> None:
    result = document(*usable(read(PACKAGE / "data" / "measured.csv")))
    sources = {**result["summary"]["sources"], "all": result["summary"]["overall"]}
    parts = [
        INTRODUCTION,
        _kept_out(),
        _table("Step time", "step_time", sources),
        _table("Peak memory", "peak_memory", sources),
    ]
    parts += [_rest(sources), PEERS.format_map(_Figures(sources)), _skipped(result["skipped"])]
    TARGET.write_text("\n".join(parts))


def _kept_out() -> str:
    """By source and machine: the errors of groups (source and model) that were kept out of the fit, each in turn."""
    environments = json.loads(LEFT_OUT.read_text())
    lines = ["## Groups kept out", ""]
    lines += ["Step time of each model of a source, predicted by constants fitted without it.", ""]
    lines += [
        "| machine | source | groups | rows | median | mean | p90 | max | worst group, median |",
        "|" + "---|" * 9,
    ]
    for machine, groups in environments.items():
        for source in sorted({group.split()[0] for group in groups}):
            of_source = {g: sorted(map(abs, e)) for g, e in groups.items() if g.split()[0] == source}
            errors = sorted(e for group in of_source.values() for e in group)
            worst = max(of_source, key=lambda g: median(of_source[g]))
            figures = [median(errors), mean(errors), errors[int(0.9 * (len(errors) - 1))], errors[-1]]
            shown = " | ".join(f"{100 * figure:.1f} %" for figure in figures)
            name = f"{worst.partition(' ')[2]}, {100 * median(of_source[worst]):.1f} %"
            lines.append(f"| {machine} | {source} | {len(of_source)} | {len(errors)} | {shown} | {name} |")
    return "\n".join(lines) + "\n"


class _Figures(dict[str, str]):
    """Mean errors by source, for ``{source}`` or ``{memory source}`` in a text."""

    def __init__(self, sources: Mapping[str, Any]) -> None:
        super().__init__()
        for name, values in sources.items():
            for prefix, part in (("", "step_time"), ("memory ", "peak_memory")):
                if values[part]:
                    self[prefix + name] = f"{100 * values[part]['mape']:.1f} %"


def _table(title: str, part: str, sources: Mapping[str, Any]) -> str:
    lines = [f"## {title}", "", "| source | rows | median | mean | p90 | max | bias |", "|---|---|---|---|---|---|---|"]
    for name, values in sources.items():
        if values[part]:
            figures = (f"{100 * values[part][key]:.1f} %" for key in ("median", "mape", "p90", "max", "bias"))
            lines.append(f"| {name} | {values[part]['n']} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _rest(sources: Mapping[str, Any]) -> str:
    lines = ["## Uncertainty, memory limits, ranking", ""]
    lines += ["| source | 80 % interval holds | its half-width | fits or not, balanced | mean regret | max | Kendall |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, values in sources.items():
        interval, limit, ranking = (values[key] for key in ("step_time_interval", "memory_limit", "ranking"))
        balanced = limit["balanced_accuracy"] if limit else None
        figures = [interval["coverage"], interval["half_width"], balanced]
        figures += [ranking["mean_regret"], ranking["max_regret"]] if ranking else [None, None]
        shown = ["" if value is None else f"{100 * value:.1f} %" for value in figures]
        tau = f"{ranking['kendall_tau']:.2f}" if ranking else ""
        lines.append(f"| {name} | {' | '.join(shown)} | {tau} |")
    return "\n".join(lines) + "\n"


def _skipped(skipped: list[dict[str, str]]) -> str:
    counts: dict[tuple[str, str], int] = {}
    for skip in skipped:
        counts[skip["source"], skip["reason"]] = counts.get((skip["source"], skip["reason"]), 0) + 1
    lines = ["## Rows that cannot be expressed", ""]
    lines += [f"* {count} of {source}: {reason}" for (source, reason), count in sorted(counts.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
