"""What the papers advise of a layout: which degree of parallelism goes where, and how far."""

from __future__ import annotations

from meshwright.layout.grid import Grid
from meshwright.rules._rule import Thumb
from meshwright.spec import Spec

__all__ = ["THUMBS"]


def _tp_within_node(spec: Spec, grid: Grid) -> str | None:
    fast = spec.cluster.nvlink_domain or grid.gpus_per_node
    return f"tp = {grid.tp} spans more than the {fast} GPUs joined by NVLink" if grid.tp > fast else None


def _expert_tp_within_node(spec: Spec, grid: Grid) -> str | None:
    fast = spec.cluster.nvlink_domain or grid.gpus_per_node
    return f"etp = {grid.etp} spans more than the {fast} GPUs joined by NVLink" if grid.etp > fast else None


def _gtp_within_domain(spec: Spec, grid: Grid) -> str | None:
    fast, group = spec.cluster.nvlink_domain or grid.gpus_per_node, grid.tp * grid.gtp
    return (
        f"tp·gtp = {grid.tp}·{grid.gtp} spans more than the {fast} GPUs joined by NVLink: weights are gathered outside"
        if grid.gtp > 1 and group > fast
        else None
    )


def _tp_aligned(spec: Spec, grid: Grid) -> str | None:
    torn = 1 < grid.tp <= grid.gpus_per_node and grid.gpus_per_node % grid.tp
    return (
        f"tp = {grid.tp} does not divide the {grid.gpus_per_node} GPUs of a node: groups cross nodes" if torn else None
    )


def _sp_with_tp(spec: Spec, grid: Grid) -> str | None:
    if grid.tp == 1 or spec.parallelism.sp or spec.backend.name == "deepspeed":  # which has no such thing
        return None
    return f"tp = {grid.tp} without sequence parallelism keeps {grid.tp} copies of norms' and dropouts' activations"


def _cp_on_demand(spec: Spec, grid: Grid) -> str | None:
    tokens = spec.training.sequence // max(1, grid.cp)
    return (
        f"cp = {grid.cp} leaves {tokens} tokens a rank; ring attention hides little below 4096"
        if (grid.cp > 1 and tokens < 4096)
        else None
    )


def _pp_across_nodes(spec: Spec, grid: Grid) -> str | None:
    apart = grid.pp > 1 and grid.world // grid.pp < grid.gpus_per_node and grid.world > grid.gpus_per_node
    return f"{grid.pp} stages share nodes; tensor parallelism uses NVLink better" if apart else None


def _dp_last(spec: Spec, grid: Grid) -> str | None:
    order = spec.parallelism.order
    inside = order.endswith("dp") and grid.pp > 1
    return f"{order} puts pipeline neighbours nearer than needed and dp outermost" if inside else None


def _bubble(spec: Spec, grid: Grid) -> str | None:
    batch = spec.training.global_batch or 0
    m = batch // max(1, spec.training.micro_batch * grid.data)
    share = (grid.pp - 1) / (m * spec.parallelism.vpp) if m else 0.0
    return (
        f"{m} micro-batches on pp = {grid.pp}, vpp = {spec.parallelism.vpp}: bubble {share:.0%} of the ideal step"
        if (grid.pp > 1 and share > 0.25)
        else None
    )


THUMBS: tuple[Thumb, ...] = (
    Thumb("tp-within-node", "parallelism.tp", _tp_within_node, "Narayanan et al. 2021, takeaway 1"),
    Thumb("etp-within-node", "parallelism.etp", _expert_tp_within_node, "Narayanan et al. 2021, takeaway 1"),
    Thumb(
        "gtp-within-domain",
        "parallelism.gtp",
        _gtp_within_domain,
        "Megatron-LM, generalized_tensor_parallel.md, section 1.7: dense weights' parts inside one NVLink domain",
    ),
    Thumb("tp-divides-node", "parallelism.tp", _tp_aligned, "Narayanan et al. 2021, takeaway 1"),
    Thumb("sp-with-tp", "parallelism.sp", _sp_with_tp, "Korthikanti et al. 2022, section 4.2.2"),
    Thumb("cp-on-demand", "parallelism.cp", _cp_on_demand, "Liu et al. 2023, Ring Attention, section 3; 4096 is ours"),
    Thumb("pp-across-nodes", "parallelism.pp", _pp_across_nodes, "Narayanan et al. 2021, takeaway 1"),
    Thumb("pp-last", "parallelism.order", _dp_last, "Llama 3, section 3.3.2: dp outermost, tp innermost"),
    Thumb(
        "bubble", "training.microbatches", _bubble, "Narayanan et al. 2021, section 2.2: (pp-1)/(m·vpp); 25 % is ours"
    ),
)
