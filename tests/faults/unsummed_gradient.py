"""Sequence-parallel ranks keep their own gradient of each norm, of their half of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from meshwright.train import megatron


def main(words: Sequence[str]) -> None:
    # a function of the package has the module's name
    module: Any = import_module("megatron.core.distributed.finalize_model_grads")
    summed = module._allreduce_non_tensor_model_parallel_grads

    def all_but_norms(model, *rest, **named):
        for name, weight in model[0].named_parameters():
            if name.endswith(("norm.weight", "norm.bias", "layer_norm_weight", "layer_norm_bias")):
                weight.sequence_parallel = False
        summed(model, *rest, **named)

    module._allreduce_non_tensor_model_parallel_grads = all_but_norms
    megatron.main(words)
