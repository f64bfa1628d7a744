"""Groups that should stay in an NVLink domain of several nodes, and the blocks of nodes that SLURM hands out."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.rules._rule import EVERY, Layout, Number, Rule, implies

__all__ = ["RULES"]


def _block(r: Layout) -> int:
    """GPUs of one segment; 0 where there is none, or a domain is a node."""
    domain, segment = r.cluster.nvlink_domain, r.spec.launch.slurm.segment
    asked = r.spec.launch.kind == "slurm" and segment is not None and (domain or 0) > r.cluster.gpus_per_node
    return segment * r.cluster.gpus_per_node if asked and segment is not None else 0


def _domain(r: Layout) -> int:
    return r.cluster.nvlink_domain or r.cluster.gpus_per_node


def _whole(r: Layout, group: Number) -> Number:
    """A group that fits in a domain does not straddle two segments; one that does not crosses domains anyhow."""
    block = _block(r)
    return implies((block > 0) & (group <= _domain(r)), block % group == 0)


def _fitting(r: Layout) -> Iterable[Repair]:
    """Segments in nodes that hold whole groups, the largest of a domain first."""
    most = _domain(r) // r.cluster.gpus_per_node
    yield from ({"launch.slurm.segment": nodes} for nodes in range(most, 0, -1))
    yield {"launch.slurm.segment": None}


RULES: tuple[Rule, ...] = (
    Rule(
        id="placement.segment",
        path="launch.slurm.segment",
        backends=EVERY,
        holds=lambda r: _block(r) <= _domain(r),
        message="{spec.launch.slurm.segment} nodes of {cluster.gpus_per_node} GPUs are more than the "
        "{cluster.nvlink_domain} that NVLink joins: no such block can be handed out",
        source="SLURM topology/block: a segment lies in one block; a block is an NVLink domain",
        repairs=_fitting,
    ),
    Rule(
        id="placement.groups",
        path="launch.slurm.segment",
        backends=EVERY,
        needs=("placement.segment",),
        holds=lambda r: _whole(r, r.ep * r.etp) & _whole(r, r.tp * r.gtp),
        message="segments of {spec.launch.slurm.segment} nodes of {cluster.gpus_per_node} GPUs cut through groups of "
        "tp·gtp = {tp}·{gtp} or ep·etp = {ep}·{etp}, which would leave NVLink",
        source="ranks are numbered tp-gtp-cp-ep-dp-pp, node by node",
        repairs=_fitting,
    ),
)
