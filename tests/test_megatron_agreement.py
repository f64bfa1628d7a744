"""We accept exactly what Megatron's own code accepts, over random layouts, valid and broken.

Megatron's word is its parser, ``validate_args``, ``TransformerConfig``, the process groups, the layer split and the
rules of the interleaved schedule. What it rejects only later (building the model, the first step) or changes silently
is the table LATER below: the only disagreements allowed.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from drawn_layouts import layouts, refused, valid
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.grid import Grid
from meshwright.layout.plan import Batch, Plan
from meshwright.resolver import normalise, override, refusals
from meshwright.rules import POSITIVE, rules_of
from meshwright.rules import grid as grid_rules
from meshwright.rules import pipeline as pipeline_rules
from meshwright.rules import sharding as sharding_rules
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass
from meshwright.verify.pool import Crash, fork_map

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

LATER = {
    "core/utils.py:558, when the model is built: a linear layer does not divide": {
        "tensor.ffn",
        "tensor.shared_experts",
        "experts.etp",
    },
    "core/transformer/attention.py, at the first step: heads do not share key/value heads": {"model.query_groups"},
    "core/tensor_parallel/mappings.py:72, at the first step: the sequence does not divide": {"tensor.sequence"},
    "Transformer Engine's context_parallel.py, at the first step: heads do not divide": {"context.heads"},
    "core/transformer/moe/moe_layer.py:630, at the first step: experts with TP want SP": {"experts.sequence_parallel"},
    "core/transformer/moe/moe_utils.py, at the first step: torch.topk over too few experts": {"experts.topk"},
    "core/transformer/multi_token_prediction.py:1419, at the first step": {"recompute.mtp"},
    "core/transformer/transformer_block.py, at the first step: steps of 0 layers": {"recompute.layers"},
    "core/distributed/distributed_data_parallel.py:293, when DDP wraps the model": {"grid.sharded_instances"},
    "training/arguments.py:1398 only warns and turns SP off": {"tensor.sequence_parallel"},
    "accepted and wrong: FSDP reduces within a pipeline's step; two negative remainders pass "
    "(transformer_config.py:2036); without SP nothing sums the gradient of latent attention's shared keys": {
        "zero.pipeline",
        "pipeline.ends",
        "tensor.latent",
    },
    "keys whose flag is not emitted in that combination": {
        "interleaved.unsupported_group",
        "grid.dense_experts",
        "layout.stages",
        "recompute.modules",
        "recompute.full",
    },
}


@dataclass(frozen=True)
class Claimed(Grid):
    """A grid that claims its world: the product of wrong degrees is another number."""

    gpus: int = 1

    @property
    def world(self) -> int:
        return self.gpus


def unchecked(candidate: Spec) -> Plan:
    """What the emitters need of a Plan, without asking whether it holds."""
    s = normalise(candidate)
    p, gpus, batch = s.parallelism, s.cluster.gpus or 1, s.training.global_batch or 1
    dp = p.dp or 1
    edp = max(1, gpus // (p.etp * p.ep * p.egtp * p.pp))
    node = s.cluster.gpus_per_node
    grid = Claimed(p.tp, p.cp, p.pp, dp, p.ep, p.etp, edp, p.order, node, p.gtp, p.egtp, gpus)
    each = s.training.micro_batch * p.gtp * dp
    sizes = Batch(s.training.micro_batch, batch, batch // max(1, each), s.training.sequence)
    return Plan(s, grid, sizes, (), s.model.vocab, 0, 0, 10, ())


def megatrons_word(plan: Plan) -> str | None:
    """None where Megatron's code accepts, else what it says."""
    from meshwright.verify import megatron

    try:
        _, config, _ = megatron.parse(plan, flags(plan))
        _groups(plan)
        _layers(config, plan)
    except BaseException as error:  # SystemExit of the argument parser included
        return f"{type(error).__name__}: {error}"
    return None


