"""Megatron's sharded optimizer over PyTorch's AdamW, as it runs without Transformer Engine: checkpoints can be loaded.

Megatron-core 0.19.2 asks a fresh optimizer for its step count, which PyTorch's has only after its first step
(core/optimizer/distrib_optimizer.py:838), and then gives all parameters one and the same counter, which each of them
advances (line 1032). The count travels with the groups of parameters, but is copied from among the other states, too,
where it is missing or 0 (line 1223); and fp32 parameters, which are their own main copy, are written to as if no
gradient were asked of them (line 1225).
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["install"]


def install() -> None:
    """Give a fresh optimizer its state before a checkpoint is loaded, and each parameter a counter of its own after.

    Nothing is changed where Megatron found Transformer Engine's or Apex's optimizer.
    """
    from megatron.core import optimizer
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    if not optimizer.USING_PYTORCH_OPTIMIZER:
        return

    shard, load = DistributedOptimizer.sharded_state_dict, DistributedOptimizer.load_state_dict
    copy = DistributedOptimizer._set_main_param_and_optimizer_states

    def sharded(self: Any, model: Any, is_loading: bool = False, *rest: Any, **named: Any) -> Any:
        if not self.optimizer.state:
            _begin(self.optimizer)
        return shard(self, model, is_loading, *rest, **named)

    def loaded(self: Any, state: Any) -> None:
        load(self, state)
        for own in self.optimizer.state.values():
            own["step"] = own["step"].clone()

    def copied(self: Any, parameter: Any, tensors: dict[str, Any]) -> None:
        with torch.no_grad():
            copy(self, parameter, {**tensors, "step": None})

    DistributedOptimizer._set_main_param_and_optimizer_states = copied
    DistributedOptimizer.sharded_state_dict, DistributedOptimizer.load_state_dict = sharded, loaded


def _begin(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
