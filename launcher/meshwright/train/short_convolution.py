"""Short convolutions on ``[sequence, batch, hidden]``, channels cut over tensor-parallel ranks as Mamba's are.

Whole sequences are seen: a rule refuses context parallelism with them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.ssm.utils import _split_tensor_factory
from megatron.core.tensor_parallel import random
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import (
    ensure_metadata_has_dp_cp_group,
    make_sharded_tensors_for_checkpoint,
    sharded_state_dict_default,
)
from torch import Tensor, nn
from torch.nn import functional

from meshwright.train.projections import into, out_of

__all__ = ["ShortConvolution", "convolved"]


class ShortConvolution(MegatronModule):  # type: ignore[misc]
    """In the place of a layer's attention; ``submodules`` are attention's, of which it has both linear layers.

    A norm that Transformer Engine joins to the first one is so joined here, too.
    """

    def __init__(self, config: Any, submodules: Any, kernel: int, pg_collection: Any, **_: Any) -> None:
        """``kernel``: tokens that it sees; the others are Megatron's arguments of an attention."""
        super().__init__(config)
        assert config.context_parallel_size == 1, "a rule of meshwright's refuses this"
        self.tp_group, wide = pg_collection.tp, config.hidden_size
        self.in_proj = into(config, submodules, self.tp_group, 3 * wide)
        self.channels = wide // self.tp_group.size()
        self.in_proj.weight.partition_sizes = [self.channels] * 3  # each of the three is cut by itself
        self.conv_weight = self._weight(kernel)
        self.out_proj = out_of(config, submodules, self.tp_group, wide)

    def _weight(self, kernel: int) -> nn.Parameter:
        """``[channels/tp, kernel]``, drawn as ``torch.nn.Conv1d`` draws."""
        with random.get_cuda_rng_tracker().fork():
            device, dtype = torch.cuda.current_device(), self.config.params_dtype
            weight = nn.Parameter(torch.empty(self.channels, kernel, device=device, dtype=dtype))
            if self.config.perform_initialization:
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=0, stride=1)
        return weight

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor | None]:
        """The same shape, and a bias that is still to be added; under sequence parallelism a rank has its tokens."""
        projected, _bias = self.in_proj(hidden_states)
        enter, leave, x = projected.chunk(3, dim=-1)
        output: tuple[Tensor, Tensor | None] = self.out_proj(leave * convolved(enter * x, self.conv_weight))
        return output

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """For Megatron's checkpoints, which are read with other degrees, too: the three projections apart."""
        metadata = ensure_metadata_has_dp_cp_group(metadata)
        own = {"conv_weight": self.conv_weight}
        groups = {"tp_group": self.tp_group, "dp_cp_group": metadata["dp_cp_group"]}
        found = make_sharded_tensors_for_checkpoint(own, prefix, {"conv_weight": 0}, sharded_offsets, **groups)
        for name, module in self.named_children():
            found |= sharded_state_dict_default(
                module, f"{prefix}{name}.", sharded_offsets, metadata, tp_group=self.tp_group
            )
        whole = f"{prefix}in_proj.weight"
        found[whole] = _split_tensor_factory(found[whole], [self.channels] * 3, ["enter", "leave", "x"], 0)
        return found


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """``[tokens, batch, channels]``, each channel over the last tokens with its row of ``weight``."""
    channels, kernel = weight.shape
    wide = functional.pad(x.permute(1, 2, 0), (kernel - 1, 0))
    return functional.conv1d(wide, weight.unsqueeze(1), groups=channels).permute(2, 0, 1)
