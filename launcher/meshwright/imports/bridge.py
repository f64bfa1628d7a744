"""Megatron-Bridge (training/config.py, models/gpt_provider.py): what its keys are called in Megatron-LM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from meshwright.imports import bridge_values
from meshwright.imports.bridge_precision import fields_of
from meshwright.imports.bridge_tables import recipe, table
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Found, Remark, Source, shown
from meshwright.imports.shape_values import KERNELS, OWN, on, switch
from meshwright.imports.shaped import Shape, To, of_shape

__all__ = ["BRIDGE", "of_bridge"]


def of_bridge(leaves: Leaves, world: int | None = None) -> Source:
    """A ConfigContainer's YAML, a checkpoint's run_config.yaml, or overrides for a recipe."""
    single = bridge_values.plain(leaves)
    source = of_shape(single, BRIDGE, world)
    return replace(source, found=(*_named(leaves), *source.found), remarks=(*source.remarks, *_remarks(single)))


def _named(leaves: Leaves) -> Iterator[Found]:
    """A recipe of precision by name, whose fields stand beside it."""
    if "mixed_precision" in leaves and fields_of(str(leaves["mixed_precision"].value)):
        one = leaves["mixed_precision"]
        yield Found(one.key, shown(one.value), one.place, "mapped", "training.precision")


def _remarks(leaves: Leaves) -> Iterator[Remark]:
    yield from _lengths(leaves)
    unknown, half = leaves.get("mixed_precision"), leaves.get("mixed_precision.fp16")
    if unknown and unknown.value is not None:
        message = f"mixed_precision={shown(unknown.value)}: no recipe of that name is known here; read as bf16_mixed"
        yield Remark("warning", "bridge.precision", message, unknown.place)
    if half and half.value is True:
        message = "Bridge sums gradients of fp16 in fp16; read as summed in fp32"
        yield Remark("warning", "bridge.fp16", message, half.place)


_LENGTHS = ("dataset.sequence_length", "dataset.seq_length")


def _lengths(leaves: Leaves) -> Iterator[Remark]:
    """Two lengths of a sequence, which Bridge compares (training/config.py:1644)."""
    model = leaves.get("model.seq_length")
    data = next((leaves[key] for key in _LENGTHS if key in leaves), None)
    if model and data and isinstance(data.value, int) and model.value != data.value:
        message = (
            f"{data.key}={data.value} is not model.seq_length={model.value}: Bridge stops where they differ; "
            f"{data.value} is read"
        )
        yield Remark("warning", "bridge.sequence", message, data.place)


def _more(leaves: Leaves) -> Mapping[str, Any]:
    said = {key: one.value for key, one in leaves.items()}
    model = {**_sequence(said), **_activation(said), **_rope(said), **_dispatched(said)}
    return {**_either(said), **model, **_decay(said), **_overlap(said)}


def _either(said: Mapping[str, Any]) -> dict[str, Any]:
    """Switches of two sections that Bridge turns on in both where one has them on (training/config.py:2111)."""
    names = ("use_distributed_optimizer", "overlap_param_gather", "use_megatron_fsdp")
    stated = {name: [said[key] for key in _in_sections(name, said)] for name in names}
    return {name: True in values for name, values in stated.items() if len(values) > 1}


def _in_sections(name: str, said: Mapping[str, Any]) -> list[str]:
    return [key for key in (f"{part}.{name}" for part in ("ddp", "optimizer", "dist")) if key in said]


def _sequence(said: Mapping[str, Any]) -> dict[str, Any]:
    """A model has as many positions as a sequence has tokens (models/gpt_provider.py)."""
    data = next((said[key] for key in _LENGTHS if isinstance(said.get(key), int)), None)
    model = said.get("model.seq_length", data)
    positions = said.get("model.max_position_embeddings", model)
    return {name: value for name, value in (("seq_length", data), ("max_position_embeddings", positions)) if value}


def _overlap(said: Mapping[str, Any]) -> dict[str, Any]:
    """Bridge lets nothing overlap without tensor and sequence parallelism (training/comm_overlap.py:437)."""
    cut = said.get("model.tensor_model_parallel_size", 1) != 1 and said.get("model.sequence_parallel") is True
    return {} if cut or said.get("comm_overlap.tp_comm_overlap") is not True else {"tp_comm_overlap": False}


_OTHERS = ("squared_relu", "quick_gelu")
_GATED: dict[str, dict[str, Any]] = {
    "silu": {"swiglu": True},
    "gelu": {"swiglu": False, "glu_activation": "geglu"},
    "quick_gelu": {"swiglu": False, "quick_geglu": True},
}


def _activation(said: Mapping[str, Any]) -> dict[str, Any]:
    """GELU is torch's own, exact; a gate makes it another one."""
    kind, gated = str(said.get("model.activation_func", "")), said.get("model.gated_linear_unit") is True
    if kind == "squared_relu":
        return {"squared_relu": True}
    exact = {"bias_gelu_fusion": False} if kind == "gelu" and said.get("model.bias_activation_fusion") is False else {}
    return _GATED.get(kind, {}) if gated else exact


def _decay(said: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler sets the optimizer's weight decay at every step (training/optim.py:347)."""
    ends = [said.get(f"scheduler.{end}_weight_decay") for end in ("start", "end")]
    return {"weight_decay": ends[0]} if ends[0] is not None and ends[0] == ends[1] else {}


def _blend(value: Any) -> list[str] | None:
    """Two lists: paths, and their weights or nothing."""
    if value is None:
        return None
    paths, weights = value
    return [str(word) for pair in zip(weights, paths, strict=True) for word in pair] if weights else list(paths)


def _dispatched(said: Mapping[str, Any]) -> dict[str, Any]:
    """Multiprocessors of the dispatcher that is chosen."""
    kind = said.get("model.moe_flex_dispatcher_backend") or "deepep"
    count = said.get(f"model.moe_{kind}_num_sms")
    flexible = said.get("model.moe_token_dispatcher_type") == "flex"
    return {"moe_flex_dispatcher_num_sms": count} if flexible and count else {}


def _rope(said: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3.1's stretch, which earlier versions had as fields of a provider of its own."""
    factor = said.get("model.scale_factor")
    return (
        {"use_rope_scaling": True, "rope_scaling_factor": factor} if factor and "model.low_freq_factor" in said else {}
    )


def _number_or_switch(value: Any) -> Any:
    """Bridge's own recipes write 100 where it is a switch (recipes/common.py:70)."""
    return value > 0 if isinstance(value, int) else value


_BUFFERS = "tp_comm_overlap_cfg"
_MADE = "a function or an object of Python, which follows from the rest"
_COPIED = "Bridge fills it in from the rest"
_HALVES = "which halves compute and travel follows from the precision"
_LLAMA31 = "as Llama 3.1 has it, where rope is stretched"
_CLASS = "it names a class of Python"
_SECTIONS = (
    *("model", "train", "optimizer", "scheduler", "ddp", "dist", "dataset", "checkpoint", "logger", "rng"),
    *("tokenizer", "mixed_precision", "comm_overlap", "validation"),
)
_OTHER_SECTIONS = (
    *("profiling", "peft", "ft", "straggler", "nvrx_straggler", "inprocess_restart", "rerun_state_machine"),
    *("tensor_inspect", "in_process_restart", "env"),
)

BRIDGE = Shape(
    kind="Megatron-Bridge configuration",
    more=_more,
    defaults={"bf16": True, "use_distributed_optimizer": True},  # of all its recipes (recipes/common.py)
    sections=_SECTIONS,
    unsets=frozenset(("mixed_precision.fp8", "mixed_precision.fp4")),
    keys={
        "model.share_embeddings_and_output_weights": To(
            "untie_embeddings_and_output_weights", lambda on: not switch(on)
        ),
        "model.num_query_groups": To("num_query_groups"),
        "model.gated_linear_unit": To("swiglu", on),
        "model.activation_func": To("swiglu", lambda _: None, usual=("gelu",), beside=("silu", *_OTHERS)),
        "model.seq_len_interpolation_factor": To("rotary_seq_len_interpolation_factor"),
        "model.rope_scaling": To("use_rope_scaling", on),
        "model.scale_factor": To("rope_scaling_factor"),
        "model.cuda_graph_scope": To(
            "cuda_graph_modules", lambda names: names if isinstance(names, list) else None, usual=("full",)
        ),
        "model.moe_deepep_num_sms": To("moe_flex_dispatcher_num_sms", lambda _: None, usual=("20",)),
        "model.moe_hybridep_num_sms": To("moe_flex_dispatcher_num_sms", lambda _: None, usual=("16",)),
        "model.use_te_rng_tracker": To("te_rng_tracker", on),
        **dict.fromkeys((f"{part}.tp_comm_overlap_cfg" for part in ("model", "comm_overlap")), To(_BUFFERS, table)),
        "model.quant_recipe": To("te_precision_config_file", recipe),
        "model.fp8_param": To("fp8_param_gather", on),
        "model.fp4_param": To("fp4_param_gather", on),
        "mixed_precision.fp8_param": To("fp8_param_gather", on),
        "mixed_precision.fp4_param": To("fp4_param_gather", on),
        "mixed_precision.grad_reduce_in_fp32": To("grad_reduce_in_bf16", lambda on: not switch(on)),
        "ddp.grad_reduce_in_fp32": To("grad_reduce_in_bf16", lambda on: None if on else True, usual=("true",)),
        "dataset.seq_length": To("seq_length"),
        "dataset.sequence_length": To("seq_length"),
        "dataset.blend": To("data_path", _blend),
        "dataset.path_to_cache": To("data_cache_path"),
        "dataset.mock": To("mock_data", on),
        "scheduler.end_weight_decay": To("weight_decay"),
        "scheduler.start_weight_decay": To("weight_decay"),
        "scheduler.max_steps": To("lr_decay_iters"),
        "dist.enable_megatron_core_experimental": To("enable_experimental", on),
        "ddp.bucket_size": To("ddp_bucket_size"),
        "comm_overlap.bucket_size": To("ddp_bucket_size"),
        "train.manual_gc_eval": To("manual_gc_eval", _number_or_switch),
    },
    reasons={
        "_target_": _CLASS,
        "mixed_precision": "no recipe of precision, and no field of one, that is read here",
        **{f"{section}._target_": _CLASS for section in (*_SECTIONS, *_OTHER_SECTIONS)},
        **dict.fromkeys(("model.teacher", "model.kd_config", "validation", "logger", *_OTHER_SECTIONS), OWN),
        **dict.fromkeys(("dataset", "checkpoint", "ddp", "dist", "model.freeze_language_model", "optimizer"), OWN),
        **dict.fromkeys(
            (
                *("model.init_method", "model.output_layer_init_method", "model.embedding_init_method"),
                *("model.finalize_model_grads_func", "model.grad_scale_func", "model.grad_sync_func"),
                *("model.no_sync_func", "model.param_sync_func", "model.timers", "model.transformer_layer_spec"),
                *("model.generation_config", "train.exit_signal", "optimizer.timers", "dataset.tokenizer"),
                *("model.hf_model_id", "model.attention_mask_func", "model.mtp_block_spec"),
            ),
            _MADE,
        ),
        **dict.fromkeys(
            (
                *(f"{part}.{kind}_dtype" for part in ("model", "mixed_precision") for kind in ("params", "pipeline")),
                *("model.autocast_dtype", "model.enable_autocast", "optimizer.params_dtype"),
                *("mixed_precision.autocast_dtype", "mixed_precision.autocast_enabled", "mixed_precision.fp32"),
            ),
            _HALVES,
        ),
        **dict.fromkeys(
            (
                *("scheduler.lr_decay_steps", "scheduler.lr_warmup_steps", "scheduler.wd_incr_steps"),
                *("scheduler.wsd_decay_steps", "model.mtp_enabled", "model.parallel_output", "dataset.split_matrix"),
                *("model.should_pad_vocab", "model.perform_initialization", "optimizer.fp8_recipe"),
            ),
            _COPIED,
        ),
        **dict.fromkeys(("model.low_freq_factor", "model.high_freq_factor", "model.old_context_len"), _LLAMA31),
        **dict.fromkeys(
            (
                *("model.batch_p2p_comm", "model.batch_p2p_sync", "model.deallocate_pipeline_outputs"),
                *("model.cuda_graph_retain_backward_graph", "model.persist_layer_norm", "model.enable_cuda_graph"),
                *("model.activation_func_fp8_input_store", "model.async_tensor_model_parallel_allreduce"),
                *("model.fp8_dot_product_attention", "model.fp8_multi_head_attention", "model.external_cuda_graph"),
                *("mixed_precision.fp8_dot_product_attention", "mixed_precision.fp8_multi_head_attention"),
                *("model.hetereogenous_dist_checkpoint", "model.moe_enable_deepep", "model.cpu_offloading"),
                *("model.cpu_offloading_activations", "model.cpu_offloading_weights"),
            ),
            KERNELS,
        ),
    },
)
