"""Nothing a user sets is lost: a field of a Spec changes an emitted file, is refused, or stands here with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.emit.deepspeed import config, program
from meshwright.emit.environment import variables
from meshwright.emit.huggingface import config as architecture
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.emit.torchrun import script
from meshwright.errors import ConfigError
from meshwright.resolver import holds, override, resolve
from meshwright.spec import Spec
from meshwright.spec.model import DeltaNet, Indexer, Mamba, Mla, Moe, Multipliers, Rope, RopeScaling, ShortConvolution

LLAMA3 = Rope(scaling=RopeScaling(kind="llama3", factor=8.0, original_positions=8192))
YARN = Rope(scaling=RopeScaling(kind="yarn", factor=4.0, original_positions=4096))
ROUTED = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1, score="sigmoid", router_bias=True)
MOE = replace(ROUTED, capacity_factor=1.5)
MLA = Mla(kv_lora_rank=16, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32)
NET = DeltaNet(key_heads=4, value_heads=8, key_dim=16, value_dim=16)
INDEXER = Indexer(heads=4, head_dim=16, topk=32)
MAMBA = Mamba(heads=8, head_dim=16, groups=4, state=16)
MIXED = small_model(pattern="M*G-M*GE", mamba=MAMBA, delta_net=NET, moe=replace(MOE, first_dense=0))
OURS = small_model(pattern="4x(P- C-)", mamba=MAMBA, short_convolution=ShortConvolution(), multipliers=Multipliers())

HOSTED = {"offload_optimizer.device": "cpu", "zenflow.topk": 0.1, "zenflow.select_interval": 8}


def with_options(base: Spec, options: dict[str, Any]) -> Spec:
    """``base`` with options of DeepSpeed's."""
    for path, value in options.items():
        base = override(base, f"backend.deepspeed.{path}", value)
    return base


BASES: dict[str, dict[str, Spec]] = {
    "megatron": {
        "mixers": spec(MIXED, 8, global_batch=16, pp=2),
        "our mixers": spec(OURS, 8, global_batch=16, pp=2),
        "indexed": spec(small_model(mla=MLA, indexer=INDEXER), 8, global_batch=16),
        "dense": spec(small_model(rope=LLAMA3), 8, global_batch=16, tp=2, sp=True, pp=2, vpp=2),
        "experts": spec(small_model(moe=MOE, mla=MLA, rope=YARN, mtp=1), 8, global_batch=16, zero=1, ep=2),
    },
    "deepspeed": {
        "zero 1": spec(small_model(transformers="llama"), 8, global_batch=16, zero=1),
        "zero 3": spec(small_model(transformers="llama"), 8, global_batch=16, zero=3),
        "host": with_options(spec(small_model(transformers="llama"), 8, global_batch=8, zero=3), HOSTED),
    },
}

DESCRIBES = "describes the hardware: the cost model and the rules read it, no backend does"
PLACES = "says where things run, not what runs; the launchers read it"
LIBRARY = "names the run; folders and jobs carry it"

