"""Attention and Mamba-2 side by side in a layer, of Megatron's own modules, with Falcon-H1's factors."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from torch import Tensor

from meshwright.model import megatron_parts
from meshwright.model.megatron_parts import Parts
from meshwright.spec.model import Multipliers

__all__ = ["ParallelMixer", "factors", "gate_factor"]


def factors(parts: Parts) -> Multipliers:
    """Those of a specification's name; each 1 where it has none."""
    return megatron_parts.factors(parts["multipliers"]) if "multipliers" in parts else Multipliers()


class ParallelMixer(MegatronModule):  # type: ignore[misc]
    """In the place of a layer's attention, behind a norm of its own: what both give is added."""

    def __init__(
        self, config: Any, submodules: Any, parts: Parts, attention: ModuleSpec, pg_collection: Any, **arguments: Any
    ) -> None:
        """``attention`` is what Megatron would build; the others are its arguments."""
        super().__init__(config)
        self.factors = factors(parts)
        self.attention = build_module(attention, config=config, pg_collection=pg_collection, **arguments)
        self.mamba = MambaMixer(
            config,
            MambaMixerSubmodules(in_proj=_plain(submodules.linear_qkv), out_proj=_plain(submodules.linear_proj)),
            d_model=config.hidden_size,
            rmsnorm="plain_mamba" not in parts,
            layer_number=arguments["layer_number"],
            pg_collection=pg_collection,
        )
        if "multipliers" in parts:
            self.register_buffer("projected", self._of_projection(), persistent=False)
            self.mamba.in_proj.register_forward_hook(lambda _module, _inputs, pair: (pair[0] * self.projected, pair[1]))

    def _of_projection(self) -> Tensor:
        """The factor of each of this rank's channels; one on what is read is one on each projection of it."""
        f = self.factors
        each = (f.mamba_gate, f.mamba_x, f.mamba_write, f.mamba_read, f.mamba_step)
        sizes = self.mamba.in_proj.weight.partition_sizes
        device, dtype = torch.cuda.current_device(), self.config.params_dtype
        parts = [torch.full((n,), f.mamba_in * one, device=device) for n, one in zip(sizes, each, strict=True)]
        return torch.cat(parts).to(dtype)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """The same shape, and no bias that is still to be added."""
        scanned, _ = self.mamba(hidden_states)
        attended, bias = self.attention(_scaled(hidden_states, self.factors.attention_in), *args, **kwargs)
        attended = attended if bias is None else attended + bias
        return _scaled(scanned, self.factors.mamba_out) + _scaled(attended, self.factors.attention_out), None


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else x * factor


def _plain(module: Any) -> Any:
    """What Megatron's Mamba can build: a class, or the specification of one."""
    return module if isinstance(module, type) else ModuleSpec(module=_Built, params={"build": module})


class _Built:
    def __new__(cls, *args: Any, build: Any, **kwargs: Any) -> Any:
        """What a function builds."""
        return build(*args, **kwargs)


def gate_factor(mlp: Any, factor: float) -> None:
    """Multiply the gate that an MLP's first linear layer gives, the first half of its channels."""

    def scaled(_module: Any, _inputs: Any, pair: Any) -> Any:
        gate, up = pair[0].chunk(2, dim=-1)
        return torch.cat((gate * factor, up), dim=-1), pair[1]

    mlp.linear_fc1.register_forward_hook(scaled)
