"""Megatron's layer with parts that it lacks. ``train/layers`` assembles them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from megatron.core.transformer.transformer_layer import TransformerLayer
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor, nn

from meshwright.train.activations import XIELU
from meshwright.train.idle import IdleAttention
from meshwright.train.norms import default_norm
from meshwright.train.parallel_mixer import factors, gate_factor

__all__ = ["Layer"]

Change = Callable[[Tensor], Tensor]


class Layer(TransformerLayer):  # type: ignore[misc]
    """Megatron's layer with ``parts`` (``model.megatron_parts``); ``norm`` builds the norms that they add."""

    def __init__(self, config: Any, *args: Any, parts: Mapping[str, Any], norm: Any = None, **kwargs: Any) -> None:
        """Take what Megatron's own layer takes."""
        super().__init__(config, *args, **kwargs)
        self.parts, self._build = parts, norm or default_norm(config)
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, self.layer_number)
        self.rotary = int(bool(windowed)) if "local_base" in parts else None
        for name in ("self_attention", "mlp"):
            _change(getattr(self, name), tuple(self._changes(name)))
        self._amend_sub_layers()
        self._amend_norms()
        if "cross_attention" in parts:
            biases = str(parts.get("attention_bias", "all"))
            self.idle_attention = IdleAttention(config, self._norm("idle_norm"), biases)

    def _amend_sub_layers(self) -> None:
        """What attention and the MLP do otherwise inside."""
        parts = self.parts
        if "qkv_clip" in parts and hasattr(self.self_attention, "linear_qkv"):
            bound = float(parts["qkv_clip"])
            _change(self.self_attention.linear_qkv, (lambda x: x.clamp(-bound, bound),))
        if (factor := factors(parts).mlp_gate) != 1.0:
            gate_factor(self.mlp, factor)
        if parts.get("activation") == "xielu":
            self.mlp.activation_func = XIELU()
        if parts.get("qk_norm") == "l2" and self.config.no_rope_freq[self.layer_number - 1]:
            self.self_attention.q_layernorm = self.self_attention.k_layernorm = None
        if self.rotary:
            self.self_attention._yarn_concentration_factor = 1.0
        if "parameter" in str(parts.get("router_bias")) and self.is_moe_layer:
            _keep_bias(self.mlp.router)

    def _amend_norms(self) -> None:
        """Norms whose output also goes elsewhere, and those behind the residual."""
        parts = self.parts
        if parts.get("parallel_residual") == "one_norm":
            self.input_layernorm.register_forward_hook(self._keep)
        if parts.get("norms") == "carried":
            for norm in (self.input_layernorm, self.pre_mlp_layernorm):
                norm.register_forward_hook(_carried(float(parts.get("residual_weight", 1.0))))
        self.behind = parts.get("norms") == "post"
        for name in ("self_attention", "mlp") if self.behind else ():
            self._norm(f"{name}_output_norm")

    def _changes(self, name: str) -> Iterator[Change]:
        """What becomes of a sub-layer's output before it is added to the residual."""
        if self.parts.get("norms") in ("sandwich", "output"):
            yield self._norm(f"{name}_output_norm")
        if "experts_norm" in self.parts and name == "mlp" and self.is_moe_layer:
            yield self._norm(f"{name}_output_norm")
        if name == "mlp" and (factor := factors(self.parts).mlp_down) != 1.0:
            yield lambda x: x * factor
        if "residual_scale" in self.parts:
            yield lambda x: x * self.parts["residual_scale"]

    def _norm(self, name: str) -> Any:
        size, eps = self.config.hidden_size, self.config.layernorm_epsilon
        self.add_module(name, self._build(config=self.config, hidden_size=size, eps=eps))
        return getattr(self, name)

    def _keep(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._normed = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Choose this layer's rotary positions; keep its input for a parallel MLP."""
        if "parallel_residual" in self.parts:
            self._input = args[0] if args else kwargs["hidden_states"]
        if self.rotary is not None:
            kwargs["rotary_pos_emb"] = kwargs["rotary_pos_emb"][self.rotary]
        return super().forward(*args, **kwargs)

    def _forward_attention(self, *args: Any, **kwargs: Any) -> Any:
        """With the norm behind the residual, and the attention that is idle."""
        hidden_states, context = super()._forward_attention(*args, **kwargs)
        if self.behind:
            hidden_states = self.self_attention_output_norm(hidden_states)
        if "cross_attention" in self.parts:
            hidden_states = self.idle_attention(hidden_states)
        return hidden_states, context

    def _forward_post_mlp(self, *args: Any, **kwargs: Any) -> Any:
        """With the norm behind the residual."""
        hidden_states = super()._forward_post_mlp(*args, **kwargs)
        return self.mlp_output_norm(hidden_states) if self.behind else hidden_states

    def _forward_pre_mlp_layernorm(self, hidden_states: Tensor) -> Any:
        """What the MLP reads; in a parallel block also the residual that it adds to, input plus attention."""
        if "parallel_residual" not in self.parts:
            return super()._forward_pre_mlp_layernorm(hidden_states)
        if self.parts["parallel_residual"] == "one_norm":
            normed = self._normed
            del self._normed
        else:
            normed = super()._forward_pre_mlp_layernorm(self._input)
        del self._input
        return normed, hidden_states


def _carried(weight: float) -> Callable[[Any, Any, Tensor], tuple[Tensor, Tensor]]:
    """A norm's output, and the residual that goes on from it."""
    return lambda _module, _inputs, output: (output, output * weight)


def _keep_bias(router: Any) -> None:
    """The bias that balances experts, as a parameter without a gradient instead of a buffer."""
    bias = router.expert_bias
    del router.expert_bias
    router.expert_bias = nn.Parameter(bias, requires_grad=False)


def _change(module: Any, changes: tuple[Change, ...]) -> None:
    """Pass the output of a module of Megatron's, a pair with a bias that is still to be added, through ``changes``."""

    def changed(_module: Any, _inputs: Any, pair: Any) -> Any:
        output, bias = pair
        output = output if bias is None else output + bias
        for change in changes:
            output = change(output)
        return output, None

    if changes:
        module.register_forward_hook(changed)
