"""NeMo 1 and its launcher: what their keys are called in Megatron-LM (conf/megatron_gpt_config.yaml)."""

from __future__ import annotations

from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.foreign_parts import OTHER
from meshwright.imports.known_models import vocabulary_of
from meshwright.imports.shape_values import KERNELS, OWN, STYLES, activation, first, on, second_beta, switch
from meshwright.imports.shaped import Shape, To

__all__ = ["NEMO"]


_SCHED = "model.optim.sched."
_HALF = ("16", "fp16", "16_mixed")
_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "squared_relu": {"squared_relu": True},
    **{name: {"glu_activation": "geglu"} for name in ("geglu", "fast_geglu")},
}
"""Those beside SwiGLU, which is a switch of Megatron-LM's own."""


def _of_nemo(leaves: Leaves) -> dict[str, Any]:
    centred = "model.normalization" in leaves and leaves["model.normalization"].value == "layernorm1p"
    zero = {"layernorm_zero_centered_gamma": True} if centred else {}
    half = {"fp16": True} if _word(leaves, "trainer.precision") in _HALF else {}
    kind = _ACTIVATIONS.get(_word(leaves, "model.activation"), {})
    return {**second_beta("model.optim.betas")(leaves), **zero, **_tokens(leaves), **kind, **half}


def _word(leaves: Leaves, key: str) -> str:
    return str(leaves[key].value).lower().replace("-", "_") if key in leaves else ""


def _tokens(leaves: Leaves) -> dict[str, Any]:
    """The tokenizer's size, where its name tells it."""
    kind = leaves["model.tokenizer.type"].value if "model.tokenizer.type" in leaves else None
    if kind == "GPT2BPETokenizer":
        return {"tokenizer_type": kind}
    size = vocabulary_of(str(kind)) if kind else None
    return {"vocab_size": size} if size else {}


NEMO = Shape(
    kind="NeMo configuration",
    more=_of_nemo,
    sections=("model",),
    defaults={"bf16": False, "bias_gelu_fusion": False},
    keys={
        "trainer.precision": To(
            "bf16", lambda kind: True if "bf16" in str(kind) else None, usual=("32", "32_true"), beside=_HALF
        ),
        "trainer.max_steps": To("train_iters"),
        "trainer.gradient_clip_val": To("clip_grad", float),
        "trainer.log_every_n_steps": To("log_interval"),
        "model.encoder_seq_length": To("seq_length"),
        "model.num_query_groups": To("num_query_groups"),
        "model.rotary_percentage": To("rotary_percent", float),
        "model.normalization": To(
            "normalization", {"layernorm1p": "LayerNorm", "layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}.__getitem__
        ),
        "model.activation": To("swiglu", activation("swiglu"), usual=("gelu",), beside=tuple(_ACTIVATIONS)),
        "model.share_embeddings_and_output_weights": To(
            "untie_embeddings_and_output_weights", lambda on: not switch(on)
        ),
        "model.bias": To("add_bias_linear", switch),
        "model.activations_checkpoint_granularity": To("recompute_granularity"),
        "model.activations_checkpoint_method": To("recompute_method"),
        "model.activations_checkpoint_num_layers": To("recompute_num_layers"),
        "model.use_flash_attention": To("attention_backend", lambda on: "flash" if on else None),
        "model.fp8": To("fp8", lambda on: "hybrid" if on else None),
        "model.ub_tp_comm_overlap": To("tp_comm_overlap", on),
        "model.qkv_bias": To("add_qkv_bias", switch),
        "model.override_vocab_size": To("padded_vocab_size"),
        "model.seq_len_interpolation_factor": To("rotary_seq_len_interpolation_factor"),
        "model.fsdp": To("use_torch_fsdp2", on),
        "model.optim.name": To(
            "use_distributed_optimizer",
            lambda name: True if "distributed" in str(name) else None,
            usual=("adam", "adamw", "fused_adam"),
        ),
        "model.optim.lr": To("lr", float),
        "model.optim.weight_decay": To("weight_decay", float),
        "model.optim.betas": To("adam_beta1", first),
        f"{_SCHED}name": To("lr_decay_style", STYLES.__getitem__),
        f"{_SCHED}warmup_steps": To("lr_warmup_iters"),
        f"{_SCHED}min_lr": To("min_lr", float),
        "model.data.data_prefix": To("data_path", lambda paths: [str(path) for path in paths] or None),
        "model.data.splits_string": To("split"),
        "model.data.num_workers": To("num_workers"),
    },
    reasons={
        **dict.fromkeys(("exp_manager", "run", "trainer", "name", "restore_from_path", "cluster", "hydra"), OWN),
        **dict.fromkeys(("model.data", "model.optim", "model.tokenizer", "model.nsys_profile"), OWN),
        **dict.fromkeys(
            (
                *("model.megatron_amp_O2", "model.mcore_gpt", "model.transformer_engine", "model.persist_layer_norm"),
                *("model.native_amp_init_scale", "model.native_amp_growth_interval", "model.grad_div_ar_fusion"),
                *("model.grad_allreduce_chunk_size_mb", "model.bias_dropout_add_fusion", "model.batch_p2p_comm"),
                *("model.gradient_as_bucket_view", "model.sync_batch_comm", "model.async_grad_allreduce"),
                *("model.ub_tp_comm_overlap_cfg", "model.get_attention_mask_from_fusion", "model.reduce_amax"),
                *("model.fp8_e4m3", "model.fp8_hybrid", "model.fp8_params", "model.sharp", "model.gc_interval"),
                *("model.use_emha", "model.fsdp_grad_reduce_dtype", "model.fsdp_sharded_checkpoint"),
                *("model.num_micro_batches_with_partial_activation_checkpoints", "model.fsdp_sharding_strategy"),
                "model.activations_checkpoint_layers_per_pipeline",
            ),
            KERNELS,
        ),
        **dict.fromkeys(
            (
                *("defaults", "model.pre_process", "model.post_process", "model.resume_from_checkpoint"),
                *("model.apex_transformer_log_level", "model.restore_from_path", "model.dist_ckpt_format"),
                *("model.name", "model.precision", "model.megatron_legacy", "model.use_scaled_init_method"),
                *("model.do_layer_norm_weight_decay", "model.peft", "model.answer_only_loss"),
            ),
            OWN,
        ),
        **dict.fromkeys(
            (
                *("model.mm_cfg", "model.mcore_customization_config", "model.transformer_block_type"),
                *("model.headscale", "model.normalize_attention_scores", "model.attention_type", "model.ffn_dropout"),
                "model.scale_positional_embedding",
            ),
            f"{OTHER}, where it is set",
        ),
    },
)
