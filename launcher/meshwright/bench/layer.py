"""One decoder layer and the head of a plan's shard, built of Megatron's own modules and timed forward and backward.

``python -m meshwright.bench.layer PLAN ROWS`` reads the plan that ``bench.run`` pickled, writes the rows as JSON. It is
a process of its own: it pretends the other tensor-parallel ranks, and on a CPU the device.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from meshwright.bench.modules import Row, rows
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.plan import Plan
from meshwright.model.megatron_parts import parts
from meshwright.verify.megatron_groups import without_links

__all__ = ["main", "measure"]

WARM_UP, ROUNDS = 3, 7


def main(words: Sequence[str]) -> None:
    """Measure the plan in the file ``words[0]`` and write ``words[1]``."""
    plan = pickle.loads(Path(words[0]).read_bytes())
    Path(words[1]).write_text(json.dumps([asdict(row) for row in measure(plan)]))


def measure(plan: Plan) -> list[Row]:
    """Of ``bench.shard``'s plan: every module of the layer, the layer, the head with its loss."""
    import torch

    if not torch.cuda.is_available():
        _cpu()
    from meshwright.bench.stopwatch import Stopwatch

    model = _model(plan)
    watch = Stopwatch()
    watched = rows(plan, model)
    for row in watched:
        watch.follow(row.name, row.module)
    took = [_step(plan, model, watch) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    return [row.timed(*(median(one[row.name][i] for one in took) for i in (0, 1))) for row in watched]


def _cpu() -> None:
    """The CPU in place of the device; nothing of Megatron may have been imported."""
    import torch

    from meshwright.train.gpu_packages import hide

    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    hide()
    import_module("megatron.training")  # it decorates functions that the shim replaces
    from meshwright.train import cpu

    cpu.install()
    torch.set_num_threads(1)


def _model(plan: Plan) -> Any:
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=plan.grid.world)
    parallel_state.initialize_model_parallel(**without_links(plan), create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    model = _gpt(plan).cuda()
    for parameter in model.parameters():
        parameter.main_grad = torch.zeros_like(parameter, dtype=torch.float32)
        parameter.register_post_accumulate_grad_hook(_accumulate)
    return model


def _accumulate(parameter: Any) -> None:
    """What Megatron's data parallelism does with a gradient (core/distributed/distributed_data_parallel.py)."""
    parameter.main_grad.add_(parameter.grad.data)
    parameter.grad = None


def _gpt(plan: Plan) -> Any:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    model, config = plan.spec.model, _config(plan)
    engine = plan.spec.backend.megatron.transformer == "transformer_engine"
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=engine, normalization=config.normalization)
    if parts(model):
        from meshwright.train.layers import amend, install

        install(parts(model))
        amend(block, parts(model))
    return GPTModel(
        config=config,
        transformer_layer_spec=block,
        vocab_size=plan.padded_vocab,
        max_sequence_length=plan.batch.sequence,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type={"learned": "learned_absolute", "rope": "rope"}.get(model.positions, "none"),
        rotary_base=int(model.rope.base),
        rotary_percent=model.rope.fraction,
    )


def _config(plan: Plan) -> Any:
    import torch
    from megatron.core.transformer import transformer_config

    from meshwright.verify.megatron_objects import objects

    name = "MLATransformerConfig" if plan.spec.model.mla else "TransformerConfig"
    values = objects(kwargs(plan)[name])
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        plain = ("bias_dropout_fusion", "masked_softmax_fusion", "persist_layer_norm", "apply_rope_fusion")
        values |= dict.fromkeys(plain, False) | {"use_cpu_initialization": True}
    return getattr(transformer_config, name)(**values)


def _step(plan: Plan, model: Any, watch: Any) -> dict[str, tuple[float, float]]:
    """(forward, backward) seconds of every module that is followed, in one micro-batch."""
    shape = (plan.batch.micro_batch, plan.batch.sequence)
    tokens, places = _inputs(shape, plan.spec.model.vocab)
    watch.begin()
    losses = model(tokens, places, None, labels=tokens)
    loss = losses.float().mean()
    watch.turn()
    loss.backward()
    return dict(watch.end())


def _inputs(shape: tuple[int, int], vocab: int) -> Iterator[Any]:
    import torch

    yield torch.randint(vocab, shape).cuda()
    yield torch.arange(shape[1]).expand(shape).contiguous().cuda()


if __name__ == "__main__":
    main(sys.argv[1:])
