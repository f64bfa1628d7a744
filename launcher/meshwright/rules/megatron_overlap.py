"""What runs beside something else. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.rules._megatron_option import off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies

__all__ = ["RULES"]


def _gathers_with_step(r: Layout) -> Number:
    p, options = r.spec.parallelism, options_of(r)
    asked = options.gather_with_step
    plain = options.checkpoint_format == "torch" and not options.quantization.reuse_gradient_buffer
    return implies(asked, (r.zero == 1) & (r.vpp > 1) & p.overlap_param_gather & p.overlap_grad_reduce & plain)


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
        "gather_with_step",
        "gather_with_step",
        _gathers_with_step,
        "gathering beside the step needs zero = 1, vpp > 1, overlap_param_gather, checkpoint_format=torch and no "
        "reused gradients' buffer; zero = {zero}, vpp = {vpp}, {backend.megatron.checkpoint_format}",
        "training/arguments.py:1032; core/optimizer/optimizer_config.py:424",
        any_of(off("gather_with_step"), off("checkpoint_format", "torch")),
    ),
)
