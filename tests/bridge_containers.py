"""NVIDIA's performance recipes as ``benchmarks/bridge_containers.py`` read them, beside ours: which function is which
variant, and what of a ConfigContainer says something for its layout.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["CONTAINERS", "OFF", "environment_of", "function_of", "said", "theirs"]

Values = dict[str, Any]

CONTAINERS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
OFF: tuple[Any, ...] = (None, False, [], {}, 0)
"""Ways to say that something is not switched on."""

_NAME = re.compile(
    r"(?P<model>\w+)_pretrain_(?P<count>\d+)gpu_(?P<gpu>[a-z]+\d+)_(?P<kind>[a-z0-9]+)(?P<rest>_\w+)?_config"
)
_KINDS = {"fp8cs": "fp8_cs", "fp8ds": "fp8_ds", "fp8mx": "fp8_mx", "fp8sc": "fp8_sc"}


def _key(function: str) -> tuple[str, str, int]:
    found = _NAME.fullmatch(function)
    assert found, function
    kind = _KINDS.get(found["kind"], found["kind"]) + (found["rest"] or "")
    return f"nvidia_{found['model']}_{found['gpu']}", kind, int(found["count"])


_FUNCTIONS = {_key(function): function for function in CONTAINERS["functions"]}


def function_of(recipe: str, variant: str, gpus: int) -> str | None:
    """Their function that a variant is; its name ends in the GPUs where several differ in these alone."""
    return _FUNCTIONS.get((recipe, re.sub(r"_\d+gpus$", "", variant), gpus))


def theirs(function: str) -> Values:
    """Everything that ``function`` sets, by ``part.field`` of its ConfigContainer."""
    return {**CONTAINERS["models"][function.partition("_pretrain_")[0]], **CONTAINERS["functions"][function]}


def environment_of(function: str) -> dict[str, str]:
    """The environment variables that ``function`` sets."""
    return {key.removeprefix("env."): value for key, value in theirs(function).items() if key.startswith("env.")}


def said(values: Values) -> Values:
    """Without what says nothing for this layout, and in the words that replaced theirs (cuda_graph_scope)."""
    silent = tuple(start for start, speaks in _SPEAKS if not speaks(values))
    kept = {k: v for k, v in values.items() if not k.startswith((*silent, "env."))}
    kind, scope = kept.get("model.cuda_graph_impl", "none"), kept.pop("model.cuda_graph_scope", None)
    kind = "transformer_engine" if kept.pop("model.external_cuda_graph", False) else kind
    modules = kept.pop("model.cuda_graph_modules", None) or scope or []
    whole = "full_iteration" in modules
    if kept.get("model.moe_flex_dispatcher_num_sms") is not None:
        kept.pop("model.moe_hybridep_num_sms", None)  # whose former name this is
    if ahead := kept.pop("model.mtp_hybrid_override_pattern", None):  # as training/arguments.py:757 joins them
        kept["model.hybrid_layer_pattern"] += f"/{ahead}" * kept["model.mtp_num_layers"]
    if table := kept.get("model.tp_comm_overlap_cfg"):
        kept["model.tp_comm_overlap_cfg"] = {name: _product(words) for name, words in table.items()}
    graphs = {"model.cuda_graph_impl": "full_iteration" if whole else kind}
    return {**kept, **graphs, "model.cuda_graph_modules": [] if whole or kind == "none" else modules}


def _product(words: Values) -> Values:
    """A comma too many made ``fp8_buf`` a tuple (comm_overlap.py:52), of products in 16 bits, which read none of it."""
    return {key: value[0] if isinstance(value, list) else value for key, value in words.items()}


def _on(key: str) -> Any:
    return lambda values: values.get(key) not in OFF


def _fsdp(values: Values) -> bool:
    return bool(values["ddp.use_megatron_fsdp"])


def _selective(values: Values) -> bool:
    return values.get("model.recompute_granularity") == "selective"


def _muon(values: Values) -> bool:
    return "muon" in values["optimizer.optimizer"]


def _experts(values: Values) -> bool:
    return bool(values.get("model.expert_tensor_parallel_size"))


def _dispatched_by(name: str) -> Any:
    return lambda v: (
        v.get("model.moe_token_dispatcher_type") == "flex" and v["model.moe_flex_dispatcher_backend"] == name
    )


_SPEAKS: tuple[tuple[str, Any], ...] = (
    *((start, _experts) for start in ("model.moe_", "model.expert_")),
    ("model.moe_flex_", lambda v: v.get("model.moe_token_dispatcher_type") == "flex"),
    *((f"model.moe_{name}_num", _dispatched_by(name)) for name in ("hybridep", "deepep")),
    ("model.moe_paged_stash_", _on("model.moe_paged_stash")),
    *((f"ddp.{part}", _fsdp) for part in ("fsdp_", "data_parallel_sharding", "outer_dp", "megatron_fsdp_", "keep_fp8")),
    *((part, _fsdp) for part in ("ddp.suggested_communication", "ddp.use_custom_fsdp", "model.init_model_with_meta")),
    ("model.num_layers_at_", _on("model.first_last_layers_bf16")),
    ("model.recompute_modules", _selective),
    ("model.yarn_", lambda v: v.get("model.position_embedding_type") == "yarn"),
    ("model.batch_p2p_comm", lambda v: v["model.pipeline_model_parallel_size"] > 1),
    ("model.overlap_p2p_comm", lambda v: v["model.pipeline_model_parallel_size"] > 1),
    ("model.cp_comm_type", lambda v: v["model.context_parallel_size"] > 1),
    ("model.wgrad_deferral_limit", _on("model.defer_embedding_wgrad_compute")),
    ("model.cuda_graph_warmup_steps", lambda v: v.get("model.cuda_graph_impl", "none") != "none"),
    ("model.tp_comm_bootstrap", _on("model.tp_comm_overlap")),
    *((f"{part}.fp8_recipe", _on("model.fp8")) for part in ("model", "optimizer")),
    *((f"optimizer.{name}", _muon) for name in ("muon_", "adaptive_muon_", "use_layer_wise")),
    *((f"optimizer.{name}", lambda _: False) for name in ("lion_", "soap_")),  # none trains with these
    ("optimizer.optimizer_offload_fraction", _on("optimizer.optimizer_cpu_offload")),
    *(
        (f"optimizer.{name}", _on("optimizer.fp16"))
        for name in ("loss_scale", "initial_loss", "min_loss", "hysteresis")
    ),
    ("scheduler.lr_wsd_", lambda v: v["scheduler.lr_decay_style"] == "WSD"),
    ("ddp.align_param_gather", _on("ddp.overlap_param_gather")),
)
"""Beginnings of keys, and for which containers they say something."""
