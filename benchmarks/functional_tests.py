"""Write docs/functional_tests.md: ``python benchmarks/functional_tests.py [MEGATRON_LM]``.

Megatron-LM's functional tests train on 8 H100 and keep the peak that PyTorch's allocator saw on the last rank. With a
checkout of it, its tests' flags and peaks are taken into docs/functional_tests.json first; then each is imported as a
user's own file would be, and its peak predicted.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from math import log
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from meshwright.imports.check import checked
from meshwright.imports.read import imported

DOCS = Path(__file__).parents[1] / "docs"
TESTS, TARGET = DOCS / "functional_tests.json", DOCS / "functional_tests.md"
CASES = "tests/functional_tests/test_cases"
GOLDEN = "golden_values_dev_dgx_h100.json"
GIB = 2**30
SMALL = 2.0  # GiB; below it a peak is more of libraries than of what is counted

LEFT_OUT = {
    "inference": "it does not train",
    "grpo": "it samples its own data",
    "flextron": "its model is several, one inside another",
    "modelopt_distill": "a teacher runs beside the model",
    "reruns_resume_check_grads": "its seed is left open",
    "15b_8t_release": "its tokenizer's file says how many tokens there are",
    "deepseek_proxy": "it has 8 bits beside fp32 weights (no --bf16), which no option of ours says",
    "_dp_last": "an order of ranks with etp = tp·cp, which only mixtures have here",
}
"""Part of a test's name, and why it is left out."""

_LOGISTICS = re.compile(
    r"--(data-(?!parallel)|tokenizer-(?!type)|split|save|load|log-|tensorboard|timing|lr|min-lr"
    r"|weight-decay|clip|adam-b|init-method|train-(iters|samples)|eval-|exit-|distributed-(timeout|backend)|seed|override"
    r"|no-load|manual-gc|logging|mock-data|async|ckpt-(assume|convert)|dist-ckpt-strict|dist-ckpt-optim|finetune"
    r"|use-(checkpoint|persistent)|verify|no-mmap|wandb|bias-update|num-workers|end-weight|start-weight|norm-eps|no-check)"
)
"""Flags that no peak depends on: data, schedules, checkpoints and logs."""


INTRODUCTION = """\
# Megatron-LM's own tests

Written by `python benchmarks/functional_tests.py [MEGATRON_LM]`. Megatron-LM tests itself by training on 8 H100
({source}) and
keeps the peak that PyTorch's allocator saw on the last rank. Each test's flags are imported here as a user's file is
(`meshwright check`), and the last stage's peak is predicted. What they showed to be wrong is counted since: the fused
loss, which takes more than the plain one; attention of Megatron's own layers, which is never fused; scores that leave
the GPU with what is offloaded; the workspaces of libraries. All else was predicted as it stood.
"""


class Judged(NamedTuple):
    """One test, in GiB."""

    name: str
    measured: float
    predicted: float
    layers: str

    @property
    def error(self) -> float:
        """Predicted over measured less one."""
        return self.predicted / self.measured - 1


def main(checkouts: list[str]) -> None:
    for checkout in checkouts:
        TESTS.write_text(json.dumps(_taken(Path(checkout)), indent=1) + "\n")
    TARGET.write_text("\n".join(_page(list(judged()))))


def _taken(checkout: Path) -> dict[str, Any]:
    head = (checkout / ".git" / "HEAD").read_text().split("/")[-1].strip()
    found = (_test(golden) for golden in sorted((checkout / CASES).glob(f"*/*/{GOLDEN}")))
    return {"source": f"github NVIDIA/Megatron-LM@{head} {CASES}/*/*/{GOLDEN}", "tests": _distinct(found)}


def _test(golden: Path) -> dict[str, Any] | None:
    """Its name, peak and flags; None where it keeps no peak or is left out."""
    peaks = json.loads(golden.read_text()).get("mem-max-allocated-bytes")
    name = f"{golden.parents[1].name}/{golden.parent.name}"
    if not isinstance(peaks, dict) or not isinstance(peaks.get("values"), dict) or left_out(name):
        return None
    numbers = [value for value in peaks["values"].values() if isinstance(value, int | float)]
    flags = yaml.safe_load((golden.parent / "model_config.yaml").read_text())["MODEL_ARGS"]
    kept = {flag: _bare(value) for flag, value in flags.items() if not _LOGISTICS.match(flag)}
    return {"name": name, "peak_bytes": int(max(numbers)), "flags": kept}


def _bare(value: Any) -> Any:
    """Without the folders of its machine, which are environment variables."""
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("$") else value


def left_out(name: str) -> str | None:
    """Why a test is left out."""
    return next((why for part, why in LEFT_OUT.items() if part in name), None)


def _distinct(tests: Iterator[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """The first of those with the same flags and, within 1 %, the same peak."""
    seen: dict[str, dict[str, Any]] = {}
    for test in tests:
        if test is not None:
            seen.setdefault(f"{test['flags']} {log(test['peak_bytes']) * 100:.0f}", test)
    return list(seen.values())


def judged() -> Iterator[Judged]:
    """Every test with its prediction."""
    for test in json.loads(TESTS.read_text())["tests"]:
        yield judge(test)


def judge(test: Mapping[str, Any]) -> Judged:
    """What ``meshwright check`` says of a file with the test's flags, of its last stage on 8 H100."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model_config.yaml"
        file.write_text(yaml.safe_dump({"MODEL_ARGS": test["flags"]}))
        found = checked(imported([str(file)], {}), ["cluster=dgx_h100", "cluster.gpus=8"])
    assert found.cost is not None, (test["name"], found.said)
    assert found.plan is not None
    layers = found.plan.spec.backend.megatron.transformer
    return Judged(test["name"], test["peak_bytes"] / GIB, found.cost.stages[-1].total / GIB, layers)


def _page(tests: list[Judged]) -> Iterator[str]:
    yield INTRODUCTION.format(source=json.loads(TESTS.read_text())["source"])
    yield "| tests | n | median | p80 | p90 | max | too low by 5 % |"
    yield "|---|---|---|---|---|---|---|"
    yield from _lines(tests)
    yield ""
    yield "| test | measured, GiB | predicted | error |"
    yield "|---|---|---|---|"
    for each in sorted(tests, key=lambda t: -t.measured):
        yield f"| {each.name} | {each.measured:.2f} | {each.predicted:.2f} | {100 * each.error:+.1f} % |"
    yield ""
    yield "Left out are tests named so:"
    yield ""
    yield from (f"* `{part}`: {why}" for part, why in LEFT_OUT.items())
    yield ""


def _lines(tests: list[Judged]) -> Iterator[str]:
    kinds = {
        "Transformer Engine's layers": [t for t in tests if t.layers != "local"],
        "Megatron's own layers": [t for t in tests if t.layers == "local"],
        f"{SMALL:.0f} GiB and more": [t for t in tests if t.measured >= SMALL],
        "20 GiB and more": [t for t in tests if t.measured >= 20],
        "all": tests,
    }
    for kind, of in kinds.items():
        sizes = sorted(abs(t.error) for t in of)
        n, low = len(sizes), sum(t.error < -0.05 for t in of)
        figures = (median(sizes), sizes[int(0.8 * n)], sizes[min(n - 1, int(0.9 * n))], sizes[-1])
        yield f"| {kind} | {n} | {' | '.join(f'{100 * size:.1f} %' for size in figures)} | {low} |"


if __name__ == "__main__":
    main(sys.argv[1:])
