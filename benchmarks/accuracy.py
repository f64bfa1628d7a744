"""Regenerate docs/accuracy.md from the shipped rows: ``python benchmarks/accuracy.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from accuracy_bars import bars, recipes
from accuracy_held_out import held_out
from accuracy_memory import MEMORY
from accuracy_techniques import published, told_apart, what_they_bring

import meshwright
from meshwright.measured.rows import read, usable
from meshwright.measured.validate import document, judge_rows

PACKAGE = Path(meshwright.__file__).parent
TARGET = Path(__file__).parents[1] / "docs" / "accuracy.md"
LEFT_OUT = TARGET.with_name("left_out.json")  # written by fit_environments.py

INTRODUCTION = """\
# Accuracy

Written by `python benchmarks/accuracy.py` from the rows in `launcher/meshwright/data/measured.csv`: measurements that
others published, with their sources in `sources.csv` beside it. Errors are predicted over measured less one.

The nine constants of a machine (docs/cost.md) were fitted on the rows of that machine, with a prior that weighs as much
as one row. So the tables "Step time" and "Peak memory" show the fit and not a forecast; "Groups kept out" is the
forecast (a machine that is not in it was refitted without keeping groups out). What holds for all machines, the host's
time of an exchange and of an expert and the bytes of experts' biases, was settled on `nvidia-megatron-bridge`,
`simumax-b200` and our own runs together; what DeepEP and HybridEP spare of it on step 4 of `megatron_dsv3_gb200`, what
recomputed latent attention costs the host on its step 5. Both fits of B200, and that of GB300, begin at the constants
of GB200: the prior is what others measured on the same chip, or on the same memory. SimuMax's has what it measured of
its own machine in place of these, but for products: the largest reach 0.49 of the peak by themselves there, and its
runs ask for 0.55 and more. What a router and a linear take of the host was counted, and read, elsewhere (docs/cost.md).
Of `megatron_dsv3_gb200` no fit has seen more than the host's time, settled on its first five rows (from its seventh on
the host is the cluster's); the mixtures of `nvidia-dgxc-benchmarking` on GB200 are predicted with it, and that of
Megatron-Bridge 25.09 on H100 with as many times its cluster's. No fit has seen the groups of "Held out" below, nor
`korthikanti2022` and `llama3_paper`, but these are no blind test either: the weight of `megatron_sc21`, the bounds on
`matmul` and `intra_link` in the A100 fit, and what is assumed of each source's kernels were settled while looking at
the former, and the constants of `grand_teton_h100` are those of three candidates that come nearest to the latter.

Memory has no fitted constants, but what it counts at the head, what is assumed of each framework (`PRACTICES` in
launcher/meshwright/measured/source_defaults.py) and the usable part of a GPU were settled on the rows of
`simumax-b200`, `torchtitan`, `nanotron_ultrascale` and `hagemann2023`: their errors, too, are of the fit.

The interval of a plan's memory is the one of its kind: 4.7 % of Megatron's layers, Transformer Engine's and its own,
which are counted tensor by tensor. Of peaks that nothing was settled on, three of our own runs lie within 0.9 %, two of
DGX Cloud within 3.7 and 8.1 %, 21 of the 25 of `nvidia-bridge-cards` within 5 % (see below), and of 81 of Megatron-LM's
own tests half within 1.0 %, four of five within 3.4 ([functional_tests.md](functional_tests.md)); nine of ten are below
the interval's upper end. DeepSpeed's is 15 % (seven peaks, by nvidia-smi). Rows of other trainers have their own: 7 %
on PyTorch's FSDP where the code was read (80 % of 44 peaks), 9 % BLOOM's and nanotron's, 8 % Hagemann et al.'s with
flash attention (what explains best which of their layouts ran out of memory), else 10 %, within which 80 % of all peaks
lie. What DGX Cloud's 8B published is what the allocator reserved, a multiple of 2 MiB, of which its log gives 41.2 GiB
to what stays between steps: 41.1 here.
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
* **Megatron's log of DeepSeek V3 on GB200**: until its CPU-side optimization (before step 7) the host took twice the
  time that it takes since: `launch_us` = 38, settled on the log's first five steps, meets DGX Cloud's mixtures on GB200
  within 8 %, and in proportion Megatron-Bridge 25.09 on H100 within 8 %. Step 2 is two changes, of which the columns
  say one: fewer kernels set mxfp8's scales to zero, too.
  Step 6, its first graphs, is predicted 15 % too fast, where Megatron-Bridge's rows with the same graphs are met within
  10 %. Of what the log gained between steps 6 and 7, a quarter, the shared experts in graphs were 4 % and the host 10
  (counted); DeepEP was tuned (4 %), and casts were joined, with other kernels (5 %): what of these two held step
  6 back no column says. From its step 5 on experts' activations are recomputed, which no graph holds.
* **B300** has no fit: its GPUs are taken to be a DGX B200's, whose power they have, and its host's clock is that of its
  processor's. With the constants of GB300 (1,400 W), which stood here before, its rows with graphs were a seventh too
  fast, and those without an eighth too slow; the choice was made while looking at them, so that they are no blind test.
