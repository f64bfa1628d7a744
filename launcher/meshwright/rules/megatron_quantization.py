"""Products in 8 and 4 bits in detail. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.rules._megatron_option import off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies
from meshwright.spec.training import FP8_RECIPES

__all__ = ["RULES"]


def _gathered(r: Layout) -> Number:
    quantized = options_of(r).quantization.param_gather
    torch = (r.zero >= 2) & (options_of(r).fsdp == "torch")
    return implies(quantized, (r.training.precision in (*FP8_RECIPES, "nvfp4")) & (r.zero >= 1) & (torch == 0))


def _bf16_layers_fit(r: Layout) -> Number:
    details = options_of(r).quantization
    most = max(details.first_layers_bf16, details.last_layers_bf16)
    return (most == 0) | (
        (r.training.precision in (*FP8_RECIPES.keys() - {"fp8_delayed"}, "nvfp4"))
        & (most <= r.model.layers // r.pp)
        & (min(details.first_layers_bf16, details.last_layers_bf16) >= 0)
    )


RULES: tuple[Rule, ...] = (
    option_rule(
        "param_gather",
        "quantization.param_gather",
        _gathered,
        "weights are gathered in 8 or 4 bits with such a precision ({training.precision}), zero >= 1 (zero = {zero}), "
        "and not by torch's FSDP2",
        "training/arguments.py:1060, :1017; core/transformer/transformer_config.py:1433",
        any_of(off("quantization.param_gather"), change(parallelism__zero=1)),
    ),
    option_rule(
        "reuse_gradient_buffer",
        "quantization.reuse_gradient_buffer",
        lambda r: implies(
            options_of(r).quantization.reuse_gradient_buffer,
            (r.training.precision == "mxfp8") & options_of(r).quantization.param_gather & (r.zero < 2),
        ),
        "the gradients' buffer is reused for mxfp8 weights that are gathered so (param_gather), zero < 2; "
        "precision = {training.precision}, zero = {zero}",
        "core/distributed/distributed_data_parallel_config.py:253; training/arguments.py:1114",
        any_of(off("quantization.reuse_gradient_buffer"), off("quantization.param_gather", True)),
    ),
    option_rule(
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
    option_rule(
        "output_projection",
        "quantization.output_projection",
        lambda r: not options_of(r).quantization.output_projection or r.training.precision == "mxfp8",
        "the head is quantized with mxfp8 alone, not {training.precision}",
        ":1436",
        off("quantization.output_projection"),
    ),
)
