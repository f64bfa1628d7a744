"""The two grids, dense ``tp*gtp*cp*pp*dp`` and experts' ``etp*ep*egtp*edp*pp``, and the batch dealt out over them.

Places are files of megatron-core 0.19.2 (below ``megatron/``) and DeepSpeed 0.19.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import lcm

from meshwright.rules._repairs import any_of, change, near_batch, near_world, nearest
from meshwright.rules._rule import DEEPSPEED, EVERY, MEGATRON, Layout, Number, Rule, implies

__all__ = ["POSITIVE", "RULES"]

_COUNTS: dict[str, Callable[[Layout], Number]] = {
    "parallelism.tp": lambda r: r.tp,
    "parallelism.pp": lambda r: r.pp,
    "parallelism.vpp": lambda r: r.vpp,
    "parallelism.cp": lambda r: r.cp,
    "parallelism.ep": lambda r: r.ep,
    "parallelism.etp": lambda r: r.etp,
    "parallelism.gtp": lambda r: r.gtp,
    "parallelism.egtp": lambda r: r.egtp,
    "parallelism.dp": lambda r: r.dp,
    "parallelism.optimizer_instances": lambda r: r.spec.parallelism.optimizer_instances,
    "training.micro_batch": lambda r: r.micro_batch,
    "training.global_batch": lambda r: r.global_batch,
    "training.sequence": lambda r: r.training.sequence,
    "cluster.gpus_per_node": lambda r: r.cluster.gpus_per_node,
    "cluster.gpus": lambda r: r.world,
    "model.layers": lambda r: r.model.layers,
    "model.hidden": lambda r: r.model.hidden,
    "model.ffn": lambda r: r.model.ffn,
    "model.heads": lambda r: r.model.heads,
    "model.kv_heads": lambda r: r.model.kv_heads,
    "model.head_dim": lambda r: r.model.head_dim,
    "model.vocab": lambda r: r.model.vocab,
    "model.max_positions": lambda r: r.model.max_positions,
}


def _positive(path: str, read: Callable[[Layout], Number]) -> Rule:
    return Rule(
        id=f"positive.{path}",
        path=path,
        backends=EVERY,
        holds=lambda r: read(r) > 0,
        message=lambda r: f"{read(r)} is not a positive count",
        source="a degree, a size and a batch are counts",
        repairs=change(**{path.replace(".", "__"): 1}) if path.startswith("parallelism") else lambda _: (),
    )


POSITIVE: tuple[Rule, ...] = tuple(_positive(path, read) for path, read in _COUNTS.items())


def _model_degree(r: Layout) -> int:
    return int(r.tp * r.gtp * r.cp * r.pp)


def _expert_degree(r: Layout) -> int:
    return int(r.etp * r.ep * r.egtp * r.pp)


def _lcm_degree(r: Layout) -> int:
    return lcm(_model_degree(r), _expert_degree(r))


def _product(r: Layout, **more: Number) -> str:
    """Degrees as a product, for people; gtp where it is on."""
    gathered = {"gtp": r.gtp} if r.gtp > 1 else {}
    return _times({"tp": r.tp, **gathered, "cp": r.cp, "pp": r.pp, **more})


def _each(r: Layout, **more: Number) -> str:
    """What a batch is a multiple of, as a product."""
    gathered = {"gtp": r.gtp} if r.gtp > 1 else {}
    return _times({"micro_batch": r.micro_batch, **gathered, "dp": r.dp, **more})


def _times(factors: Mapping[str, Number]) -> str:
    return f"{'·'.join(factors)} = {'·'.join(str(n) for n in factors.values())}"


RULES: tuple[Rule, ...] = (
    Rule(
        id="grid.world",
        path="parallelism",
        backends=EVERY,
        holds=lambda r: r.world % (r.tp * r.gtp * r.cp * r.pp) == 0,
        message=lambda r: f"{_product(r)} does not divide the world of {r.world} GPUs",
        source="training/arguments.py:430, core/parallel_state.py:823",
        repairs=any_of(
            nearest("parallelism.pp", lambda r: r.pp),
            nearest("parallelism.tp", lambda r: r.tp, high=64),
            near_world(_lcm_degree),
        ),
    ),
    Rule(
        id="grid.dp",
        path="parallelism.dp",
        backends=EVERY,
        needs=("grid.world",),
        holds=lambda r: r.data * r.tp * r.cp * r.pp == r.world,
        message=lambda r: f"{_product(r, dp=r.dp)} is not the world of {r.world} GPUs",
        source="world = tp·gtp·cp·pp·dp",
        repairs=any_of(
            lambda r: ({"parallelism.dp": r.world // _model_degree(r)},),
            lambda r: ({"cluster.gpus": r.dp * _model_degree(r), "cluster.nodes": None},),
        ),
    ),
    Rule(
        id="grid.nodes",
        path="cluster.nodes",
        backends=EVERY,
        holds=lambda r: (r.cluster.nodes is None) | (-(-r.world // r.cluster.gpus_per_node) == r.cluster.nodes),
        message="{cluster.nodes} nodes of {cluster.gpus_per_node} GPUs do not make {world} GPUs",
        source="gpus = nodes·gpus_per_node, the last node perhaps in part",
        repairs=any_of(
            change(cluster__nodes=None),
            lambda r: ({"cluster.gpus": (r.cluster.nodes or 1) * r.cluster.gpus_per_node},),
        ),
    ),
    Rule(
        id="grid.dense_experts",
        path="parallelism.ep",
        backends=EVERY,
        holds=lambda r: implies((r.ep > 1) | (r.etp > 1) | (r.egtp > 1), r.model.moe is not None),
        message="ep = {ep}, etp = {etp}, egtp = {egtp}, but {model.name} has no experts to spread",
        source="training/arguments.py:1601",
        repairs=change(parallelism__ep=1, parallelism__etp=1, parallelism__egtp=1),
    ),
    Rule(
        id="grid.experts",
        path="parallelism.ep",
        backends=MEGATRON,
        needs=("grid.dense_experts",),
        holds=lambda r: r.world % (r.etp * r.ep * r.egtp * r.pp) == 0,
        message=lambda r: (
            f"ep·etp{'·egtp' * (r.egtp > 1)}·pp = {r.ep}·{r.etp}{f'·{r.egtp}' * (r.egtp > 1)}·{r.pp} "
            f"does not divide the world of {r.world} GPUs"
        ),
        source="core/parallel_state.py:882",
        repairs=any_of(
            nearest("parallelism.ep", lambda r: r.ep),
            nearest("parallelism.etp", lambda r: r.etp, high=64),
            near_world(_lcm_degree),
        ),
    ),
    Rule(
        id="grid.order",
        path="parallelism.order",
        backends=MEGATRON,
        needs=("grid.world", "grid.experts"),
        holds=lambda r: implies(
            (r.spec.parallelism.order == "tp-cp-ep-pp-dp") & (r.pp > 1),
            (r.etp if r.model.moe else r.tp) * r.ep * r.egtp == r.tp * r.gtp * r.cp,  # Megatron's own ETP is TP
        ),
        message="with {spec.parallelism.order} the dense and the expert data-parallel size must be equal, "
        "but etp·ep·egtp = {etp}·{ep}·{egtp} is not tp·gtp·cp = {tp}·{gtp}·{cp}",
        source="core/parallel_state.py:898",
        repairs=change(parallelism__order="tp-cp-ep-dp-pp"),
    ),
    Rule(
        id="grid.optimizer_instances",
        path="parallelism.optimizer_instances",
        backends=MEGATRON,
        needs=("grid.world", "grid.experts"),
        holds=lambda r: (r.dp * r.cp) % r.spec.parallelism.optimizer_instances == 0,
        message="{spec.parallelism.optimizer_instances} optimizer instances do not divide dp·cp = {dp}·{cp}",
        source="core/parallel_state.py:922",
        repairs=nearest("parallelism.optimizer_instances", lambda r: r.spec.parallelism.optimizer_instances),
    ),
    Rule(
        id="grid.expert_optimizer_instances",
        path="parallelism.optimizer_instances",
        backends=MEGATRON,
        needs=("grid.optimizer_instances",),
        holds=lambda r: (r.world // (r.etp * r.ep * r.egtp * r.pp)) % r.spec.parallelism.optimizer_instances == 0,
        message="{spec.parallelism.optimizer_instances} optimizer instances do not divide the expert data-parallel "
        "size {world}/({etp}·{ep}·{pp})",
        source="core/parallel_state.py:1447",
        repairs=nearest("parallelism.optimizer_instances", lambda r: r.spec.parallelism.optimizer_instances),
    ),
    Rule(
        id="grid.sharded_instances",
        path="parallelism.optimizer_instances",
        backends=MEGATRON,
        holds=lambda r: implies(r.spec.parallelism.optimizer_instances > 1, r.zero > 0),
        message="{spec.parallelism.optimizer_instances} instances of a sharded optimizer need zero >= 1, zero = {zero}",
        source="core/distributed/distributed_data_parallel.py:293",
        repairs=any_of(change(parallelism__optimizer_instances=1), change(parallelism__zero=1)),
    ),
    Rule(
        id="grid.unsupported_instances",
        path="parallelism.optimizer_instances",
        backends=DEEPSPEED,
        holds=lambda r: r.spec.parallelism.optimizer_instances == 1,
        message="DeepSpeed shards over all of dp; {spec.parallelism.optimizer_instances} instances are Megatron's",
        source="MiCS was removed: deepspeed/runtime/config.py:141",
        repairs=change(parallelism__optimizer_instances=1),
    ),
    Rule(
        id="batch.global",
        path="training.global_batch",
        backends=EVERY,
        needs=("grid.world", "grid.dp"),
        holds=lambda r: r.global_batch % (r.micro_batch * r.data) == 0,
        message=lambda r: f"{r.global_batch} sequences do not divide by {_each(r)}",
        source="core/num_microbatches_calculator.py:381, deepspeed/runtime/config.py:602",
        repairs=any_of(nearest("training.micro_batch", lambda r: r.micro_batch, high=64), near_batch),
    ),
    Rule(
        id="batch.microbatches",
        path="training.microbatches",
        backends=EVERY,
        needs=("batch.global",),
        holds=lambda r: (
            (r.training.microbatches is None) | (r.training.microbatches == r.global_batch // (r.micro_batch * r.data))
        ),
        message=lambda r: (
            f"{_each(r, microbatches=r.training.microbatches)} is not the global batch of {r.global_batch} sequences"
        ),
        source="global_batch = micro_batch·gtp·dp·microbatches",
        repairs=change(training__microbatches=None),
    ),
)
