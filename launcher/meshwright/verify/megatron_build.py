"""*Built*: one rank of every stage builds its GPTModel or HybridModel, on a fake process group and the meta device.

Its parameters must equal ours exactly, its layers ours chunk by chunk, its groups those of our grid. Parameters are
those of Transformer Engine's layers; without it, its local stand-ins are built, and where the two differ the stand-in
is changed to what Transformer Engine holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshwright.emit.megatron_hybrid import hybrid
from meshwright.layout.plan import Chunk, Plan, Stage
from meshwright.model.count import parts_of as parts_of_weights
from meshwright.model.count import stage as stage_of
from meshwright.model.kinds import count_kinds
from meshwright.model.layers import parts as parts_of
from meshwright.verify.megatron_chunks import chunks
from meshwright.verify.megatron_emulation import emulate_gpu, substitutions
from meshwright.verify.megatron_files import misnamed
from meshwright.verify.megatron_groups import only_own_groups, unlike, without_links
from meshwright.verify.megatron_no_gpu import no_device, no_kernels
from meshwright.verify.verdict import Check

__all__ = ["built"]

STAND_INS = (
    "Megatron's local layers on the meta device, with Transformer Engine's sharding",
    "core attention without parameters, torch's norms",
)


def built(plan: Plan) -> Check:
    """Build every stage. Run it in a fork."""
    plan = _as_megatron(plan)
    logging.disable(logging.WARNING)
    only_own_groups()
    emulate_gpu(plan)
    no_device()
    model = plan.spec.model
    if model.mamba is not None or model.delta_net is not None or model.short_convolution is not None:
        no_kernels()
    names: set[str] = set()
    wrong = [problem for stage in range(plan.grid.pp) for problem in _stage(plan, stage, names)]
    wrong += misnamed(plan.spec.backend.megatron.quantization.modules, names)
    total = sum(stage.parameters for stage in plan.stages)
    done = f"{plan.grid.pp} stages, {total:,} parameters on one rank of each; groups of {plan.grid.world:,} ranks"
    return Check("built", not wrong, "; ".join(wrong) or done, STAND_INS + _unrun(plan) + substitutions(plan))


def _as_megatron(plan: Plan) -> Plan:
    """With what ranks of Megatron hold where another backend is launched, whose ranks may share no words."""
    spec = plan.spec
    if spec.backend.name == "megatron":
        return plan
    backend, parts = replace(spec.backend, name="megatron"), parts_of_weights(spec)
    held = (stage_of(spec.model, each.chunks, plan.padded_vocab, plan.grid, backend, parts) for each in plan.stages)
    return replace(plan, stages=tuple(held))


def _unrun(plan: Plan) -> tuple[str, ...]:
    """Where a CPU stops."""
    parts = plan.grid.gtp * plan.grid.egtp > 1
    return ("weights cut into gtp's parts by Megatron; gathering them needs Transformer Engine 2.19",) * parts


def _stage(plan: Plan, stage: int, names: set[str]) -> Iterator[str]:
    """``names``: gains those of the modules that are built."""
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    rank = plan.grid.dense.rank(pp=stage)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.grid.world)
    parallel_state.initialize_model_parallel(**without_links(plan), create_gloo_process_groups=False)
    try:
        yield from unlike(plan, rank)
        made = chunks(plan)
        names |= {name for chunk in made for name, _ in chunk.named_modules()}
        yield from _counts(plan, stage, made)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _counts(plan: Plan, stage: int, made: list[Any]) -> Iterator[str]:
    named = [item for chunk in made for item in chunk.named_parameters()]
    experts = sum(p.numel() for name, p in named if ".experts." in name and ".shared_experts." not in name)
    found = Stage(plan.stages[stage].chunks, sum(p.numel() for _, p in named), experts)
    ours, layers = plan.stages[stage], [len(chunk.decoder.layers) for chunk in made]
    wanted = [_layers_of(plan, chunk) for chunk in ours.chunks]
    if layers != wanted:
        yield f"stage {stage} has {layers} layers a chunk, ours {wanted}"
    if found != ours:
        theirs = f"{found.parameters:,} parameters of which {experts:,} of experts"
        yield f"stage {stage} has {theirs}; ours {ours.parameters:,} and {ours.expert_parameters:,}"


def _layers_of(plan: Plan, chunk: Chunk) -> int:
    """HybridModel counts each part of a layer."""
    if not hybrid(plan):
        return chunk.layers
    counts = count_kinds(plan.spec.model, chunk.first, chunk.layers)
    return sum(len(parts_of(kind)) * count for kind, count in counts.items())
