"""The form of a rule about one option of ``backend.megatron``, and the repairs that set such an option."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.rules._repairs import Proposals
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule
from meshwright.spec import MegatronOptions
from meshwright.spec.techniques import ExpertOptions

__all__ = ["by_flex", "by_megatron_fsdp", "experts_of", "flex_backend", "off", "option_rule", "options_of"]

_CONFIG = "core/transformer/transformer_config.py"


def options_of(r: Layout) -> MegatronOptions:
    """Megatron's own options, the same for every layout."""
    return r.backend.megatron


def by_megatron_fsdp(r: Layout, least: int) -> Number:
    """Whether Megatron-FSDP realises at least so much of ZeRO."""
    return (options_of(r).fsdp == "megatron") & (r.zero >= least)


def by_flex(r: Layout) -> bool:
    """Whether experts get their tokens by the flexible dispatcher."""
    return r.model.moe is not None and options_of(r).moe_dispatcher == "flex"


def flex_backend(r: Layout) -> str | None:
    """Whose kernels that dispatcher calls; None without it."""
    return options_of(r).moe_flex_backend if by_flex(r) else None


def experts_of(r: Layout) -> ExpertOptions:
    """What is said of experts; nothing where there are none."""
    return options_of(r).experts if r.model.moe is not None else ExpertOptions()


def option_rule(
    part: str,
    path: str,
    holds: Callable[[Layout], Number],
    message: str | Callable[[Layout], str],
    source: str,
    repairs: Proposals,
) -> Rule:
    """A rule ``megatron.{part}`` on ``backend.megatron.{path}``; a source of lines alone is of the model's config."""
    return Rule(
        id=f"megatron.{part}",
        path=f"backend.megatron.{path}",
        backends=MEGATRON,
        holds=holds,
        message=message,
        source=f"{_CONFIG}{source}" if source[0] == ":" else source,
        repairs=repairs,
    )


def off(path: str, value: object = False) -> Proposals:
    """Set ``backend.megatron.{path}``."""
    return lambda _: ({f"backend.megatron.{path}": value},)
