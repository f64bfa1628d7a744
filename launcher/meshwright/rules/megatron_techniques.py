"""Dispatchers, quantized weights, offload, overlaps. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshwright.errors import Repair
from meshwright.rules._repairs import Proposals, any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule, implies
from meshwright.rules.megatron_graphs import RULES as GRAPHS
from meshwright.spec import MegatronOptions

__all__ = ["OFFLOADED", "RULES"]

_OF_EXPERTS = frozenset({"expert_fc1", "moe_act", "fused_group_mlp"})
OFFLOADED = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", *sorted(_OF_EXPERTS))
"""Modules whose inputs can wait on the host: core/transformer/transformer_config.py:1852."""

_CONFIG = "core/transformer/transformer_config.py"
_FP8 = ("fp8_delayed", "fp8_tensorwise", "fp8_blockwise", "mxfp8")


def _options(r: Layout) -> MegatronOptions:
    return r.backend.megatron


def _rule(
    part: str, path: str, holds: Callable[[Layout], Number], message: str, source: str, repairs: Proposals
) -> Rule:
    return Rule(
        id=f"megatron.{part}",
        path=f"backend.megatron.{path}",
        backends=MEGATRON,
        holds=holds,
        message=message,
        source=f"{_CONFIG}{source}" if source[0] == ":" else source,
        repairs=repairs,
    )


def _off(path: str, value: object = False) -> Proposals:
    return lambda _: ({f"backend.megatron.{path}": value},)


def _flex(r: Layout) -> bool:
    return r.model.moe is not None and _options(r).moe_dispatcher == "flex"


def _backend(r: Layout) -> str | None:
    return _options(r).moe_flex_backend if _flex(r) else None


def _shared_beside(r: Layout) -> Number:
    moe, options = r.model.moe, _options(r)
    if not options.moe_shared_expert_overlap or moe is None:
        return True
    again = (r.recompute == 1) & ("shared_experts" in (r.spec.parallelism.recompute_modules or ()))
    possible = moe.shared_ffn > 0 and options.moe_dispatcher != "allgather" and not r.spec.parallelism.overlap_ep
    return possible & (again == 0)


def _static(r: Layout) -> bool:
    options = _options(r)
    return (
        options.moe_rank_capacity is None
        or r.model.moe is None
        or (options.op_fuser and _backend(r) in ("hybridep", "ncclep"))
    )


_EXPERTS = (
    _rule(
        "flex_backend",
        "moe_flex_backend",
        lambda r: r.model.moe is None or _flex(r) or _options(r).moe_flex_backend == "deepep",
        "moe_dispatcher=flex alone calls {backend.megatron.moe_flex_backend}, not {backend.megatron.moe_dispatcher}",
        ":1609; for hybridep ours: it would be lost",
        any_of(_off("moe_dispatcher", "flex"), _off("moe_flex_backend", "deepep")),
    ),
    _rule(
        "flex_sms",
        "moe_flex_sms",
        lambda r: r.model.moe is None or _flex(r) or _options(r).moe_flex_sms is None,
        "only moe_dispatcher=flex takes a number of multiprocessors",
        "ours: it would be lost",
        any_of(_off("moe_flex_sms", None), _off("moe_dispatcher", "flex")),
    ),
    _rule(
        "ncclep",
        "moe_flex_backend",
        lambda r: _backend(r) != "ncclep" or _options(r).moe_rank_capacity is not None,
        "NCCL EP sizes its buffers by moe_rank_capacity, which is not set",
        "core/transformer/moe/token_dispatcher.py:1564",
        any_of(_off("moe_flex_backend", "hybridep"), _off("moe_flex_backend", "deepep")),
    ),
    _rule(
        "router_fusion",
        "moe_router_fusion",
        lambda r: (
            r.model.moe is None or not _options(r).moe_router_fusion or _options(r).transformer == "transformer_engine"
        ),
        "the fused router is Transformer Engine's",
        "core/transformer/moe/moe_utils.py:780",
        any_of(_off("moe_router_fusion"), _off("transformer", "transformer_engine")),
    ),
    _rule(
        "shared_overlap",
        "moe_shared_expert_overlap",
        _shared_beside,
        "shared experts run beside the dispatch where there are any, with alltoall or flex, without overlap_ep, and "
        "not recomputed",
        ":1644, :1812, :2706",
        any_of(_off("moe_shared_expert_overlap"), change(parallelism__overlap_ep=False)),
    ),
    _rule(
        "rank_capacity",
        "moe_rank_capacity",
        _static,
        "static shapes need moe_dispatcher=flex with hybridep or ncclep, and op_fuser=true",
        ":1692",
        any_of(
            _off("moe_rank_capacity", None),
            change(
                backend__megatron__moe_dispatcher="flex",
                backend__megatron__moe_flex_backend="hybridep",
                backend__megatron__op_fuser=True,
            ),
        ),
    ),
    _rule(
        "paged_stash",
        "moe_paged_stash",
        lambda r: r.model.moe is None or not _options(r).moe_paged_stash or _options(r).moe_rank_capacity is not None,
        "pages are sized by moe_rank_capacity, which is not set",
        ":1907",
        _off("moe_paged_stash"),
    ),
    _rule(
        "op_fuser",
        "op_fuser",
        lambda r: not _options(r).op_fuser or _options(r).transformer == "transformer_engine",
        "operations are Transformer Engine's",
        "core/extensions/transformer_engine.py",
        any_of(_off("op_fuser"), _off("transformer", "transformer_engine")),
    ),
)


def _gathered(r: Layout) -> Number:
    quantized = _options(r).quantization.param_gather
    torch = (r.zero >= 2) & (_options(r).fsdp == "torch")
    return implies(quantized, (r.training.precision in (*_FP8, "nvfp4")) & (r.zero >= 1) & (torch == 0))


def _bf16_layers_fit(r: Layout) -> Number:
    details = _options(r).quantization
    most = max(details.first_layers_bf16, details.last_layers_bf16)
    return (most == 0) | (
        (r.training.precision in (*_FP8[1:], "nvfp4"))
        & (most <= r.model.layers // r.pp)
        & (min(details.first_layers_bf16, details.last_layers_bf16) >= 0)
    )


_QUANTIZATION = (
    _rule(
        "param_gather",
        "quantization.param_gather",
        _gathered,
        "weights are gathered in 8 or 4 bits with such a precision ({training.precision}), zero >= 1 (zero = {zero}), "
        "and not by torch's FSDP2",
        "training/arguments.py:1060, :1017; core/transformer/transformer_config.py:1433",
        any_of(_off("quantization.param_gather"), change(parallelism__zero=1)),
    ),
    _rule(
        "reuse_gradient_buffer",
        "quantization.reuse_gradient_buffer",
        lambda r: implies(
            _options(r).quantization.reuse_gradient_buffer,
            (r.training.precision == "mxfp8") & _options(r).quantization.param_gather & (r.zero < 2),
        ),
        "the gradients' buffer is reused for mxfp8 weights that are gathered so (param_gather), zero < 2; "
        "precision = {training.precision}, zero = {zero}",
        "core/distributed/distributed_data_parallel_config.py:253; training/arguments.py:1114",
        any_of(_off("quantization.reuse_gradient_buffer"), _off("quantization.param_gather", True)),
    ),
    _rule(
        "bf16_layers",
        "quantization.first_layers_bf16",
        _bf16_layers_fit,
        "layers stay in bf16 with a precision below, but for delayed scaling ({training.precision}), and on one stage: "
        "{model.layers} layers over pp = {pp}",
        ":1397-1431",
        change(
            backend__megatron__quantization__first_layers_bf16=0, backend__megatron__quantization__last_layers_bf16=0
        ),
    ),
    _rule(
        "output_projection",
        "quantization.output_projection",
        lambda r: not _options(r).quantization.output_projection or r.training.precision == "mxfp8",
        "the head is quantized with mxfp8 alone, not {training.precision}",
        ":1436",
        _off("quantization.output_projection"),
    ),
)


def _stays(r: Layout) -> Iterable[Repair]:
    yield {f"backend.megatron.activation_offload.{name}": value for name, value in (("modules", ()), ("layers", 0))}


def _modules_offload(r: Layout) -> Number:
    options = _options(r)
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


def _offload_in_graphs(r: Layout) -> bool:
    offload, graphs = _options(r).activation_offload, _options(r).cuda_graphs
    if not offload.modules or graphs.kind == "none":
        return True
    if graphs.kind == "local":
        return set(offload.modules) <= _OF_EXPERTS and bool(graphs.modules)
    return graphs.kind == "transformer_engine" or offload.inflight is not None


def _layers_offload(r: Layout) -> Number:
    options = _options(r)
    layers = options.activation_offload.layers
    alone = not options.activation_offload.modules and not options.moe_paged_stash
    graphs = options.cuda_graphs.kind in ("none", "full_iteration")
    return (layers == 0) | ((0 < layers < r.model.layers) & (r.pp == 1) & (r.recompute == 0) & alone & graphs)


def _host_optimizer(r: Layout) -> Number:
    """Only delayed scaling keeps 8-bit weights beside an optimizer on the host."""
    options = _options(r)
    eight = options.quantization.param_gather and r.training.precision != "fp8_delayed"
    wanted = options.precision_aware_optimizer and r.training.optimizer.name == "adamw" and not eight
    return (options.optimizer_offload.fraction == 0) | (wanted & (r.zero == 1))


_OFFLOAD = (
    _rule(
        "offload_modules",
        "activation_offload.modules",
        _modules_offload,
        f"of {', '.join(OFFLOADED)}; attn_proj with core_attn, experts' where there are experts that recompute=moe and "
        "moe_paged_stash do not cover, fused_group_mlp alone with op_fuser; by transformer=transformer_engine",
        ":1848-1900, :1912; training/arguments.py:1854",
        _stays,
    ),
    _rule(
        "offload_graphs",
        "activation_offload.modules",
        _offload_in_graphs,
        "with cuda_graphs.kind={backend.megatron.cuda_graphs.kind}: local graphs go with experts' modules and parts of "
        "layers, full_iteration wants activation_offload.inflight",
        ":2596-2645",
        any_of(_stays, _off("cuda_graphs.kind", "transformer_engine"), _off("activation_offload.inflight", 1)),
    ),
    _rule(
        "offload_part",
        "activation_offload.fraction",
        lambda r: (
            bool(_options(r).activation_offload.modules)
            or (_options(r).activation_offload.fraction == 1 and _options(r).activation_offload.inflight is None)
        ),
        "fraction and inflight are of modules, and none is named",
        "ours: they would be lost",
        change(
            backend__megatron__activation_offload__fraction=1.0, backend__megatron__activation_offload__inflight=None
        ),
    ),
    _rule(
        "offload_layers",
        "activation_offload.layers",
        _layers_offload,
        "{backend.megatron.activation_offload.layers} of {model.layers} layers are offloaded without a pipeline (pp = "
        "{pp}), recomputation, modules, pages and graphs of layers",
        ":1707, :1714, :1719, :1849, :1905, :2467",
        _stays,
    ),
    _rule(
        "host_optimizer",
        "optimizer_offload.fraction",
        _host_optimizer,
        "the host steps the precision-aware distributed AdamW (precision_aware_optimizer=true, zero = 1, not {zero}), "
        "and 8-bit weights with delayed scaling only",
        "training/arguments.py:1803-1811; core/optimizer/optimizer_config.py:434",
        any_of(
            change(
                backend__megatron__optimizer_offload__fraction=0.0, backend__megatron__optimizer_offload__overlap=False
            ),
            _off("precision_aware_optimizer", True),
        ),
    ),
    _rule(
        "offload_overlap",
        "optimizer_offload.overlap",
        lambda r: not _options(r).optimizer_offload.overlap or _options(r).optimizer_offload.fraction > 0,
        "nothing of the optimizer is on the host",
        "ours: it would be lost",
        _off("optimizer_offload.overlap"),
    ),
)


def _gathers_with_step(r: Layout) -> Number:
    p, options = r.spec.parallelism, _options(r)
    asked = options.gather_with_step
    plain = options.checkpoint_format == "torch" and not options.quantization.reuse_gradient_buffer
    return implies(asked, (r.zero == 1) & (r.vpp > 1) & p.overlap_param_gather & p.overlap_grad_reduce & plain)


_OVERLAP = (
    _rule(
        "delay_wgrad",
        "delay_wgrad",
        lambda r: (
            not _options(r).delay_wgrad
            or (r.spec.parallelism.overlap_ep and _options(r).transformer == "transformer_engine")
        ),
        "weight gradients wait for the all-to-all that overlap_ep hides, in Transformer Engine's layers",
        ":2770; training/arguments.py:1822",
        any_of(_off("delay_wgrad"), change(parallelism__overlap_ep=True)),
    ),
    _rule(
        "gather_with_step",
        "gather_with_step",
        _gathers_with_step,
        "gathering beside the step needs zero = 1, vpp > 1, overlap_param_gather, checkpoint_format=torch and no "
        "reused gradients' buffer; zero = {zero}, vpp = {vpp}, {backend.megatron.checkpoint_format}",
        "training/arguments.py:1032; core/optimizer/optimizer_config.py:424",
        any_of(_off("gather_with_step"), _off("checkpoint_format", "torch")),
    ),
)

RULES: tuple[Rule, ...] = _EXPERTS + _QUANTIZATION + _OFFLOAD + _OVERLAP + GRAPHS
