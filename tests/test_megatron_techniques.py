"""What the fastest runs switch on: emitted, read back, and refused where Megatron's own checks refuse it."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.emit.megatron import environment, flags
from meshwright.resolver import refusals, resolve
from meshwright.rules.megatron_graphs import RULES as GRAPHS
from meshwright.rules.megatron_techniques import RULES
from meshwright.verify.pool import Crash, fork_map
from techniques_refused import BROKEN, OURS
from techniques_taken import FED, GOOD, MXFP8, B, P, described


@pytest.fixture(scope="module")
def verify() -> Any:
    pytest.importorskip("megatron.core")
    from meshwright.verify import megatron as module

    module.warm()
    return module


def test_megatron_takes_every_technique_as_it_is_emitted(verify: Any) -> None:
    plans = [resolve(described(changes)) for changes in GOOD.values()]
    found = fork_map(verify.check, [(name, plan) for plan in plans for name in verify.CHECKS])
    assert [one for one in found if isinstance(one, Crash) or not one.passed] == []


TP_OVERLAP = {"tp_overlap", "tp_overlap_products", "module_names", "module_precision"}
"""Rules whose layouts are tables, in test_user_buffers."""


def test_every_rule_is_broken_by_a_layout() -> None:
    assert {f"megatron.{part}" for part in (*BROKEN, *TP_OVERLAP)} == {rule.id for rule in (*RULES, *GRAPHS)}


@pytest.mark.parametrize("part", BROKEN)
def test_a_technique_that_cannot_run_is_refused_with_a_repair(part: str) -> None:
    found = {problem.rule: problem for problem in refusals(described(BROKEN[part]), "megatron")}
    assert set(found) == {f"megatron.{part}"}
    assert found[f"megatron.{part}"].repairs


def test_megatron_refuses_what_the_rules_refuse(verify: Any) -> None:
    from test_megatron_agreement import megatrons_word, unchecked

    parts = [part for part in BROKEN if part not in OURS]
    words = fork_map(megatrons_word, [unchecked(described(BROKEN[part])) for part in parts])
    assert [part for part, word in zip(parts, words, strict=True) if word is None] == []


def test_flags_of_a_recipe() -> None:
    line = " ".join(flags(resolve(described({**GOOD["HybridEP"], **GOOD["graphs of parts of layers"], **MXFP8}))))
    assert "--moe-flex-dispatcher-backend hybridep --moe-flex-dispatcher-num-sms 16 --moe-router-fusion" in line
    assert (
        "--cuda-graph-impl transformer_engine --cuda-graph-modules attn moe_router moe_preprocess --te-rng-tr" in line
    )
    assert "--fp8-recipe mxfp8" in line
    assert "--fp8-param-gather" in line


def test_what_a_technique_wants_of_the_environment_has_a_reason() -> None:
    changes = {**GOOD["HybridEP"], **GOOD["activations on the host"], **GOOD["graphs of parts of layers"]}
    rack = {"cluster.nvlink_domain": 72, "cluster.gpus_per_node": 4, P + "ep": 8}
    found = environment(resolve(described({**changes, **rack})))
    assert {name: one.value for name, one in found.items()} == {
        "NVTE_CPU_OFFLOAD_V1": "1",
        "NCCL_GRAPH_REGISTER": "0",
        "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN": "8",
        "NVLINK_DOMAIN_SIZE": "72",
        "USE_MNNVL": "1",
    }
    assert all(one.why for one in found.values())


def test_a_fused_mixture_in_a_captured_step_gets_the_variables_that_it_reads() -> None:
    """Without them Megatron leaves experts unfused (core/transformer/moe/experts.py:398)."""
    plan = resolve(described(GOOD["graphs of an iteration"]))
    found = {name: one.value for name, one in environment(plan).items()}
    assert found["NVTE_CUTEDSL_FUSED_GROUPED_MLP"] == "1"
    assert found["TORCH_NCCL_AVOID_RECORD_STREAMS"] == "0"
    assert (found["NVLINK_DOMAIN_SIZE"], found["USE_MNNVL"]) == ("8", "0")


def test_two_micro_batches_side_by_side_get_queues_of_their_own() -> None:
    found = environment(resolve(described(GOOD["hidden all-to-all"])))
    assert found["CUDA_DEVICE_MAX_CONNECTIONS"].value == "32"


def test_pages_that_nothing_sizes_are_left_out_with_their_sizes() -> None:
    (problem,) = refusals(described({B + "moe_paged_stash": True, FED + "stash_host": 0.5}), "megatron")
    assert problem.rule == "megatron.paged_stash"
    assert problem.repairs == ({B + "moe_paged_stash": False, FED + "stash_gpu": 1.1, FED + "stash_host": 0.0},)
