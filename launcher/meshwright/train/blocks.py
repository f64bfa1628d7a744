"""Parts of a model around attention: layers, the embedding, the logits. ``train/layers.py`` puts them together."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from meshwright.model.megatron_parts import FINAL_SOFTCAP

__all__ = ["NormedEmbedding", "ParallelResidualLayer", "SandwichLayer", "capped_logits", "gelu_tanh"]


class ParallelResidualLayer(TransformerLayer):  # type: ignore[misc]
    """``x + attention(norm(x)) + mlp(norm(x))``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the layer's input for the MLP."""
        self._input = args[0] if args else kwargs["hidden_states"]
        return super().forward(*args, **kwargs)

    def _forward_pre_mlp_layernorm(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """What the MLP reads, and the residual it adds to: input plus attention."""
        normed = super()._forward_pre_mlp_layernorm(self._input)
        del self._input
        return normed, hidden_states


class SandwichLayer(TransformerLayer):  # type: ignore[misc]
    """``x + norm(attention(norm(x)))``, then ``x + norm(mlp(norm(x)))``."""

    norm: Any = None  # how a norm is built; None: as the other norms are

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Take what Megatron's own layer takes."""
        super().__init__(config, *args, **kwargs)
        build = type(self).norm or _norm(config)
        for sub_layer in ("self_attention", "mlp"):
            norm = build(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
            self.add_module(f"{sub_layer}_output_norm", norm)
            getattr(self, sub_layer).register_forward_hook(
                lambda _module, _inputs, output, norm=norm: (norm(output[0]), *output[1:])
            )


def capped_logits(model: Any, logits: Tensor) -> Tensor:
    """GPTModel's scaling of its logits, then the soft cap of Gemma 2."""
    logits = LanguageModule._scale_logits(model, logits)
    return FINAL_SOFTCAP * torch.tanh(logits / FINAL_SOFTCAP)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, which is part of what Gemma is."""
    return torch.nn.functional.gelu(x, approximate="tanh")


class NormedEmbedding(LanguageModelEmbedding):  # type: ignore[misc]
    """The embedding with a norm right behind the look-up, before dropout."""

    norm: Any = None  # how the norm is built; None: as the layers' norms are

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Take what Megatron's own embedding takes."""
        super().__init__(config, *args, **kwargs)
        build = type(self).norm or _norm(config)
        self.embedding_norm = build(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        self.word_embeddings.register_forward_hook(lambda _module, _inputs, output: self.embedding_norm(output))


def _norm(config: Any) -> Any:
    from megatron.core.models.backends import LocalSpecProvider

    rms = config.normalization == "RMSNorm"
    if config.transformer_impl != "transformer_engine":
        return LocalSpecProvider().layer_norm(rms_norm=rms, for_qk=False)
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm
