"""We accept exactly what Megatron's own code accepts, over random layouts, valid and broken.

Megatron's word is its parser, ``validate_args``, ``TransformerConfig``, the process groups, the layer split and the
rules of the interleaved schedule. What it rejects only later (building the model, the first step) or changes silently
is the table LATER below: the only disagreements allowed.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.grid import Grid
from meshwright.layout.plan import Batch, Plan
from meshwright.resolver import layout, normalise, override, refusals
from meshwright.rules import POSITIVE, broken, rules_of
from meshwright.rules import grid as grid_rules
from meshwright.rules import pipeline as pipeline_rules
from meshwright.rules import sharding as sharding_rules
from meshwright.rules.values import value_problems
from meshwright.spec import PipelineSplit, Spec
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Mla, Moe
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

MOE = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1)
MLA = Mla(kv_lora_rank=16, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32)


def refused(candidate: Spec) -> tuple[str, ...]:
    """The rules of ``refusals``, without the repairs that it tries: they take most of its time."""
    if value_problems(candidate, "megatron"):
        return tuple(problem.rule for problem in refusals(candidate, "megatron"))
    return tuple(rule.id for rule in broken(layout(normalise(candidate)), "megatron"))


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


# ---------------------------------------------------------------------------------------------- random layouts
def valid(rng: random.Random) -> Spec:
    """A layout built to hold."""
    moe, mla = rng.random() < 0.5, rng.random() < 0.2
    tp, pp, cp = rng.choice([1, 2, 4]), rng.choice([1, 1, 2, 4]), rng.choice([1, 1, 2])
    vpp = rng.choice([1, 2, 3]) if pp > 1 else 1
    ep, etp = (rng.choice([1, 2, 4]), rng.choice([1, 2])) if moe else (1, 1)
    layers, division = _division(rng, pp, vpp)
    world = tp * cp * pp * ep * etp * rng.choice([1, 2])
    dp = world // (tp * cp * pp)
    model = small_model(
        layers=layers,
        kv_heads=rng.choice([1, 2, 4, 8]),
        moe=MOE if moe else None,
        mla=MLA if mla else None,
        ffn=rng.choice([256, 512]),
    )
    zero = rng.choice([0, 1]) if pp > 1 or moe else rng.choice([0, 1, 3])
    batch = dp * pp * rng.choice([1, 2, 3])
    recompute = rng.choice(["none", "selective", "full"])
    degrees = {"tp": tp, "sp": tp > 1, "pp": pp, "vpp": vpp, "cp": cp, "ep": ep, "etp": etp, "zero": zero}
    return spec(model, world, 512, batch, pipeline_split=division, recompute=recompute, **degrees)


def _division(rng: random.Random, pp: int, vpp: int) -> tuple[int, PipelineSplit]:
    """A number of layers and a way of splitting them that fit ``pp`` stages of ``vpp`` chunks."""
    each = vpp * rng.choice([1, 2])
    style = rng.choice(["even", "ends", "slots", "layout"]) if pp > 1 else "even"
    if style == "ends":
        first, last = vpp * rng.choice([1, 2]), vpp * rng.choice([1, 2])
        return each * (pp - 2) + first + last, PipelineSplit(first=first, last=last)
    if style == "slots":
        taken = rng.choice([(True, True), (True, False), (False, True)])
        return each * pp - sum(taken), PipelineSplit(embedding=taken[0], loss=taken[1])
    if style == "layout":
        letters = ["t" * (each // vpp)] * (pp * vpp)
        return each * pp, PipelineSplit(layout="|".join(["E" + letters[0], *letters[1:-1], letters[-1] + "L"]))
    return each * pp, PipelineSplit()


Change = Callable[[random.Random, Spec], dict[str, Any]]
P, S = "parallelism.", "parallelism.pipeline_split."


def _odd(r: random.Random, s: Spec) -> int:
    return r.choice([5, 7, 11])


BREAKS: dict[str, Change] = {
    "grid.world": lambda r, s: {"cluster.gpus": (s.cluster.gpus or 1) + 1, P + "pp": s.parallelism.pp * 3},
    "grid.dp": lambda r, s: {P + "dp": 97},
    "grid.nodes": lambda r, s: {"cluster.nodes": 50},
    "grid.experts": lambda r, s: {"model.moe": MOE, P + "ep": 8, P + "etp": _odd(r, s)},
    "grid.dense_experts": lambda r, s: {"model.moe": None, P + "ep": 2},
    "grid.order": lambda r, s: {P + "order": "tp-cp-ep-pp-dp"},
    "grid.optimizer_instances": lambda r, s: {P + "optimizer_instances": _odd(r, s), P + "zero": 1},
    "grid.expert_optimizer_instances": lambda r, s: {
        **_interleave(s, 1, 1),
        "model.moe": MOE,
        P + "tp": 1,
        P + "sp": False,
        P + "cp": 1,
        P + "ep": 4,
        P + "etp": 1,
        "cluster.gpus": 4,
        P + "optimizer_instances": 2,
        P + "zero": 1,
    },
    "grid.sharded_instances": lambda r, s: {P + "zero": 0, P + "optimizer_instances": 2},
    "batch.global": lambda r, s: {
        "training.global_batch": (s.training.global_batch or 1) + 1,
        "training.micro_batch": 2,
    },
    "batch.microbatches": lambda r, s: {"training.microbatches": 77},
    "pipeline.exclusive": lambda r, s: {S + "first": 2, S + "loss": True},
    "pipeline.negative_ends": lambda r, s: {S + "first": 0},
    "pipeline.even": lambda r, s: {"parallelism.pipeline_split": PipelineSplit(), "model.layers": s.model.layers + 1},
    "pipeline.ends": lambda r, s: {"parallelism.pipeline_split": PipelineSplit(first=s.model.layers)},
    "pipeline.middle": lambda r, s: {"parallelism.pipeline_split": PipelineSplit(first=s.parallelism.vpp)},
    "pipeline.end_chunks": lambda r, s: {
        "parallelism.pipeline_split": PipelineSplit(first=_odd(r, s), last=_odd(r, s))
    },
    "layout.letters": lambda r, s: {"parallelism.pipeline_split": PipelineSplit(layout="Ex|tL")},
    "layout.stages": lambda r, s: {
        "parallelism.pipeline_split": PipelineSplit(layout="E|" + "t|" * s.model.layers + "||L")
    },
    "layout.order": lambda r, s: {
        "parallelism.pipeline_split": PipelineSplit(
            layout="tE" + "|" * (s.parallelism.pp * s.parallelism.vpp - 1) + "L"
        )
    },
    "layout.mtp": lambda r, s: _early_mtp(),
    "interleaved.stages": lambda r, s: {P + "pp": 1, P + "vpp": 2, "model.layers": 8},
    "interleaved.overlap": lambda r, s: {P + "overlap_p2p": False, **_interleave(s, 2, 2)},
    "interleaved.group": lambda r, s: {"training.global_batch": (s.parallelism.dp or 1), **_interleave(s, 4, 2)},
    "interleaved.remainder": lambda r, s: {**_interleave(s, 4, 2, 5)},
    "interleaved.unsupported_group": lambda r, s: {P + "microbatch_group": 4, P + "vpp": 1},
    "recompute.full": lambda r, s: {P + "recompute": "selective", P + "recompute_method": "block"},
    "recompute.layers": lambda r, s: {P + "recompute": "full", P + "recompute_layers": 0},
    "recompute.modules": lambda r, s: {P + "recompute": "none", P + "recompute_modules": ("core_attn",)},
    "recompute.mtp": lambda r, s: {P + "recompute": "full", P + "recompute_method": "block", "model.mtp": 1},
    "zero.pipeline": lambda r, s: {P + "zero": 3, P + "pp": 2},
    "tensor.heads": lambda r, s: {"model.heads": 6, "model.kv_heads": 6, P + "tp": 4},
    "tensor.kv_heads": lambda r, s: {"model.heads": 12, "model.kv_heads": 6, "model.mla": None, P + "tp": 4},
    "tensor.ffn": lambda r, s: {"model.ffn": 257},
    "tensor.shared_experts": lambda r, s: {"model.moe": replace(MOE, shared_ffn=63)},
    "tensor.sequence_parallel": lambda r, s: {P + "tp": 1, P + "sp": True},
    "tensor.sequence": lambda r, s: {"training.sequence": 514},
    "tensor.latent": lambda r, s: {"model.mla": MLA, P + "tp": 2, P + "sp": False},
    "tensor.overlap": lambda r, s: {P + "overlap_tp": True, P + "sp": False},
    "context.sequence": lambda r, s: {"training.sequence": 510, P + "cp": 2},
    "context.positions": lambda r, s: {"training.sequence": 8192},
    "context.levels": lambda r, s: {P + "cp_comm": "a2a+p2p", P + "cp": 4, P + "cp_levels": (2, 4)},
    "context.heads": lambda r, s: {P + "cp_comm": "a2a", P + "cp": 4, "model.kv_heads": 2},
    "experts.ep": lambda r, s: {"model.moe": replace(MOE, experts=9), P + "ep": 2},
    "experts.etp": lambda r, s: {"model.moe": replace(MOE, ffn=63), P + "etp": 2},
    "experts.topk": lambda r, s: {"model.moe": replace(MOE, topk=9)},
    "experts.groups": lambda r, s: {"model.moe": replace(MOE, groups=3, group_topk=1)},
    "experts.sequence_parallel": lambda r, s: {"model.moe": MOE, P + "sp": False},
    "experts.bias": lambda r, s: {"model.moe": MOE, "model.linear_bias": True, P + "etp": 2, "model.mla": None},
    "experts.overlap": lambda r, s: {P + "overlap_ep": True, P + "ep": 1},
    "mtp.positions": lambda r, s: {"model.mtp": 1, "model.positions": "learned"},
    "model.query_groups": lambda r, s: {"model.kv_heads": 3, "model.mla": None},
}


def _early_mtp() -> dict[str, Any]:
    letters = "|".join(["Ett", "ttm", "", "L"])
    return {
        "model.mtp": 1,
        "model.layers": 4,
        P + "pp": 2,
        P + "vpp": 2,
        "parallelism.pipeline_split": PipelineSplit(layout=letters),
    }


def _interleave(s: Spec, pp: int, vpp: int, microbatches: int | None = None) -> dict[str, Any]:
    """``pp`` stages of ``vpp`` chunks on one replica."""
    gpus = s.parallelism.tp * s.parallelism.cp * pp * s.parallelism.ep * s.parallelism.etp
    dp = s.parallelism.ep * s.parallelism.etp
    changes: dict[str, Any] = {
        P + "pp": pp,
        P + "vpp": vpp,
        "cluster.gpus": gpus,
        "model.layers": pp * vpp,
        "parallelism.pipeline_split": PipelineSplit(),
        P + "zero": 0,
    }
    return changes | ({"training.global_batch": dp * microbatches} if microbatches else {})


def layouts(count: int, seed: int) -> list[Spec]:
    """``count`` layouts; of 20, eight are built to hold, the others broken by the two rules that fired least so far."""
    rng, fired, made = random.Random(seed), defaultdict[str, float](float), list[Spec]()
    for i in range(count):
        candidate = valid(rng)
        if i % 20 >= 8:
            for rule in sorted(BREAKS, key=lambda rule: fired[rule])[:2]:
                for path, value in BREAKS[rule](rng, candidate).items():
                    candidate = override(candidate, path, value)
                fired[rule] += 0.1  # one that cannot fire here must not hold up the others
        for rule in refused(candidate):
            fired[rule] += 1
        made.append(candidate)
    return made


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
    "cluster.capability": "a form of words, not a layout",
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
