"""The section of docs/accuracy.md on groups that no fit has seen: as they are predicted, and as they first were."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from fit_environments import HELD_OUT

from meshwright.measured.validate import Judged

__all__ = ["held_out"]

AUTOMODEL, CARDS = "nvidia-automodel", "nvidia-bridge-cards"
FIRST = {
    "nvidia-megatron-bridge llama3.1-405b": (2.9, 17.5),
    "nvidia-megatron-bridge qwen3-30b-a3b": (8.2, 39.9),
    "nvidia-megatron-bridge qwen3-235b-a22b": (7.7, 55.6),
    "nvidia-megatron-bridge nemotron-3-nano-30b-a3b": (19.4, 26.5),
    "nvidia-megatron-bridge nemotron-3-super-120b": (8.7, 28.2),
    "nvidia-dgxc-benchmarking llama3.1-405b": (2.9, 10.0),
    "nvidia-dgxc-benchmarking nemotron4-15b": (2.4, 5.2),
    "nvidia-dgxc-benchmarking grok1-314b": (16.1, 76.9),
    "nvidia-dgxc-benchmarking llama4-maverick": (34.6, 70.9),
    AUTOMODEL: (74.9, 129.0),
    f"{CARDS} moonlight-16b-a3b": (11.1, 14.0),
    f"{CARDS} nemotron-3-nano-30b-a3b": (11.0, 24.3),
    f"{CARDS} nemotron-3-super-120b": (4.6, 17.5),
    f"{CARDS} llama3-70b": (3.1, 14.1),
    f"{CARDS} qwen3-30b-a3b": (11.8, 31.5),
    f"{CARDS} qwen3-235b-a22b": (7.9, 9.5),
    f"{CARDS} qwen3-8b": (3.4, 3.4),
    f"{CARDS} deepseek-v3": (4.2, 16.4),
    f"{CARDS} gpt-oss-120b": (4.8, 46.6),
    f"{CARDS} gpt-oss-20b": (7.2, 8.3),
}
"""Median and ninth of ten, in %, before anything was changed with these rows at hand. Kimi K2 was refused."""

TEXT = """\
## Held out

Step time of groups that no fit has seen: models of a source whose rows were collected after the constants were fitted,
predicted as everything stood ("first", median and ninth of ten), and only then looked into. What was wrong was how rows
are read (which preset ran, in which layout, with which prediction; how experts are cut; whose latent attention; what
4 bits do not overlap) or not counted (what Mamba-2's kernels move, what DeepEP sends). No constant was fitted to them,
but what was mended was found on them: they are blind no longer.

Of `nvidia-bridge-cards` (Megatron-Bridge's verification cards and skills) nothing was mended that changes a step's
time but how its library recipes are read (gradients in fp32, an unfused loss, fixed capacities). Its runs on real data
with a router left to itself are a quarter of it, and the worst: gpt-oss-120b on 64 H100 (45 % low), mxfp8 of Qwen3
30B-A3B on GB200 (25 % low); of those with a router that is forced, HybridEP on H100 beside experts (37 % high).
"""


def held_out(judged: Sequence[Judged]) -> str:
    """By group, and Megatron-Bridge's by GPU."""
    ours = [j for j in judged if j.measured_time and (j.row.group in HELD_OUT or j.row.source in (AUTOMODEL, CARDS))]
    groups = {_name(j): [k for k in ours if _name(k) == _name(j)] for j in ours}
    gpus = sorted({j.row.measured["gpu"] for j in ours})
    lines = [TEXT, "| rows | n | first | median | p90 | max | bias |", "|" + "---|" * 7]
    lines += [_line(name, of, FIRST.get(name)) for name, of in groups.items()]
    lines += [_line(f"all on {gpu}", [j for j in ours if j.row.measured["gpu"] == gpu], None) for gpu in gpus]
    lines += [_line("all", ours, None)]
    return "\n".join(lines) + "\n"


def _name(j: Judged) -> str:
    return AUTOMODEL if j.row.source == AUTOMODEL else j.row.group


def _line(name: str, of: Sequence[Judged], first: tuple[float, float] | None) -> str:
    errors = [j.step_time / (j.measured_time or 1) - 1 for j in of]
    sizes = sorted(map(abs, errors))
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    shown = " | ".join(f"{value:.1%}" for value in (median(sizes), ninth, sizes[-1], mean(errors)))
    return f"| {name} | {len(of)} | {f'{first[0]} / {first[1]} %' if first else ''} | {shown} |"
