"""Random layouts for Megatron, valid and broken: each rule that can be broken is broken about as often."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from builders import small_model, spec
from meshwright.resolver import layout, normalise, override, refusals
from meshwright.rules import broken
from meshwright.rules.values import value_problems
from meshwright.spec import PipelineSplit, Spec
from meshwright.spec.model import Mla, Moe

__all__ = ["layouts", "refused", "valid"]

MOE = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1)
MLA = Mla(kv_lora_rank=16, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32)


def refused(candidate: Spec) -> tuple[str, ...]:
    """The rules of ``refusals``, without the repairs that it tries: they take most of its time."""
    if value_problems(candidate, "megatron"):
        return tuple(problem.rule for problem in refusals(candidate, "megatron"))
    return tuple(rule.id for rule in broken(layout(normalise(candidate)), "megatron"))


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
