"""Which modules Megatron recomputes of which models. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.errors import Repair
from meshwright.rules._repairs import Proposals, any_of, change
from meshwright.rules._rule import Layout, Number, Rule, megatron_rule

__all__ = ["RULES"]

_PATH = "parallelism.recompute_modules"


def _recomputed(r: Layout, *modules: str) -> Number:
    """Whether one of ``modules`` is named."""
    return (r.recompute == 1) & (not set(modules).isdisjoint(r.spec.parallelism.recompute_modules or ()))


def _but(*dropped: str) -> Proposals:
    """The others; nothing is recomputed where there are none."""

    def propose(r: Layout) -> tuple[Repair, ...]:
        left = tuple(module for module in r.spec.parallelism.recompute_modules or () if module not in dropped)
        return ({_PATH: left},) if left else ({"parallelism.recompute": "none", _PATH: None},)

    return propose


RULES: tuple[Rule, ...] = (
    megatron_rule(
        "recompute_latent",
        _PATH,
        lambda r: (r.model.mla is not None) | (_recomputed(r, "mla_up_proj") == 0),
        "mla_up_proj is latent attention's, and {model.name} has none",
        "core/transformer/transformer_config.py:1789",
        _but("mla_up_proj"),
    ),
    megatron_rule(
        "recompute_grouped",
        _PATH,
        lambda r: (r.model.moe is not None and r.backend.megatron.moe_grouped_gemm) | (_recomputed(r, "moe_act") == 0),
        "moe_act is recomputed of experts in one grouped product (moe_grouped_gemm, it is "
        "{backend.megatron.moe_grouped_gemm}), and of no dense model",
        "core/transformer/transformer_config.py:1784",
        any_of(change(backend__megatron__moe_grouped_gemm=True), _but("moe_act")),
    ),
    megatron_rule(
        "recompute_delayed",
        _PATH,
        lambda r: (r.training.precision != "fp8_delayed") | (_recomputed(r, "moe_act", "layernorm") == 0),
        "moe_act and layernorm are not recomputed where scales are delayed: {training.precision}",
        "core/transformer/transformer_config.py:1823",
        any_of(change(training__precision="fp8_tensorwise"), _but("moe_act", "layernorm")),
    ),
)
