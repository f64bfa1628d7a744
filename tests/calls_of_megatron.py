"""How many calls of torch Megatron's own routers and exchanges make: ``python calls_of_megatron.py``, on a CPU.

``{"routers": {name: calls}, "exchanges": {name: calls}}`` is printed as JSON. Transformer Engine's kernels are not
there: where they choose the experts, one operation stands for each of them, so that what is counted is Megatron's own
around them. An exchange is a dispatch and a combine without copies to the host; padded, with what its router drops.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from meshwright.bench.layer import _cpu

_cpu()

import torch.distributed as dist  # noqa: E402
from megatron.core import parallel_state, tensor_parallel  # noqa: E402
from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402
from megatron.core.transformer.moe import moe_utils  # noqa: E402
from megatron.core.transformer.moe.router import TopKRouter  # noqa: E402
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

LOSS = {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 1e-2}
NONE = {"moe_router_load_balancing_type": "none"}
SIGMOID = {"moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True}
GROUPS = {"moe_router_num_groups": 8, "moe_router_group_topk": 4}
CASES: dict[str, dict[str, Any]] = {
    "plain": NONE,
    "loss": LOSS,
    "z_loss": {**LOSS, "moe_z_loss_coeff": 1e-3},
    "groups": {**LOSS, **GROUPS},
    "scored": {**NONE, **SIGMOID},
    "deepseek": {**SIGMOID, **GROUPS, "moe_router_load_balancing_type": "seq_aux_loss", "moe_aux_loss_coeff": 1e-2},
}


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _chosen(logits: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return logits * 1.0, logits.detach() > 0


def _scored(logits: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return logits.detach() > 0, logits * 1.0


def _lost(probs: Tensor, *_: Any, **__: Any) -> Tensor:
    return probs.mean()


PADDED = {"moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": True}


def _config(fused: bool, **options: Any) -> TransformerConfig:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=64,
        num_attention_heads=4,
        num_moe_experts=64,
        moe_router_topk=8,
        moe_token_dispatcher_type="alltoall",
        expert_model_parallel_size=8,
        bf16=True,
        params_dtype=torch.bfloat16,
        add_bias_linear=False,
        **options,
    )
    config.moe_router_fusion = fused
    return config


def calls(fused: bool, **options: Any) -> int:
    """Of a router in one forward."""
    config = _config(fused, **options)
    router = TopKRouter(config, pg_collection=ProcessGroupCollection.use_mpu_process_groups())
    router.set_layer_number(1)
    with Count() as count:
        router(torch.randn(32, 1, 64, dtype=torch.bfloat16, requires_grad=True))
    made: int = count.calls
    return made


def exchanged(**options: Any) -> int:
    """Of a dispatch and a combine in one forward, of tokens that are dealt evenly."""
    groups = ProcessGroupCollection.use_mpu_process_groups()
    dispatcher = MoEAlltoAllTokenDispatcher(8, list(range(8)), _config(False, **NONE, **options), pg_collection=groups)
    dispatcher.permute_idx_device = torch.device("cpu")
    chosen = (torch.arange(64)[None, :] - torch.arange(64)[:, None]) % 64 < 8
    tokens, probs = torch.randn(64, 1, 64, requires_grad=True), (chosen / 8).requires_grad_()
    with Count() as count:
        sent = dispatcher.dispatch_preprocess(tokens, chosen, probs)
        received, _, _ = dispatcher.dispatch_postprocess(*dispatcher.token_dispatch(*sent))
        returned = dispatcher.token_combine(dispatcher.combine_preprocess(received))
        dispatcher.combine_postprocess(returned)
    made: int = count.calls
    return made


def main() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    parallel_state.initialize_model_parallel(expert_model_parallel_size=8, create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    dropping = calls(False, **NONE, **PADDED) - calls(False, **NONE)
    exchanges = {"counted": exchanged(), "padded": exchanged(**PADDED) + dropping}
    moe_utils.HAVE_TE, moe_utils.is_te_min_version = True, lambda *_, **__: True
    moe_utils.fused_topk_with_score_function = _chosen
    moe_utils.fused_compute_score_for_moe_aux_loss = _scored
    moe_utils.fused_moe_aux_loss = _lost
    routers = {f"{name}{', fused' * on}": calls(on, **CASES[name]) for name in CASES for on in (False, True)}
    print(json.dumps({"routers": routers, "exchanges": exchanges}))


if __name__ == "__main__":
    main()
