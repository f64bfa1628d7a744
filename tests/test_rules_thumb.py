"""Rules of thumb: each warns by its name where a plan goes against it, with the numbers, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import small_model, spec
from meshwright.loading import load
from meshwright.resolver import override, refusals, resolve
from meshwright.rules.thumb import THUMBS
from meshwright.spec import Logging, Spec
from meshwright.spec.model import Moe

WIDE = small_model(heads=32, kv_heads=32)
EXPERTS = small_model(heads=32, kv_heads=32, moe=Moe(experts=4, topk=2, ffn=256))
BIASED = small_model(moe=Moe(experts=4, topk=2, ffn=256, score="sigmoid", router_bias=True, capacity_factor=1.0))
SLURM = override(spec(small_model(), 16), "launch.kind", "slurm")

AGAINST: dict[str, tuple[Spec, str]] = {
    "muon-by-layers": (override(spec(small_model(), 8, zero=1), "training.optimizer.name", "muon"), "layer by layer"),
    "muon-clip": (
        override(
            override(spec(small_model(transformers="llama"), 8, zero=3), "training.optimizer.name", "muon"),
            "backend.name",
            "deepspeed",
        ),
        "DeepSpeed clips to 1 what Muon has made orthogonal",
    ),
    "bf16-optimizer": (
        override(spec(small_model(transformers="llama"), 8, zero=1), "backend.name", "deepspeed"),
        "6 bytes of gradients a parameter on each rank, all-reduced after the backward; bf16 takes 2, zero = 2 takes 4 "
        "over 8 ranks",
    ),
    "tp-within-node": (spec(WIDE, 16, tp=16, sp=True), "tp = 16 spans more than the 8 GPUs joined by NVLink"),
    "etp-within-node": (spec(EXPERTS, 16, etp=16), "etp = 16 spans more than the 8 GPUs joined by NVLink"),
    "gtp-within-domain": (spec(WIDE, 32, gtp=16, zero=1), "tp·gtp = 1·16 spans more than the 8 GPUs joined by NVLink"),
    "tp-divides-node": (
        spec(small_model(hidden=120, heads=6, kv_heads=6, head_dim=20, ffn=240), 24, tp=3, sequence=513, sp=True),
        "tp = 3 does not divide the 8 GPUs of a node",
    ),
    "sp-with-tp": (spec(small_model(), 8, tp=4), "tp = 4 without sequence parallelism"),
    "cp-on-demand": (spec(small_model(), 8, cp=2), "cp = 2 leaves 256 tokens a rank"),
    "pp-across-nodes": (spec(small_model(), 16, pp=4), "4 stages share nodes"),
    "pp-last": (spec(small_model(), 16, pp=2, order="tp-cp-ep-pp-dp"), "dp outermost"),
    "bubble": (spec(small_model(), 16, pp=4, global_batch=16), "4 micro-batches on pp = 4, vpp = 1: bubble 75%"),
    "save-interval": (SLURM, "a failure of one of 2 nodes loses every step"),
    "length": (spec(small_model(), 8), "neither they nor training.tokens are stated: Megatron trains 1,000"),
    "other-backend": (
        override(override(spec(small_model(), 8), "backend.deepspeed.hpz", 4), "backend.deepspeed.torch_adam", True),
        "backend.deepspeed.hpz, backend.deepspeed.torch_adam: megatron, which is launched, does not read this",
    ),
    "no-experts": (
        override(
            override(spec(small_model(), 8), "backend.megatron.experts.balanced", True),
            "backend.megatron.moe_router_fusion",
            True,
        ),
        "backend.megatron.moe_router_fusion, backend.megatron.experts.balanced: small has no experts",
    ),
    "padded-bias": (
        override(spec(BIASED, 8), "backend.megatron.experts.padded_to_capacity", True),
        "every expert counts as full, so that model.moe.router_bias never moves",
    ),
    "evaluation-interval": (
        override(override(SLURM, "training.steps", 10), "training.evaluation.interval", 100),
        "every 100 steps is never, in a run of 10",
    ),
    "keep-every": (
        override(SLURM, "training.logging", Logging(save_interval=4, keep_last=1, keep_every=6)),
        "one is saved every 4 steps: of the older ones those of every 12 stay, not of 6",
    ),
    "slurm-minutes": (override(SLURM, "launch.slurm.time", "24:00"), "24 minutes and 0 seconds to SLURM; hours are"),
    "sharp": (override(SLURM, "backend.megatron.groups.sharp", "dp"), "no --network=sharp, without which SLURM gives"),
    "segment": (
        override(override(spec(WIDE, 32, tp=16, sp=True), "cluster.nvlink_domain", 32), "launch.kind", "slurm"),
        "groups of 16 GPUs may be spread over NVLink domains of 32",
    ),
    "foreign-retention": (
        override(override(spec(small_model(), 8), "training.logging.keep_last", 2), "launch.entry", "pretrain_gpt.py"),
        "2 checkpoints are kept by our program alone; pretrain_gpt.py deletes none",
    ),
    "whole-nodes": (spec(small_model(), 12), "12 GPUs leave the last node with 4 of 8"),
}


@pytest.mark.parametrize("rule", AGAINST)
def test_it_warns_by_name_and_with_numbers(rule: str) -> None:
    base, said = AGAINST[rule]
    (warning,) = (w for w in resolve(base).warnings if w.rule == rule)
    assert said in warning.message


def test_every_rule_of_thumb_is_tried() -> None:
    assert {thumb.id for thumb in THUMBS} == set(AGAINST)


def test_a_layout_by_the_book_is_not_warned() -> None:
    described = override(spec(small_model(), 16, tp=2, sp=True, zero=1), "training.steps", 100)
    assert resolve(described).warnings == ()
    saving = override(override(SLURM, "training.steps", 1000), "training.logging.save_interval", 100)
    assert resolve(replace(saving, parallelism=replace(saving.parallelism, zero=1))).warnings == ()


@pytest.mark.parametrize("backend", ["megatron", "deepspeed"])
def test_no_advice_is_refused_by_the_backend_it_is_given_to(backend: str) -> None:
    """``sp-with-tp`` told DeepSpeed's users to set what DeepSpeed refuses."""
    told = load(["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "parallelism=zero1", "parallelism.tp=2"])
    spec = override(told.stages[0], "backend.name", backend)
    advised = {warning.path for warning in resolve(spec).warnings}
    assert ("parallelism.sp" in advised) is (backend == "megatron")
    assert bool(refusals(override(spec, "parallelism.sp", True), backend)) is (backend == "deepspeed")
