"""Arctic's long-sequence training: a micro-batch's tokens in pieces, so that neither logits nor MLPs hold all of them.

DeepSpeed 0.19.8, runtime/sequence_parallel/ulysses_sp.py. Each piece is computed again in the backward pass. The loss
goes through ``sequence_tiled_compute``: ``TiledFusedLogitsLoss`` takes the head's gradient in the forward pass already,
before DeepSpeed has scaled the loss by the micro-batches of a step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

__all__ = ["MLP", "tile"]

MLP = "MLP"
"""How the classes of transformers' dense MLPs end."""


def tile(model: Any, loss: int, mlp: int) -> None:
    """Make ``model`` return its loss, over ``loss`` pieces; its dense MLPs take ``mlp`` pieces. 1: as it was."""
    if mlp > 1:
        for module in list(model.modules()):
            if type(module).__name__.endswith(MLP):
                module.forward = partial(_tiled_mlp, module, type(module).forward, mlp)
    if loss > 1:
        model.forward = partial(_loss, model, loss)


def _tiled_mlp(module: Any, whole: Any, pieces: int, hidden: torch.Tensor) -> torch.Tensor:
    from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledMLP

    tiled: torch.Tensor = TiledMLP.apply(whole, module, hidden, pieces, list(module.parameters()))
    return tiled


def _loss(
    model: Any, pieces: int, input_ids: torch.Tensor, position_ids: torch.Tensor, shift_labels: torch.Tensor, **_: Any
) -> torch.Tensor:
    """Mean over the tokens, as transformers' ``ForCausalLMLoss`` of ``shift_labels``."""
    from deepspeed.runtime.sequence_parallel.ulysses_sp import sequence_tiled_compute

    hidden = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    loss: torch.Tensor = sequence_tiled_compute(
        fn=partial(_share, head, shift_labels.numel()),
        seqlen=hidden.shape[1],
        shards=pieces,
        kwargs_to_shard={"hidden": hidden, "targets": shift_labels},
        kwargs_to_pass={},
        grad_requiring_tensor_key="hidden",
        compute_params=list(head.parameters()),
        output_unshard_dimension=0,
        output_reduction="sum",
    )
    return loss


def _share(head: Any, tokens: int, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What these tokens add to the mean."""
    logits = head(hidden).float()
    return cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum") / tokens