COMMON = {
    "stage": LIBRARY,
    "variant": LIBRARY,
    "model.name": LIBRARY,
    "cluster.name": LIBRARY,
    "cluster.accelerator": DESCRIBES,
    "cluster.intra": DESCRIBES,
    "cluster.inter": DESCRIBES,
    "cluster.nvlink_domain": DESCRIBES,
    "cluster.pod": DESCRIBES,
    "cluster.oversubscription": DESCRIBES,
    "cluster.cpus_per_node": DESCRIBES,
    **{f"cluster.{name}": DESCRIBES for name in ("host_memory_gb_s", "host_link_gb_s", "nvme_gib")},
    **{f"cluster.nvme_{name}_gb_s": DESCRIBES for name in ("read", "write")},
    "cluster.price_per_gpu_hour": DESCRIBES,
    "cluster.node_mtbf_hours": DESCRIBES,
    "cluster.storage_gb_s": DESCRIBES,
    "cluster.efficiency": DESCRIBES,
    "software": "what the nodes have: options are judged by it before they come here",
    "cluster.nodes": "the same number stated instead of derived",
    "cluster.gpus_per_node": "on one node torchrun starts as many ranks as the world has",
    "launch.kind": PLACES,
    "launch.dry_run": PLACES,
    "launch.force": PLACES,
    "launch.slurm": "read by the sbatch script, tested there",
    "launch.resiliency": "read by launch.sh where ft_launcher is asked for, tested there",
    "launch.port": "one node stands alone; with several it is in launch.sh, tested there",
    "model.mtp_loss_weight": "without multi-token prediction there is no such loss",
    "training.microbatches": "the same number stated instead of derived",
    "parallelism.overlap_p2p": "without chunks there is no such overlap",
    "parallelism.overlap_param_gather": "without sharded parameters or optimizer nothing is gathered",
}
IRRELEVANT: dict[str, dict[str, str]] = {
    "megatron": {
        **COMMON,
        "name": LIBRARY,
        "backend.deepspeed": "the other backend's options",
        "model.full_attention_every": "a pattern of sliding windows; without a window there is none",
        "backend.megatron.checkpoint_format": "torch_dist stated instead of derived",
        "backend.megatron.fsdp": "ZeRO 2 and 3 only",
        "backend.megatron.moe_dispatcher": "without experts nothing is dispatched",
        "backend.megatron.moe_grouped_gemm": "without experts there is nothing to group",
        "backend.megatron.moe_permute_fusion": "without experts nothing is permuted",
        "backend.megatron.moe_flex_backend": "without experts nothing is dispatched",
        "backend.megatron.moe_flex_sms": "without experts nothing is dispatched",
        "backend.megatron.moe_router_fusion": "without experts nothing is routed",
        "backend.megatron.moe_shared_expert_overlap": "without experts none is shared",
        "backend.megatron.moe_rank_capacity": "without experts there is no such capacity",
        "backend.megatron.moe_paged_stash": "without experts nothing is stashed",
        "backend.megatron.experts": "without experts none is fed",
        "backend.megatron.model": "the class stated that auto would choose",
        "backend.megatron.spec": "our layers stand in only where stock Megatron lacks a part",
        "model.transformers": "the name in transformers",
        "model.attention_bias": "without linear biases there is none to leave out",
        "model.norm_before_positions": "without a norm behind the embedding there is no order",
        "model.kv_heads": "MLA has no key/value heads of its own",
        "model.qk_norm": "MLA norms its compressed queries and keys always",
        "model.shared_parallel_norm": "without a parallel residual there is no norm to share",
        "model.moe.score_before_topk": "normalised weights are the same either way; normalize_topk decides",
        "model.rope.scaling": "factors of the other kinds of scaling",
        "parallelism.dp": "the same number stated instead of derived",
        "training.optimizer.momentum": "SGD and Muon only",
        "training.logging.checkpoints": "our program reads it from config.yaml; tested there",
        "training.logging.save_at_end": "our program reads it from config.yaml; tested there",
        "launch.watchdog": "our program reads it from config.yaml; tested there",
        "training.logging.profile": "our program reads it from config.yaml; tested there",
        "training.logging.keep_last": "our program reads it from config.yaml; tested there",
        "training.data.epochs": "checked before a launch",
        "training.evaluation.steps": "without a validation there are no batches of it",
        "training.data.tokenizer.kind": "bytes and null are Megatron's NullTokenizer",
        "training.schedule.wsd_decay_steps": "wsd only",
        "training.schedule.wsd_decay_style": "wsd only",
    },
    "deepspeed": {
        **COMMON,
        "backend.megatron": "the other backend's options",
        "backend.deepspeed.prefetch_bucket": "ZeRO 3 only",
        "backend.deepspeed.persistence_threshold": "ZeRO 3 only",
        "backend.deepspeed.max_live_parameters": "ZeRO 3 only",
        "backend.deepspeed.max_reuse_distance": "ZeRO 3 only",
        "backend.deepspeed.sub_group_size": "ZeRO 3 only",
        "backend.deepspeed.allgather_bucket": "ZeRO 1 and 2 only",
        "backend.deepspeed.offload_optimizer": "without a device there is no offload",
        "backend.deepspeed.offload_param": "without a device there is no offload",
        "backend.deepspeed.super_offload_cores": "SuperOffload only",
        "backend.deepspeed.zenflow": "without topk there is none, and topk needs an offloaded optimizer",
        "backend.deepspeed.moe_dispatcher_sms": "DeepEP only",
        "backend.deepspeed.attention": "the kernel stated that auto would choose",
        "parallelism.order": "without stages both orders are one",
        "parallelism.cp_comm": "without context parallelism nothing is exchanged",
        "training.optimizer.momentum": "SGD and Muon only",
    },
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, type, value) of every field that is no dataclass itself."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        here, inner = f"{path}.{field.name}".lstrip("."), getattr(value, field.name)
        if is_dataclass(inner):
            yield from leaves(inner, here)
        else:
            yield here, hints[field.name], inner


