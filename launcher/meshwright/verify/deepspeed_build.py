"""*Built*: ``deepspeed.initialize`` on torch's fake process group, at the plan's true world size, with a tiny model.

The engine's own checks run, its groups are made, parameters and optimizer are sharded. Sizes of the model shrink (not
its heads, experts or kind), because a fake group has one real rank on one CPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshwright.emit.deepspeed import config
from meshwright.emit.huggingface import config as architecture_config
from meshwright.layout.plan import Chunk, Plan
from meshwright.model.architecture_table import architecture_of
from meshwright.model.architectures import flatten
from meshwright.model.count import stage
from meshwright.model.huggingface import nested
from meshwright.model.kinds import kinds
from meshwright.model.layers.measured import small_measured
from meshwright.model.pattern import write_pattern
from meshwright.rules.deepspeed_extra import cut_by_extra
from meshwright.spec.decode import decode
from meshwright.spec.model import Model
from meshwright.train.deepspeed_patches import experts, machines, on_cpu
from meshwright.verify.verdict import Check

__all__ = ["built", "tiny"]

HEAD = 8  # channels


def built(plan: Plan) -> Check:
    """Initialize the engine of rank 0. Run it in a fork."""
    seen = plan.spec.model.measured
    if seen is not None and seen.miniature is None:
        return Check("built", True, f"nothing small of {seen.cls} builds here, so that no engine was made")
    settings, substitutions = on_cpu(_by_itself(config(plan)))
    engine = _engine(plan, settings)
    wrong = list(_differences(plan, engine))
    done = f"rank 0 of {plan.grid.world:,}: {type(engine.optimizer).__name__}, dp {plan.grid.dp}, cp {plan.grid.cp}"
    own = ("parameters by backend.deepspeed.extra.tensor_parallel, not compared with the plan's",)
    pretended = ("a tiny model of the same kind", *(own if cut_by_extra(plan.spec.backend.deepspeed.extra) else ()))
    return Check("built", not wrong, "; ".join(wrong) or done, (*pretended, *substitutions))


def _by_itself(settings: dict[str, Any]) -> dict[str, Any]:
    """Nothing is saved here, so that no process is started to write."""
    writer = settings.get("checkpoint", {}).get("writer")
    alone = {"checkpoint": {**settings["checkpoint"], "writer": {**writer, "decoupled": False}}} if writer else {}
    return {**settings, **alone}


def tiny(model: Model) -> Model:
    """The same architecture with few layers and channels; heads and experts stay, for the degrees must divide them."""
    if model.measured is not None:
        return small_measured(model) or model
    architecture = architecture_of(model)
    moe, mla = model.moe, model.mla
    small = replace(
        model,
        layers=2 if moe is None else moe.first_dense % 2 + moe.every,
        head_dim=HEAD,
        hidden=model.heads * HEAD,
        ffn=8 * model.heads,
        vocab=256,
        max_positions=256,
        pattern=None,
        mla=mla and replace(mla, kv_lora_rank=16, q_lora_rank=mla.q_lora_rank and 16, **_HEADS),
        moe=moe and replace(moe, ffn=16, shared_ffn=16 if moe.shared_ffn else 0, first_dense=moe.first_dense % 2),
    )
    if model.pattern is not None:  # a layer of each kind
        small = replace(small, layers=len(kinds(model)), pattern=write_pattern(kinds(model)))
    flat = flatten(small)
    flat |= {path: architecture.fixed(path, flat) for path in architecture.implied}
    return decode(Model, nested(flat))


_HEADS = {"qk_nope_dim": HEAD, "qk_rope_dim": HEAD, "v_dim": HEAD}


def _engine(plan: Plan, settings: dict[str, Any]) -> Any:
    import deepspeed
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from meshwright.verify.transformers import build

    world = plan.grid.world
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    experts()
    machines()
    attention = "sdpa" if plan.grid.cp > 1 else "eager"
    model = build(architecture_config(tiny(plan.spec.model)), "cpu", attention)
    groups = _ulysses(model, plan) if plan.grid.cp > 1 else None
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings, mpu=groups)[0]


def _ulysses(model: Any, plan: Plan) -> Any:
    import deepspeed
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    deepspeed.init_distributed(dist_backend="fake", dist_init_required=False)
    return UlyssesSPAttentionHF.register_with_transformers(
        model_name_or_path=model,
        core_attn_implementation="sdpa",
        sequence_parallel_size=plan.grid.cp,
        micro_batch_size=plan.batch.micro_batch,
        seq_length_is_variable=True,
    )


def _differences(plan: Plan, engine: Any) -> Iterator[str]:
    """Sizes in the engine that are not the plan's."""
    sharded, stage = plan.grid.dp * plan.grid.cp, plan.spec.parallelism.zero
    if engine.seq_dp_world_size != sharded:
        yield f"states are sharded over {engine.seq_dp_world_size} ranks, the plan has dp*cp = {sharded}"
    if int(engine.zero_optimization_stage()) != stage:
        yield f"stage {engine.zero_optimization_stage()}, the plan has {stage}"
    if stage == 3:
        yield from _unequal_partitions(engine, sharded)
    elif stage and plan.grid.ep == 1:
        counts = set(engine.optimizer.partition_count)
        if counts != {sharded}:
            yield f"the optimizer is cut into {counts} parts, the plan has {sharded}"
    if plan.grid.tp > 1 and engine.autotp_size() != plan.grid.tp:
        yield f"autotp_size {engine.autotp_size()}, the plan has tp = {plan.grid.tp}"
    if plan.grid.tp > 1 and not cut_by_extra(plan.spec.backend.deepspeed.extra):
        yield from _unequal_parts(plan, engine)


def _unequal_parts(plan: Plan, engine: Any) -> Iterator[str]:
    """Of the tiny model, what AutoTP left on this rank against what ours counts of it, whatever is launched."""
    small, backend = tiny(plan.spec.model), replace(plan.spec.backend, name="deepspeed")
    whole = (Chunk(first=0, layers=small.layers, embedding=True, final_norm=True, loss=True, mtp=0),)
    expected = stage(small, whole, small.vocab, plan.grid, backend).parameters
    found = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters())
    if found != expected:
        yield f"a rank of the tiny model has {found:,} parameters, the plan counts {expected:,}"


def _unequal_partitions(engine: Any, sharded: int) -> Iterator[str]:
    for name, parameter in engine.module.named_parameters():
        part = math.ceil(parameter.ds_numel / sharded)
        if "expert" not in name and parameter.ds_tensor.numel() != part:
            yield f"{name}: {parameter.ds_tensor.numel()} elements, {parameter.ds_numel} over {sharded} are {part}"
            return
