"""What runs beside something else. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.rules._megatron_option import by_megatron_fsdp, off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies

__all__ = ["RULES"]


def _gathers_with_step(r: Layout) -> Number:
    p, options = r.spec.parallelism, options_of(r)
    asked = options.gather_with_step
    plain = options.checkpoint_format == "torch" and not options.quantization.reuse_gradient_buffer
    return implies(asked, (r.zero == 1) & (r.vpp > 1) & p.overlap_param_gather & p.overlap_grad_reduce & plain)


def _beside_dispatch(r: Layout) -> bool:
    return r.model.moe is not None and options_of(r).experts.wgrad_beside_dispatch


def _alone(r: Layout) -> bool:
    """Whether nothing else delays experts' weight gradients, in layers that can."""
    options = options_of(r)
    able = options.transformer == "transformer_engine" and options.moe_grouped_gemm
    return able and not (r.spec.parallelism.overlap_ep or options.delay_wgrad)


RULES: tuple[Rule, ...] = (
    option_rule(
        "delay_wgrad",
        "delay_wgrad",
        lambda r: (
            not options_of(r).delay_wgrad
            or (r.spec.parallelism.overlap_ep and options_of(r).transformer == "transformer_engine")
        ),
        "weight gradients wait for the all-to-all that overlap_ep hides, in Transformer Engine's layers",
        ":2770; training/arguments.py:1822",
        any_of(off("delay_wgrad"), change(parallelism__overlap_ep=True)),
    ),
    option_rule(
        "wgrad_beside_dispatch",
        "experts.wgrad_beside_dispatch",
        lambda r: implies(_beside_dispatch(r), _alone(r) & by_megatron_fsdp(r, 2)),
        "experts' weight gradients run beside the dispatch in Transformer Engine's grouped products, without "
        "overlap_ep and delay_wgrad, and Megatron-FSDP alone reduces them after it (zero = 2 or 3, it is {zero}, "
        "fsdp={backend.megatron.fsdp})",
        ":2759; core/transformer/moe/moe_layer.py:803, and core/distributed/distributed_data_parallel.py:365 waits for "
        "delay_wgrad's alone",
        any_of(
            off("experts.wgrad_beside_dispatch"),
            change(backend__megatron__experts__wgrad_beside_dispatch=False, parallelism__zero=1),
        ),
    ),
    option_rule(
        "early_release",
        "experts.early_release",
        lambda r: r.model.moe is None or not options_of(r).experts.early_release or r.spec.parallelism.overlap_ep,
        "attention's backward can come first where two micro-batches run side by side: overlap_ep is off",
        ":2772",
        any_of(off("experts.early_release"), change(parallelism__overlap_ep=True)),
    ),
    option_rule(
        "gather_with_step",
        "gather_with_step",
        _gathers_with_step,
        "gathering beside the step needs zero = 1, vpp > 1, overlap_param_gather, checkpoint_format=torch and no "
        "reused gradients' buffer; zero = {zero}, vpp = {vpp}, {backend.megatron.checkpoint_format}",
        "training/arguments.py:1032; core/optimizer/optimizer_config.py:424",
        any_of(off("gather_with_step"), off("checkpoint_format", "torch")),
    ),
)
