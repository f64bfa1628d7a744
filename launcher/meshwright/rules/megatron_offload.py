"""Activations and the optimizer on the host. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.rules._megatron_option import off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies
from meshwright.spec.techniques import ActivationOffload

__all__ = ["OFFLOADED", "RULES"]

_OF_EXPERTS = frozenset({"expert_fc1", "moe_act", "fused_group_mlp"})
OFFLOADED = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", *sorted(_OF_EXPERTS))
"""Modules whose inputs can wait on the host: core/transformer/transformer_config.py:1852."""


def _stays(r: Layout) -> Iterable[Repair]:
    yield {f"backend.megatron.activation_offload.{name}": value for name, value in (("modules", ()), ("layers", 0))}


_RECOMPUTES_NOTHING = change(
    parallelism__recompute="none",
    parallelism__recompute_method=None,
    parallelism__recompute_layers=None,
    parallelism__recompute_modules=None,
)


def _modules_offload(r: Layout) -> Number:
    options = options_of(r)
    modules = set(options.activation_offload.modules)
    if not modules:
        return True
    inside = modules & _OF_EXPERTS
    covered = (r.recompute == 1) & ("moe" in (r.spec.parallelism.recompute_modules or ()))
    whole = "attn_proj" not in modules or "core_attn" in modules
    fused = "fused_group_mlp" not in modules or (options.op_fuser and inside == {"fused_group_mlp"})
    known = modules <= set(OFFLOADED) and (r.model.moe is not None or not inside)
    kernels = options.transformer == "transformer_engine" and not (inside and options.moe_paged_stash)
    return (known and whole and fused and kernels) & implies(bool(inside), covered == 0)


def _is_kept(r: Layout) -> Number:
    """Whether a forward pass keeps what named modules read: attention that is repeated hands it to none of them."""
    modules, repeated = options_of(r).activation_offload.modules, r.spec.parallelism.recompute_modules or ("core_attn",)
    within = (r.recompute == 1) & ("core_attn" in modules and "core_attn" in repeated)
    return not modules or (r.recompute != 2) & (within == 0)


def _offload_in_graphs(r: Layout) -> bool:
    offload, graphs = options_of(r).activation_offload, options_of(r).cuda_graphs
    if not offload.modules or graphs.kind == "none":
        return True
    if "moe" in graphs.modules:
        return False
    if graphs.kind == "local":
        return set(offload.modules) <= _OF_EXPERTS and bool(graphs.modules)
    return graphs.kind == "transformer_engine" or offload.inflight is not None


_OF_MODULES = {"fraction": 1.0, "min_elements": ActivationOffload().min_elements, "inflight": None}


def _parts_are_of_modules(r: Layout) -> bool:
    offload = options_of(r).activation_offload
    return bool(offload.modules) or all(getattr(offload, name) == value for name, value in _OF_MODULES.items())


def _warms_up(r: Layout) -> bool:
    graphs = options_of(r).cuda_graphs
    if graphs.kind == "none":
        return graphs.warmup == 3
    return graphs.warmup > 0 or not options_of(r).activation_offload.modules


def _delayed_by_graphs(r: Layout) -> bool:
    offload = options_of(r).activation_offload
    return not offload.delayed or (bool(offload.modules) and options_of(r).cuda_graphs.kind == "transformer_engine")


def _layers_offload(r: Layout) -> Number:
    options = options_of(r)
    layers = options.activation_offload.layers
    alone = not options.activation_offload.modules and not options.moe_paged_stash
    graphs = options.cuda_graphs.kind in ("none", "full_iteration")
    return (layers == 0) | ((0 < layers < r.model.layers) & (r.pp == 1) & (r.recompute == 0) & alone & graphs)


def _host_optimizer(r: Layout) -> Number:
    """Only delayed scaling keeps 8-bit weights beside an optimizer on the host."""
    options = options_of(r)
    eight = options.quantization.param_gather and r.training.precision != "fp8_delayed"
    wanted = options.precision_aware_optimizer and r.training.optimizer.name == "adamw" and not eight
    return (options.optimizer_offload.fraction == 0) | (wanted & (r.zero == 1))


RULES: tuple[Rule, ...] = (
    option_rule(
        "offload_modules",
        "activation_offload.modules",
        _modules_offload,
        f"of {', '.join(OFFLOADED)}; attn_proj with core_attn, experts' where there are experts that recompute=moe and "
        "moe_paged_stash do not cover, fused_group_mlp alone with op_fuser; by transformer=transformer_engine",
        ":1848-1900, :1912; training/arguments.py:1854",
        _stays,
    ),
    option_rule(
        "offload_recomputed",
        "activation_offload.modules",
        _is_kept,
        "{backend.megatron.activation_offload.modules} with recompute={spec.parallelism.recompute}: of whole layers "
        "and of core_attn, where they are computed again, no module keeps what it reads",
        "core/transformer/attention.py:1544; core/tensor_parallel/random.py:685: no hook sees what is kept without "
        "gradients; ours: it would be lost",
        any_of(_stays, _RECOMPUTES_NOTHING),
    ),
    option_rule(
        "offload_graphs",
        "activation_offload.modules",
        _offload_in_graphs,
        "with cuda_graphs.kind={backend.megatron.cuda_graphs.kind}: local graphs go with experts' modules and parts of "
        "layers, none with moe in a graph, full_iteration wants activation_offload.inflight",
        ":2596-2645",
        any_of(_stays, off("cuda_graphs.kind", "transformer_engine"), off("activation_offload.inflight", 1)),
    ),
    option_rule(
        "offload_part",
        "activation_offload.fraction",
        _parts_are_of_modules,
        "fraction={backend.megatron.activation_offload.fraction}, "
        "min_elements={backend.megatron.activation_offload.min_elements} and "
        "inflight={backend.megatron.activation_offload.inflight} are of modules, and none is named",
        "ours: they would be lost",
        change(**{f"backend__megatron__activation_offload__{name}": value for name, value in _OF_MODULES.items()}),
    ),
    option_rule(
        "offload_delayed",
        "activation_offload.delayed",
        _delayed_by_graphs,
        "copies of modules wait for a graph of a layer (cuda_graphs.kind=transformer_engine, it is "
        "{backend.megatron.cuda_graphs.kind})",
        "core/transformer/transformer_layer.py:1233; ours: it would be lost",
        off("activation_offload.delayed"),
    ),
    option_rule(
        "graphs_warmup",
        "cuda_graphs.warmup",
        _warms_up,
        "graphs (cuda_graphs.kind, it is {backend.megatron.cuda_graphs.kind}) are captured after these steps, of which "
        "activation_offload.modules want one",
        ":2630; core/transformer/transformer_layer.py:1511; without graphs ours: it would be lost",
        off("cuda_graphs.warmup", 3),
    ),
    option_rule(
        "offload_layers",
        "activation_offload.layers",
        _layers_offload,
        "{backend.megatron.activation_offload.layers} of {model.layers} layers are offloaded without a pipeline (pp = "
        "{pp}), recomputation, modules, pages and graphs of layers",
        ":1707, :1714, :1719, :1849, :1905, :2467",
        _stays,
    ),
    option_rule(
        "host_optimizer",
        "optimizer_offload.fraction",
        _host_optimizer,
        "the host steps the precision-aware distributed AdamW, and 8-bit weights with delayed scaling only: "
        "precision_aware_optimizer = {backend.megatron.precision_aware_optimizer}, zero = {zero}, "
        "{training.optimizer.name} in {training.precision}",
        "training/arguments.py:1803-1811; core/optimizer/optimizer_config.py:434",
        any_of(
            change(
                backend__megatron__optimizer_offload__fraction=0.0, backend__megatron__optimizer_offload__overlap=False
            ),
            off("precision_aware_optimizer", True),
        ),
    ),
    option_rule(
        "offload_overlap",
        "optimizer_offload.overlap",
        lambda r: not options_of(r).optimizer_offload.overlap or options_of(r).optimizer_offload.fraction > 0,
        "nothing of the optimizer is on the host",
        "ours: it would be lost",
        off("optimizer_offload.overlap"),
    ),
)