def _groups(plan: Plan) -> None:
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=plan.grid.world)
    try:
        arguments = kwargs(plan)["initialize_model_parallel"]
        parallel_state.initialize_model_parallel(**arguments, create_gloo_process_groups=False)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _layers(config: Any, plan: Plan) -> None:
    from megatron.core.transformer.transformer_block import get_num_layers_to_build

    if config.pipeline_model_parallel_layout is None:
        vpp = config.virtual_pipeline_model_parallel_size
        for stage in range(plan.grid.pp):
            for chunk in range(vpp) if vpp else (None,):
                get_num_layers_to_build(config, vp_stage=chunk, pp_rank=stage)


@dataclass(frozen=True)
class Outcome:
    ours: tuple[str, ...]
    theirs: str | None


def compare(chunk: list[Spec]) -> list[Outcome]:
    """Both words on each layout; runs in a fork."""
    found = []
    for candidate in chunk:
        ours = refused(candidate)
        positive = not any(rule.startswith("positive.") for rule in ours)
        found.append(Outcome(ours, megatrons_word(unchecked(candidate)) if positive else "counts are positive"))
    return found


OUR_OWN = {"grid.dp", "grid.nodes", "batch.microbatches"}
"""Keys that only our description has: no flag carries them, so Megatron cannot disagree."""


def agreed(outcome: Outcome) -> bool:
    late = set().union(*LATER.values()) | OUR_OWN
    refused, rejected = bool(outcome.ours), outcome.theirs is not None
    return refused == rejected or (refused and set(outcome.ours) <= late)


def judge(count: int, seed: int) -> list[tuple[Spec, Outcome]]:
    from meshwright.verify import megatron

    candidates = layouts(count, seed)
    megatron.warm()
    size = 25
    chunks = [candidates[i : i + size] for i in range(0, count, size)]
    found = fork_map(compare, chunks)
    for chunk in found:
        assert not isinstance(chunk, Crash), chunk.text
    return list(zip(candidates, [o for chunk in found if not isinstance(chunk, Crash) for o in chunk], strict=True))


def check(count: int, seed: int) -> None:
    judged = judge(count, seed)
    wrong = [f"{o.ours} but Megatron: {o.theirs}\n  {flags(unchecked(s))}" for s, o in judged if not agreed(o)]
    assert not wrong, "\n".join(wrong[:5])
    accepted = sum(not outcome.ours for _, outcome in judged)
    assert 0.35 * count <= accepted <= 0.65 * count
    fired = Counter(rule for _, outcome in judged for rule in outcome.ours)
    layout_rules = {r.id for r in (*grid_rules.RULES, *pipeline_rules.RULES, *sharding_rules.RULES)} & {
        r.id for r in rules_of("megatron")
    }
    rare = {rule: fired[rule] for rule in layout_rules - set(NOT_DRAWN) if fired[rule] < FIRED * count / 320}
    assert not rare, rare


FIRED = 4  # of 320
NOT_DRAWN = {
    "zero.stage": "argparse has no ZeRO stage",
    "model.moe_layers": "a list of layers Megatron sees only when it builds them",
}


def test_no_more_than_a_dozen_kinds_of_disagreement() -> None:
    assert len(LATER) <= 12
    assert {rule.id for rule in POSITIVE}.isdisjoint(set().union(*LATER.values()))


@pytest.mark.parametrize("change", [{}, {"parallelism.tp": 24}, {"parallelism.pp": 0}, {"training.seed": -1}])
def test_what_is_refused_is_what_users_are_told(change: dict[str, Any]) -> None:
    candidate = valid(random.Random(0))
    for path, value in change.items():
        candidate = override(candidate, path, value)
    assert refused(candidate) == tuple(problem.rule for problem in refusals(candidate, "megatron"))


def test_160_layouts() -> None:
    check(160, seed=1)


@pytest.mark.slow  # twenty times the layouts of the test above: minutes
def test_3000_layouts() -> None:
    check(3000, seed=2)
