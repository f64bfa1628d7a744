"""Megatron's process groups of one rank, created alone, and held against those of our grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.emit.megatron_groups import LINKS
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.plan import Plan

__all__ = ["only_own_groups", "unlike", "without_links"]


def only_own_groups() -> None:
    """Megatron enumerates and creates every group of the world on every rank: enumerate once, create our own."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    create = parallel_state.create_group

    def own(ranks: Any = None, *arguments: Any, **options: Any) -> Any:
        if ranks is not None and dist.get_rank() not in ranks:
            return dist.GroupMember.NON_GROUP_MEMBER
        return create(ranks, *arguments, **options)

    parallel_state.create_group = own
    enumerate_ranks = parallel_state.RankGenerator.get_ranks

    seen: dict[tuple[str, str], Any] = {}

    def get_ranks(self: Any, token: str) -> Any:
        key = (f"{self.order} {self.name_to_size}", token)
        if key not in seen:
            seen[key] = enumerate_ranks(self, token)
        return seen[key]

    parallel_state.RankGenerator.get_ranks = get_ranks


def without_links(plan: Plan) -> dict[str, Any]:
    """What ``initialize_model_parallel`` takes where nothing is sent: NCCL's options need a GPU and its links."""
    return {name: value for name, value in kwargs(plan)["initialize_model_parallel"].items() if name not in LINKS}


def unlike(plan: Plan, rank: int) -> Iterator[str]:
    """A line for each of this rank's groups that Megatron makes of other ranks than our grid."""
    import torch.distributed as dist

    for name, (group, ours) in (_dense(plan, rank) | _expert(plan, rank)).items():
        theirs = sorted(dist.get_process_group_ranks(group))
        if theirs != ours:
            yield f"rank {rank}'s {name} group is {theirs[:4]}..., ours {ours[:4]}..."


Both = dict[str, tuple[Any, list[int]]]  # a group of Megatron's, and the ranks of ours


def _dense(plan: Plan, rank: int) -> Both:
    from megatron.core import parallel_state as ps

    of, data = plan.grid.dense, ps.get_data_parallel_group
    both = {
        "tp": (ps.get_tensor_model_parallel_group(), of.group(rank, "tp")),
        "cp": (ps.get_context_parallel_group(), of.group(rank, "cp")),
        "pp": (ps.get_pipeline_model_parallel_group(), of.group(rank, "pp")),
        "dp": (data(with_gtp_remat=False), of.group(rank, "dp")),
        "dp-cp": (data(with_context_parallel=True, with_gtp_remat=False), of.group(rank, "dp", "cp")),
    }
    if plan.grid.gtp > 1:
        both["gtp"] = (ps.get_gtp_weight_remat_group(), of.group(rank, "gtp"))
        both["gtp-dp"] = (data(), of.group(rank, "gtp", "dp"))
    return both


def _expert(plan: Plan, rank: int) -> Both:
    from megatron.core import parallel_state as ps

    of, both = plan.grid.expert, {}
    if plan.spec.model.moe:
        both = {
            "etp": (ps.get_expert_tensor_parallel_group(), of.group(rank, "etp")),
            "ep": (ps.get_expert_model_parallel_group(), of.group(rank, "ep")),
            "edp": (ps.get_expert_data_parallel_group(with_gtp_remat=False), of.group(rank, "edp")),
        }
    if plan.grid.egtp > 1:
        both["egtp"] = (ps.get_expert_gtp_weight_remat_group(), of.group(rank, "egtp"))
    return both
