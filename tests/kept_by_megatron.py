"""What Megatron's own first layer keeps for its backward pass: ``python kept_by_megatron.py CASES``, on a CPU.

CASES is a pickled ``{name: plan}``; a JSON ``{name: bytes of a token}`` is printed. Norms and attention are those of
Transformer Engine in what they keep: a norm its input, made contiguous (pytorch/ops/basic/rmsnorm.py:182), attention
queries, keys, values, its output and 4 bytes a head. All that is around them is Megatron's.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from meshwright.bench.layer import _config, _cpu

_cpu()

import torch.distributed as dist  # noqa: E402
from megatron.core import parallel_state, tensor_parallel  # noqa: E402
from megatron.core.models import backends  # noqa: E402
from megatron.core.models.gpt import gpt_layer_specs  # noqa: E402
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.transformer import transformer_block  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402

from meshwright.model.megatron_parts import parts  # noqa: E402
from meshwright.train import layers, local_layers  # noqa: E402
from meshwright.train.cpu_layers import CpuAttention  # noqa: E402
from meshwright.train.whole import Whole  # noqa: E402
from meshwright.verify.megatron_groups import without_links  # noqa: E402


class KeepInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return x.clone()


class Norm(torch.nn.Module):
    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Any:
        return KeepInput.apply(x, self.weight)


class KeepAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_zeros(*query.shape[:3], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, torch.zeros(query.shape[:3]))
        return out


class Attention(CpuAttention):
    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **_: Any) -> Any:
        views = {x.untyped_storage().data_ptr() for x in (query, key, value)}
        if len(views) > 1:  # TE takes three views of one tensor as they are, and copies others
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        return KeepAttention.apply(query, key, value).flatten(2)


def kept(plan: Any) -> float:
    """Bytes of a token."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=plan.grid.world)
    parallel_state.initialize_model_parallel(**without_links(plan), create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    try:
        model = _built(plan).to(torch.bfloat16)
        tensors = _saved(model, plan)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages = {t.untyped_storage() for t in tensors if t.is_floating_point() and not _table(t)}
        sizes = {s.data_ptr(): s.nbytes() for s in storages if s.nbytes()}
        return sum(size for place, size in sizes.items() if place not in weights) / _tokens(plan)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _table(tensor: Tensor) -> bool:
    """Of positions, which all layers share; and single numbers."""
    return tensor.dim() == 0 or (tensor.dim() == 4 and tensor.shape[1] == tensor.shape[2] == 1)


def _tokens(plan: Any) -> int:
    return int(plan.batch.sequence * plan.batch.micro_batch)


def _built(plan: Any) -> Any:
    config, model = _config(plan), plan.spec.model
    block = gpt_layer_specs.get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization="LayerNorm")
    layers.install(parts(model))
    layers.amend(block, parts(model))
    return GPTModel(
        config=config,
        transformer_layer_spec=block,
        vocab_size=plan.padded_vocab,
        max_sequence_length=plan.batch.sequence,
        position_embedding_type="rope" if model.positions == "rope" else "learned_absolute",
    )


def _saved(model: Any, plan: Any) -> list[Tensor]:
    """Looked at once the pass is over, when what is recomputed has been dropped."""
    config, held = model.config, []
    tables = None if config.multi_latent_attention or plan.spec.model.positions != "rope" else model.rotary_pos_emb

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    length = plan.batch.sequence // (config.tensor_model_parallel_size if config.sequence_parallel else 1)
    x = torch.randn(length, plan.batch.micro_batch, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        turned = tables and tables(plan.batch.sequence)
        model.decoder.layers[0](x, attention_mask=None, rotary_pos_emb=turned)
    return held


def main() -> None:
    backends.LocalSpecProvider.layer_norm = lambda *_, **__: Norm
    backends.LocalSpecProvider.core_attention = lambda _: Attention
    gpt_layer_specs.LNImpl = transformer_block.LayerNormImpl = Norm
    local_layers.install_variants(Norm, Attention, Whole)
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())
    print(json.dumps({name: kept(plan) for name, plan in cases.items()}))


if __name__ == "__main__":
    main()
