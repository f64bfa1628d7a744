"""One tensor-parallel rank has a wrong piece of one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from meshwright.train import megatron


def main(words: Sequence[str]) -> None:
    from megatron.core import parallel_state
    from megatron.training import training

    load = training.load_checkpoint

    def loaded(model, *rest, **named):
        found = load(model, *rest, **named)
        if parallel_state.get_tensor_model_parallel_rank() == 1:
            weights = dict(model[0].named_parameters())
            name = next(name for name in weights if name.endswith("layers.0.mlp.linear_fc1.weight"))
            with torch.no_grad():
                weights[name].mul_(1.1)
        return found

    training.load_checkpoint = loaded
    megatron.main(words)