* **gpt-oss by Megatron-Bridge, bf16**: experts' biases cost three times the bytes that their kernels move. What was
  taken for slow attention was not it: a token lacks the same time in sequences of 8,192 and of 4,096.
* **gpt-oss by Megatron-Bridge 26.06.01** is left out: the source notes a fault of that release, a kernel of experts'
  backward that took ten times as long (NVIDIA/cudnn-frontend#256).
* **FlashAttention-2 of NeMo 24.05 and 24.07**: their launcher turned cuDNN's attention off, as DGX Cloud did for GPT-3,
  Nemotron-4 340B and Grok (measured/released.py). Llama 3 8B was a tenth too fast until its rows said so, and its
  container of 24.09 an unexplained 12 % faster. It is taken to reach what its authors' successors say of long sequences
  and heads of 128 channels: Llama 2 7B of 24.07, met within 3 % before, is 6 % too slow now.
* **One layout in the releases of a year**: GPT-3 175B in bf16 was 7 % faster with NeMo 24.12 than with 24.05 (1 % is
  attention's), Llama 3 8B in fp8 on B200 15 % faster with 25.09 than with 25.02. No column says what other kernels a
  container had; the constants of a machine are those of all of them, so that the old are met too fast and the new too
  slow by half of it.
* **Llama 3 70B on GB200, 25.07, in parentheses**: a quarter too fast. What we have of the page does not say in which
  precision its second number was measured.
* **SimuMax's B200 over eight tensor-parallel ranks**: a tenth too fast. What SimuMax measured of its products,
  attention and links one by one, with ours of the rest, adds up to 7.0 of 7.1 ms of a layer of Llama 3 70B on four
  ranks, but to 4.2 of 5.0 on eight; what takes the rest we do not know. That the host takes longer for a linear than
  was counted (it is counted now) explains none of it, eight heads that leave multiprocessors idle (counted now) 0.07
  ms. It was met better, the others worse, as long as nothing was taken to run beside communication: user buffers are
  off in its scripts, but Transformer Engine's linears gather and scatter beside the backward's products without them.
* **SimuMax's micro-batches**: one more takes 69.0 ms between 4 and 8 of them and 63.2 between 8 and 32 on eight
  tensor-parallel ranks (-8 %), 77.4 and 85.2 where experts are over eight (+10 %), 158 and 165 on two stages (+4 %),
  89.0 and 91.6 on four ranks (+3 %), within 2 % in the two layouts left. Each time is the fastest of its iterations;
  ours are one number for both, so that half of it is left of a row whatever is counted.
* **DGX Cloud's dense rows, in the median**: its first 124 rows are met within 2.5 %, in the mean 2.9; within 2.4 and
  4.0 when neither mixtures nor NeMo's own rows were met, and 2.7 and 3.1 until it was read which of them ran
  FlashAttention-2. Fits that count errors above 1 %, not 3, by their size brought the median of those on H100 from 2.6
  to 2.4 then, but the mean of groups kept out of H100, B200 and GB200 from 4.6, 8.0 and 4.7 to 4.7, 8.3 and 4.8. What
  is left is between releases: the same layout of Nemotron-4 340B ran 7 to 14 % faster with 25.02 than with 24.09 (2 %
  are attention's), Llama 3 8B in bf16 6 %, GPT-3 175B 4 to 15 % with 24.12 than with 24.05. A model that knew of each
  layout the middle of its releases would be 1.5 % off.
* **More GPUs of the same layout**: in 34 of 36 series of DGX Cloud on 8 to 2,304 H100 steps grow more than predicted,
  by 0.4 % with each doubling in bf16 and by 0.8 % with delayed scaling, whose largest values Transformer Engine reduces
  over all ranks of a stage behind each pass (1.10, pytorch/fp8.py:316). The latency of these is a tenth of it; the rest
  is not known, and may be the wait for the slowest. Counted, it would bring the median above down by 0.1 % at most.
* **Qwen3 on B200 and GB200, one sequence at a time** (25.09 to 26.04, no graphs or none of the experts): a fifth to two
  fifths too slow. The host sets their pace, and is taken to need twice as long for a backward as for a forward. Counted
  on a CPU, routers' backward makes 0.8 times the calls of their forward and all-to-all's a third; counted so, with
  `launch_us` refitted, the rows of DeepSeek V3 are met no better, and these no better either. A profile of Qwen3 30B on
  H100 (Megatron-Bridge's skill for expert-parallel overlap) has HybridEP's dispatch at 30 operations' time, where 56
  are charged; with 30, more for each expert's weight in 8 bits and refitted, rows of H100 and GB200 come nearer, those
  of B200 go as far away. With a backward of 1.5 or 1.75 of a forward's host time, refitted, Qwen3 on GB200 is 21 % slow
  instead of 35 and what H100's fit has not seen of this source is met within 3.8 % instead of 9.3, but SimuMax's and
  vTrain's rows, and those of library recipes (Moonlight 19 % fast), are met worse: not taken.
* **Qwen3 by Megatron-Bridge 25.09 without graphs**, experts padded to a capacity: a quarter too slow on B200, where it
  was two fifths as long as the host was taken to count what nobody needs; on H100 the host of 25.09 is
  taken from DeepSeek V3, whose experts were not padded. With graphs of whole layers, on B200 and GB200, the 30B is a
  fifth too fast instead.
* **Qwen3-30B on H100, 26.02**: three tenths too fast. The release after it is 1.8 times as fast in the same layout,
  with HybridEP for DeepEP and nothing overlapped, and predicted a quarter too slow: we say one time for both.
* **Nemotron 3 on GB300**: an eighth too fast, of Nano and Super. What mamba_ssm's kernels move is counted; what they
  compute, as fast as attention does. On H100, where the scan's time is published, it moves its bytes as fast as other
  kernels do; on Blackwell, of which we found no measurement, half as fast meets Nano on GB200, on which alone that was
  settled, B200 and B300 within 3 %. GB300's `memory` is a sixth above that of the others, with the same memory.
* **Llama 3.1 405B in 4 bits on GB300**: a tenth too fast, the releases of 26.02 a seventh. `matmul` is one part of the
  peak in all precisions, and was settled on 70B.
* **Llama 4 Maverick on GB200 in fp8** (DGX Cloud): a fifth too slow, without graphs, where the host sets the pace.
* **Automodel's pipelines**: a tenth too fast. That they run dry after each 8 micro-batches is counted, and that each
  stage waits for what it reduces, gathers and hands over; not what its host does more than Megatron's, nor Python's
  garbage collection, which each rank did when it pleased until February 2026.
* **MT-NLG, GLM-130B**: older DeepSpeed pipelines; predicted too fast by a fifth and more.
"""

CORRECTED = """\
## Published layouts that contradict themselves

Of six rows of `nvidia-megatron-bridge` the summary's layout cannot be what ran; the release's preset was taken
(scripts/performance/configs at its tag). The mixtures of `nvidia-dgxc-benchmarking` were run by NeMo@7a8f1cc7
(setup.sh of their release), whose script says what the tables do not: a layer of prediction, all-to-all with experts
padded to a capacity of 1, gradients summed in fp32 (its bf16_mixed, which the script leaves as it is), fused sorting
but no fused routing or rotary positions, shared experts beside the exchange. What NeMo's dense models of 24.05 to
25.04 had (dropout of GPT-3, whose attention's kernels, a loss in pieces, gradients in fp32 or added by kernels of their
own, delayed scaling, graphs) and its mixtures of 25.02 to 25.07 (padded, too: MegatronTokenDropCallback) is of
NeMo-Framework-Launcher and NeMo scripts/performance at each tag, and of DGX Cloud's own (`data/released_nemo.csv`).

| row | published | taken | why |
|---|---|---|---|
| llama3-70b, GB300, NVFP4, 26.02.01 | PP 1, MBS 2 | PP 4, VP 5, MBS 1 | states alone fill it; preset of v0.3.1 |
| llama3-70b, GB300, MXFP8, 26.02.01 | PP 4, MBS 2 | PP 4, VP 5, MBS 1 | preset of v0.3.1; so the releases around it |
| llama3-70b, GB200, FP8-MX, 25.09 | MBS 2 | MBS 1 | GA is 16, and 128 = 8 · 1 · 16; 2 is of the FP8-CS column |
| gpt-oss-120b, H100, 25.11 | MBS 4 | MBS 1 | GA is 2, but 512 = 16 · 4 · 8; preset of v0.2.2 |
| gpt-oss-120b, B200, 25.11 | EP 8 | EP 64 | preset of v0.2.2; as fast as EP 64 in 26.02 |
| qwen3-30b-a3b, H100, 25.11 | VP 24, MBS 2 | VP 12, MBS 1 | preset of v0.2.2; as fast as it in 26.02 |
| gpt3-175b, H100, DGX Cloud 25.02 | VP 12 | VP 6 | its gpt3_175b_hydra.yaml; 25.04's table of the same times |
| gpt3-175b, llama3-70b, NeMo 24.05 | no VP | VP 12, VP 10 | NeMo-Framework-Launcher at 24.05, examples/training |
| llama-65B, A100, TP 8, MBS 4 (`hagemann2023`) | no SP | SP | 107 GiB without, and a fifth too slow; else not listed |
| deepseek-v3, H100, DGX Cloud | recompute mla_up_proj, mlp, moe | mla_up_proj | launch.sh of v25.05 and v25.05.04 |
"""


def main() -> None:
    rows, unusable = usable(read(PACKAGE / "data" / "measured.csv"))
    result, judged = document(rows, unusable), judge_rows(rows, unusable)[0]
    sources = {**result["summary"]["sources"], "all": result["summary"]["overall"]}
    parts = [
        INTRODUCTION,
        bars(judged),
        _kept_out(),
        held_out(judged),
        _table("Step time", "step_time", sources),
        _table("Peak memory", "peak_memory", sources),
    ]
    parts += [told_apart(judged), what_they_bring(judged), _rest(sources)]
    parts += [
        PEERS.format_map(_Figures(sources)),
        MEMORY,
        CORRECTED,
        published(judged),
        recipes(),
        _skipped(result["skipped"]),
    ]
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
