"""Fit the efficiency constants behind every shipped row, and report errors with whole groups left out.

    python benchmarks/fit_environments.py [NAME ...]

prints, for each environment (or those NAMEd), the constants for conf/cluster or data/environments.yaml, and keeps in
docs/left_out.json the errors of each group (source and model), predicted by constants fitted without it. Nothing of
korthikanti2022 and llama3_paper is fitted, nor of ``HELD_OUT``: they are checks.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import meshwright
from meshwright.measured.calibrate import START, as_yaml, fit, left_out
from meshwright.measured.rows import Row, cluster_named, environments, own_constants, read, usable
from meshwright.measured.validate import spread
from meshwright.spec import Efficiency

DATA = Path(meshwright.__file__).parent / "data"
LEFT_OUT = Path(__file__).parents[1] / "docs" / "left_out.json"
NVIDIA = ("nvidia-dgxc-benchmarking", "nvidia-megatron-bridge", "nvidia-nemo-docs")


HELD_OUT = frozenset(
    (
        *(
            f"nvidia-megatron-bridge {model}"
            for model in ("llama3.1-405b", "qwen3-30b-a3b", "qwen3-235b-a22b", "kimi-k2")
        ),
        *(f"nvidia-megatron-bridge nemotron-3-{model}" for model in ("nano-30b-a3b", "super-120b", "ultra-550b")),
        *(f"nvidia-dgxc-benchmarking {m}" for m in ("llama3.1-405b", "nemotron4-15b", "grok1-314b", "llama4-maverick")),
    )
)
"""Groups, sources with models, that no fit sees: docs/accuracy.md has their errors as those of a test."""


@dataclass(frozen=True)
class Environment:
    """Rows that share a machine: their sources with each one's weight, and their GPU."""

    sources: Mapping[str, float]
    gpu: str
    keep: Callable[[Row], bool] = field(default=lambda _: True)
    like: str | None = None  # the environment whose constants the prior pulls to
    measured: Mapping[str, float] = field(default_factory=dict)  # of these, what its owner measured by itself


def _nvidia(gpu: str, like: str | None = None) -> Environment:
    """But for mixtures of a source or release whose host was another."""
    return Environment(dict.fromkeys(NVIDIA, 0.0), gpu, lambda row: not (row.spec.model.moe and _own(row)), like)


def _own(row: Row) -> bool:
    return isinstance(own_constants(row.measured), float)


SIMUMAX = {"attention": 0.434, "memory": 0.531, "intra_link": 0.673}
"""Its own B200 (SimuMax@4dcaae5 configs/system/b200_bf16_ceperm.json), as ``bench`` would have them.

Of products the largest that it measured by themselves reach 0.49 of the peak; its runs ask for 0.55 and more wherever a
fit begins, so that this one is left out. Attention: heads of 128 channels at 131,072 tokens, forward and
backward. Memory: permuting, over 7.7 TB/s. Links: gathering."""

ENVIRONMENTS = {
    "dgx_a100_80gb": Environment({"vtrain-single": 1.0, "vtrain-multi": 1.0, "megatron_sc21": 4.0}, "A100"),
    "a100_jean_zay": Environment({"bigscience": 0.0}, "A100", like="dgx_a100_80gb"),
    "dgx_h100": _nvidia("H100-80GB"),
    "dgx_b200": _nvidia("B200", like="gb200_nvl72"),
    "gb200_nvl72": _nvidia("GB200"),
    "gb300_nvl72": _nvidia("GB300", like="gb200_nvl72"),
    "simumax-b200 B200": Environment({"simumax-b200": 0.0}, "B200", like="gb200_nvl72", measured=SIMUMAX),
    "hagemann2023 A100-80GB": Environment({"hagemann2023": 0.0}, "A100", like="dgx_a100_80gb"),
    "llm-foundry A100-80GB": Environment({"llm-foundry": 0.0}, "A100-80GB"),
    "llm-foundry A100-40GB": Environment({"llm-foundry": 0.0}, "A100-40GB"),
    "llm-foundry H100-80GB": Environment({"llm-foundry": 0.0}, "H100-80GB"),
    "grand_teton_h100_96gb": Environment({"torchtitan": 0.0}, "H100", like="llm-foundry H100-80GB"),
    "nanotron_ultrascale H100-80GB": Environment({"nanotron_ultrascale": 0.0}, "H100"),
}
"""By cluster, or by source and GPU. Weights of 0: every row alike; else what a source's rows weigh together."""


def main(names: list[str]) -> None:
    rows, _ = usable(read(DATA / "measured.csv"))
    timed = [row for row in rows if row.step_time]
    for name, environment in ENVIRONMENTS.items():
        if not names or name in names:
            groups = _report(name, environment, [row for row in timed if belongs(row, environment)])
            _note(name, groups)


def _constants(name: str) -> Efficiency:
    """Of another environment, as they stand in its file."""
    known = environments().get(name)
    return known if isinstance(known, Efficiency) else cluster_named(name).efficiency


def belongs(row: Row, environment: Environment) -> bool:
    """Whether a row is one of the environment's."""
    gpu = row.measured["gpu"]
    if row.group in HELD_OUT:
        return False
    return row.source in environment.sources and gpu.startswith(environment.gpu) and environment.keep(row)


def _report(name: str, environment: Environment, rows: list[Row]) -> dict[str, list[float]]:
    """Print the constants; each group's errors, predicted by constants fitted without it."""
    counts = Counter(row.source for row in rows)
    weights = [(environment.sources[row.source] or counts[row.source]) / counts[row.source] for row in rows]
    weights = [w * len(rows) / sum(weights) for w in weights]
    start = replace(_constants(environment.like) if environment.like else START, **environment.measured)
    fitted = fit(rows, weights, start=start)
    errors = [float(e) for e in left_out(rows, weights, start)]
    known = [e for e in errors if e == e] or [float(e) for e in fitted.errors]
    efficiency = replace(fitted.efficiency, spread=spread(known), source=f"fitted on {', '.join(counts)}")
    print(f"# {name}: {len(rows)} rows")
    print(as_yaml(efficiency), end="", flush=True)
    groups: dict[str, list[float]] = {}
    for row, error in zip(rows, errors, strict=True):
        if error == error:
            groups.setdefault(row.group, []).append(round(error, 4))
    return groups


def _note(name: str, groups: Mapping[str, list[float]]) -> None:
    """Keep the errors for docs/accuracy.md."""
    noted = json.loads(LEFT_OUT.read_text()) if LEFT_OUT.exists() else {}
    noted[name] = groups
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(noted.items()))
    LEFT_OUT.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