def others(hint: Any, value: Any) -> list[Any]:
    """Other values of the type."""
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return [choice for choice in arguments if choice != value]
    plain = next((a for a in arguments if a is not type(None)), hint) if type(None) in arguments else hint
    if plain is not hint:
        return others(plain, value)
    if plain is bool:
        return [not value]
    if plain is int:
        return [value + 1, value * 2] if value else [1, 2]
    if plain is float:
        return [value / 2, value * 2, value + 0.5] if value else [0.5]
    return ["other"] if plain is str else []


def emitted(candidate: Spec, backend: str) -> str:
    plan = resolve(candidate)
    files: tuple[Any, ...]
    if backend == "megatron":
        files = (flags(plan), kwargs(plan))
    else:
        files = (config(plan), program(plan), architecture(candidate.model))
    return repr((files, script(plan), variables(plan)))


@cache
def silent_fields(backend: str) -> dict[str, dict[str, list[Spec]]]:
    """By base, the fields that can be changed without effect, with what they were changed to."""
    return {name: dict(lost(base, backend)) for name, base in of_backend(backend).items()}


def of_backend(backend: str) -> dict[str, Spec]:
    named = {name: replace(base.backend, name=backend) for name, base in BASES[backend].items()}  # type: ignore[arg-type]
    return {name: replace(base, backend=named[name]) for name, base in BASES[backend].items()}


def lost(candidate: Spec, backend: str) -> Iterator[tuple[str, list[Spec]]]:
    before = emitted(candidate, backend)
    for path, hint, value in leaves(candidate):
        changed = [override(candidate, path, other) for other in others(hint, value)]
        if same := [one for one in changed if written(one, backend) == before]:
            yield path, same


def written(candidate: Spec, backend: str) -> str | None:
    """None where it is refused."""
    try:
        return emitted(candidate, backend) if holds(candidate, backend) else None
    except ConfigError:
        return None


def pinned(path: str, backend: str) -> bool:
    return any(path == known or path.startswith(f"{known}.") for known in IRRELEVANT[backend])


@pytest.mark.parametrize("backend", BASES)
def test_no_field_is_lost(backend: str) -> None:
    silent = {path for paths in silent_fields(backend).values() for path in paths}
    assert {path for path in silent if not pinned(path, backend)} == set()


@pytest.mark.parametrize("backend", BASES)
def test_the_pinned_list_holds_nothing_more(backend: str) -> None:
    silent = {path for paths in silent_fields(backend).values() for path in paths}
    needless = {
        known for known in IRRELEVANT[backend] if not any(p == known or p.startswith(f"{known}.") for p in silent)
    }
    assert needless == set()


HARDWARE = {
    "cluster": "the machine, which no file describes to a backend",
    "training.data": "what is read takes the time it takes",
}
"""What changes cost without changing a file: the numbers that cost is computed from."""


def costed(candidate: Spec) -> str:
    predicted = cost(resolve(candidate), explained=False)
    return repr((predicted.step, predicted.stages, predicted.traffic))


@pytest.mark.parametrize("backend", BASES)
def test_a_field_that_changes_no_file_changes_no_cost(backend: str) -> None:
    wrong = set()
    for name, base in of_backend(backend).items():
        before = costed(base)
        wrong |= {path for path, same in silent_fields(backend)[name].items() for one in same if costed(one) != before}
    assert {path for path in wrong if not any(path == h or path.startswith(f"{h}.") for h in HARDWARE)} == set()
