"""Sparse attention on two tensor-parallel ranks: with exact arithmetic, one process's choice and gradients.

In 32 bits rounding may choose between nearly equal scores, and hide a gradient that is not summed. Here the weights and
what they multiply have 64, so that both layouts differ by 1e-15 where they round apart, and nothing else may.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.resolver import resolve
from meshwright.spec.model import Indexer, Mla
from meshwright.verify.megatron_objects import objects
from meshwright.verify.pool import Crash, fork_map
from test_layers import ON_CPU

LENGTH, CHOSEN = 32, 6
MODEL = small_model(
    layers=3,
    pattern="DDD",
    hidden=64,
    ffn=128,
    heads=4,
    kv_heads=4,
    head_dim=16,
    vocab=128,
    transformers=None,
    mla=Mla(kv_lora_rank=32, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32),
    indexer=Indexer(heads=4, head_dim=16, topk=CHOSEN, loss=1.0),
)


@dataclass(frozen=True)
class Ran:
    """What one rank saw: its choices in order, the loss, and the squared norm of each gradient, cut or whole."""

    choices: list[Any]
    loss: float
    whole: dict[str, float]
    cut: dict[str, float]


def trained(job: tuple[int, int, str, bool]) -> Ran:
    """One step of rank ``rank`` of ``tp``, whose ranks meet at ``path``; in 64 bits where ``exact``."""
    import torch

    rank, tp, path, exact = job
    os.environ.update(TORCHDYNAMO_DISABLE="1")
    import_module("megatron.training")
    from meshwright.train import cpu

    torch.compiler.set_stance("force_eager")
    import_module("torch._dynamo.trace_rules").get_torch_obj_rule_map()
    cpu.install()
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed.finalize_model_grads import _allreduce_non_tensor_model_parallel_grads

    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=tp)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    torch.manual_seed(0)
    model = built(tp)
    torch.manual_seed(1)
    for _, parameter in sorted(model.named_parameters()):
        if not getattr(parameter, "tensor_model_parallel", False):  # norms start at one, and would hide a sum
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    if exact:
        model.double()
        torch.float32 = torch.float = torch.float64  # which Megatron casts scores, masks and logits to
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    choices = followed()
    tokens = torch.randint(0, MODEL.vocab, (2, LENGTH))
    losses = model(tokens, torch.arange(LENGTH).expand(2, -1), None, labels=tokens.roll(-1, 1))
    losses.mean().backward()
    for parameter in model.parameters():
        parameter.main_grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    model.ddp_config = torch.nn.Module()
    model.ddp_config.use_megatron_fsdp = False
    _allreduce_non_tensor_model_parallel_grads([model], model.config, parallel_state.get_tensor_model_parallel_group())
    squares: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, parameter in model.named_parameters():
        is_cut = bool(getattr(parameter, "tensor_model_parallel", False))
        squares[is_cut][name] = float(parameter.main_grad.double().square().sum())
    return Ran(choices, float(losses.mean()), *squares)


def built(tp: int) -> Any:
    from megatron.core.models.hybrid.hybrid_model import HybridModel
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    from meshwright.train.cpu_layers import CpuAttention, CpuNorm
    from meshwright.train.local_layers import hybrid_stack
    from meshwright.train.whole import Whole

    asked = spec(MODEL, tp, tp=tp, sp=tp > 1, global_batch=16)
    emitted = kwargs(resolve(replace(asked, training=replace(asked.training, precision="fp32"))))
    return HybridModel(
        MLATransformerConfig(**{**objects(emitted["MLATransformerConfig"]), **ON_CPU}),
        hybrid_stack(CpuNorm, CpuAttention, Whole),
        vocab_size=MODEL.vocab,
        max_sequence_length=MODEL.max_positions,
        position_embedding_type="none",
        **emitted["HybridModel"],
    )


def followed() -> list[Any]:
    """Tokens that the indexers choose from now on, each row in order."""
    import torch

    chosen: list[Any] = []
    topk = torch.Tensor.topk

    def following(scores: Any, k: int, *words: Any, **named: Any) -> Any:
        found = topk(scores, k, *words, **named)
        if k == CHOSEN:
            chosen.append(found.indices.masked_fill(found.values.isinf(), -1).sort(-1).values.tolist())
        return found

    torch.Tensor.topk = following  # type: ignore[assignment, method-assign]
    return chosen


def test_two_ranks_choose_and_learn_as_one(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    jobs = [(0, 1, f"{tmp_path}/one", True), *((rank, 2, f"{tmp_path}/two", True) for rank in range(2))]
    found = fork_map(trained, jobs, processes=3)
    ran = [one for one in found if not isinstance(one, Crash)]
    assert len(ran) == 3, found
    alone, *ranks = ran
    assert alone.choices
    assert all(rank.choices == alone.choices for rank in ranks)
    assert all(rank.loss == pytest.approx(alone.loss, rel=1e-6) for rank in ranks)
    assert any(name.endswith("indexer.linear_wk.weight") and square > 0 for name, square in alone.whole.items())
    for rank in ranks:
        assert rank.whole == pytest.approx(alone.whole, rel=1e-5)
    together = {name: sum(rank.cut[name] for rank in ranks) for name in alone.cut}
    assert together == pytest.approx(alone.cut, rel=1e-5)
