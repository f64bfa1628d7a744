"""NVLink domains of several nodes: groups stay in one, SLURM is asked for it, and leaving says what it costs."""

from __future__ import annotations

import pytest

from meshwright.cost import cost
from meshwright.errors import ConfigError
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import resolve

RACK = (
    "model=deepseek_v3",
    "cluster=gb200_nvl72",
    "cluster.gpus=256",
    "training.sequence=4096",
    "training.global_batch=2048",
    "parallelism=zero1",
    "parallelism.pp=4",
    "parallelism.vpp=4",
    "parallelism.ep=64",
    "parallelism.pipeline_split.layout='Et*4|(t*4|)*14tmL'",
    "launch=slurm",
)


def planned(*words: str) -> Plan:
    return resolve(load([*RACK, *words]).stages[0])


def test_whole_groups_in_a_segment() -> None:
    plan = planned("launch.slurm.segment=16")
    assert not [caution for caution in plan.warnings if caution.rule == "segment"]


@pytest.mark.parametrize(
    ("nodes", "said"), [(18, "cut through groups"), (8, "cut through groups"), (20, "no such block")]
)
def test_a_segment_that_cuts_groups_is_refused_and_sixteen_nodes_proposed(nodes: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        planned(f"launch.slurm.segment={nodes}")
    assert {"launch.slurm.segment": 16} in refused.value.problems[0].repairs


def test_without_a_segment_slurm_may_scatter_a_group() -> None:
    (said,) = (caution for caution in planned().warnings if caution.rule == "segment")
    assert "16 nodes hold whole ones" in said.message


def test_what_it_costs_to_leave_nvlink_is_said() -> None:
    hopper = ("cluster=dgx_h100", "launch=local")
    notes = cost(planned(*hopper)).notes
    assert any(note.startswith("ep·etp = 64 leaves the 8 GPUs that NVLink joins, which costs") for note in notes)
    assert not any("leaves the" in note for note in cost(planned("launch=local")).notes)
