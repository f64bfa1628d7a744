"""Regenerate docs/search.md: ``python benchmarks/search_recipes.py``. Minutes: each recipe is searched whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from meshwright.cost import Estimate, estimate
from meshwright.errors import ConfigError
from meshwright.library import files as library
from meshwright.report.search import layout_words
from meshwright.resolver import layout, normalise, refusals
from meshwright.rules import Layout
from meshwright.search.objective import Goal
from meshwright.search.rank import budget, rank
from meshwright.search.reasons import PARTS
from meshwright.search.space import space
from meshwright.spec import Spec

TARGET = Path(__file__).parents[1] / "docs" / "search.md"

INTRODUCTION = """\
# Search

    meshwright search model=llama3_70b cluster=dgx_h100 cluster.gpus=128 training.global_batch=256
    meshwright search ... parallelism.tp=[4,8] training.micro_batch=1     # pinned, or a set; every other key is free
    meshwright search ... why='{tp: 4, pp: 8}'                            # why not that one
    meshwright search ... search.objective=gpus search.days=30 training.tokens=1e12 cluster.gpus=[256,512,1024]
    meshwright search ... cluster.gpus=[64,128,256] search.scaling=weak search.plot=curve.svg search.table=curve.csv
    meshwright search search.folder=runs/X search.nodes=30                # 30 nodes are left: how does the run go on
    meshwright plan ... parallelism=auto                                  # any verb, with the winner as its layout
    meshwright launch ... parallelism=auto search.place=1,2,3 -m          # measure the best three

**What is searched.** tp, sp, pp, vpp, cp, ep, etp, dp, ZeRO stage, recomputation (none, selective, full), micro-batch,
and how layers fall on stages: evenly, with slots for the embedding and the loss, with shorter first and last stages,
or, where prediction layers or layers of several kinds make all of these uneven, by the best layout string. Selective
recomputation is tried of attention and of the modules that are described. What a layout does not consist of (`order`,
`cp_comm`, the overlaps, how full recomputation is dealt out) stays as described, unless it is given as a set. Layouts
are compared at one global batch. [NVIDIA's layouts and the search's](search_nvidia.md) compares the two.

**How.** Values are proposed axis by axis (divisors of the GPUs, of the batch, of the layers) and joined; a rule is
judged as soon as the keys it reads are there. The rules are those of `plan`: each takes numbers or arrays. A test
resolves small spaces layout by layout and finds the same ones. Each valid one is costed by the closed form; nothing
is sampled or cut off. It is a lower bound of the exact cost, so survivors are simulated in the order of their bound
until no other bound is better than the last of the best: the answer says where that was not reached.

**A run that goes on.** `search.folder` with `search.nodes` prints the fastest layout with the same global batch, and
one with a near batch on every node; of the layouts, those that can read the run's checkpoints come first. Each comes
with the last checkpoint, what is resharded, the sample at which the data goes on, and every key that changes, to stand
behind the words that described the run. Beside it only `parallelism.*` and `training.micro_batch` can be pinned.

**What to believe.** Two layouts within 2 % are called a tie; with the objective gpus, two steps on as many GPUs. Of the
excluded layouts the rule is named with an example, of those too large the bytes, of those slower the seconds and where
they go. `docs/accuracy.md` says how well such rankings agree with measurements.

## Published layouts

For each recipe (of its stages the largest): where its authors' layout stands among all that are valid on its GPUs with
its batch and fit, how much shorter the best step would be, and the layout of it. Both are of the closed form, with the
constants of the recipe's cluster. Tensor parallelism within an expert stays the authors', to keep this table quick.
"""

DISCUSSION = """
## Why authors' layouts are not first

* Nearest to the top stand OLMo 2 32B and Gemma 2 (first, in small spaces), Korthikanti et al. at 530B (0.6 %) and 1T
  (3.9 %), DeepSeek-V2 (0.8 %), OLMo 7B and OLMo 2 7B (1.5 and 2.8 %), SmolLM2 135M, torchtitan's Llama 3 8B and
  MegaScale 530B (4 to 5 %).
* Many recipes predate a feature: full recomputation without flash attention, no sequence parallelism (before May
  2022), no interleaving with uneven stages, no ZeRO-1. The model costs today's Megatron with all of them; this is most
  of what Narayanan et al. 2021, MT-NLG and GPT-3 lose ("recomputing activations").
* Gains that lie within the interval of `docs/accuracy.md` are no gains. Rankings are better than absolute times, but a
  distance of less than 10 % should be measured before it is believed.
* A large global batch lets a search put the pipeline's bubble to zero by dropping the pipeline for ZeRO-2 or 3; the
  model trusts the cluster to overlap that traffic. Authors on shared or oversubscribed fabrics could not.
* Authors choose one layout for a run with several stages (batch ramps, other sequence lengths, failed nodes); a search
  sees one stage.
* Where the authors' layout *does not fit*, the run did fit: what saved its memory is not in stock Megatron, as
  DeepSeek-V3's DualPipe and Llama 3 405B's gradients, sharded beside a pipeline. `plan` of such a recipe says what the
  authors' trainer did without, and names the change that makes it fit here. A negative gain says that only layouts
  slower than the authors' fit.

## Techniques

`search.techniques=[all]`, or a list of their names (`cuda_graphs`, `dispatcher`, `router_fusion`, `permute_fusion`,
`shared_overlap`, `expert_overlap`, `low_precision_weights`, `activation_offload`, `optimizer_offload`, `weight_parts`:
generalized tensor parallelism over an NVLink domain, where nodes may have Transformer Engine 2.19), searches every
layout under sets of them: none, all that cost no time, with either way of using the dispatch's time, and with each that
trades time for memory. On DeepSpeed they are `tiled_loss`, `tiled_mlp`, `deepep`, `host_optimizer`, `super_offload` and
`zenflow`. The report says of each what it brings to the winner, what it would cost, or which rule refuses
it. A search takes as many times longer as there are sets (up to thirteen).

## Speed

`python benchmarks/search_speed.py` on one core of a shared machine, the answer's simulations included:

| space | proposed | valid | CPU s | valid layouts a CPU s |
|---|---|---|---|---|
| GPT 175B on 64 GPUs, Calculon's space | 1,930,992 | 127,080 | 0.4 | 333,850 |
| GPT 175B on 64 GPUs, everything | 6,758,472 | 151,218 | 0.3 | 580,913 |
| Llama 3 405B on 16,384 GPUs, everything | 67,910,400 | 957,870 | 1.9 | 512,332 |
| DeepSeek-V3 on 2,048 GPUs, everything | 10,817,224,704 | 499,584 | 1.6 | 309,987 |

Calculon (calculon-ai/calculon, commit caa4b11) counts 666,368 executions in its space of the first line and evaluated
56 a CPU second when it was run on two cores. Models with many experts and a batch with many divisors have the largest
spaces: DeepSeek-V2's has 32 million valid layouts, a matter of minutes.
"""


def main() -> None:
    lines = ["| recipe | GPUs | layouts that fit | authors' rank | best is faster by | best layout | mostly from |"]
    lines += ["|" + "---|" * 7, *map(_line, library.names())]
    TARGET.write_text("\n".join([INTRODUCTION, *lines, DISCUSSION]), "utf-8")


def _line(name: str) -> str:
    run = library.run(name)
    spec = max(run.stages, key=lambda stage: normalise(stage).cluster.gpus or 0)
    cells = [f"`{name}`" + (f" {spec.stage}" if spec.stage else ""), f"{normalise(spec).cluster.gpus:,}", *_cells(spec)]
    print(cells, flush=True)
    return f"| {' | '.join(cells)} |"


def _cells(spec: Spec) -> Iterator[str]:
    problems = refusals(spec, spec.backend.name)
    try:
        around = space(spec, {"parallelism.etp": (spec.parallelism.etp,)} if spec.model.moe else {})
    except ConfigError as error:
        problems = list(error.problems)
    if problems:
        yield from ("-", f"not judged: {problems[0].path}", "-", "-", "-")
        return
    current = estimate(layout(normalise(spec)))
    fits = current.peak_memory <= budget(spec.cluster)
    faster = 0

    def counting(candidates: Layout) -> Estimate:
        nonlocal faster
        costs = estimate(candidates)
        shorter = (costs.step_time < current.step_time * (1 - 1e-9)) & (costs.peak_memory <= budget(spec.cluster))
        faster += int(np.count_nonzero(shorter))
        return costs

    ranking = rank(around, Goal(top=1), by=counting)
    best, feasible = ranking.best, ranking.fitting
    yield f"{feasible:,}"
    yield f"{faster + 1:,}" if fits else f"does not fit: {current.peak_memory / 2**30:.0f} GiB"
    if not best:
        yield from ("-", "none fits", "-")
        return
    yield f"{1 - best[0].step_time / current.step_time:.1%}"
    yield layout_words(best[0])
    gained = {part: float(getattr(current.parts, part)) - best[0].parts[part] for part in PARTS}
    yield PARTS[max(gained, key=lambda part: gained[part])]


if __name__ == "__main__":
    main()
