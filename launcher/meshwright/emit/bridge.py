"""Plan -> Megatron-Bridge: its ConfigContainer as YAML, and the same as overrides for a recipe's run script.

Megatron-core's keyword arguments are Bridge's, too (its configuration objects extend Megatron-core's); what the command
line of Megatron-LM says beside them stands here under Bridge's names. Values are stated one by one, so that no
``mixed_precision`` or ``comm_overlap`` of a recipe decides them. Names: Megatron-Bridge 0.6, training/config.py,
models/gpt_provider.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from meshwright.emit.megatron import checkpoint_format, environment, uses_fsdp
from meshwright.emit.megatron_groups import group_kwargs
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.emit.megatron_techniques import collections
from meshwright.layout.length import decay_steps
from meshwright.layout.plan import Plan
from meshwright.model.user_buffers import products
from meshwright.spec.identity import as_json

__all__ = ["container", "files"]

Values = dict[str, Any]

_ROOT = "megatron.bridge.training"


def files(plan: Plan) -> dict[str, str]:
    """``ConfigContainer.from_yaml`` reads the first; a run script's command line takes the second."""
    return {
        "config.yaml": yaml.safe_dump(container(plan), sort_keys=False),
        "overrides.txt": "".join(f"{line}\n" for line in _overrides(container(plan), "")),
        "environment.json": as_json(_environment(plan)),
    }


def container(plan: Plan) -> Values:
    """The ConfigContainer, each part with the class that takes it."""
    own = kwargs(plan)
    config = f"{_ROOT}.config"
    parts = {
        "model": ("megatron.bridge.models.gpt_provider.GPTModelProvider", _model(plan, own["TransformerConfig"])),
        "train": (f"{config}.TrainingConfig", _train(plan)),
        "validation": ("megatron.training.config.ValidationConfig", {"eval_iters": 0, "eval_interval": None}),
        "optimizer": (f"{config}.OptimizerConfig", _objects(own["OptimizerConfig"])),
        "scheduler": (f"{config}.SchedulerConfig", _scheduler(plan)),
        "ddp": (f"{config}.DistributedDataParallelConfig", own["DistributedDataParallelConfig"]),
        "dist": (f"{config}.DistributedInitConfig", _dist(plan)),
        "dataset": (f"{config}.{'GPT' if plan.spec.training.data.paths else 'MockGPT'}DatasetConfig", _dataset(plan)),
        "tokenizer": (f"{_ROOT}.tokenizers.config.TokenizerConfig", _tokenizer(plan)),
        "checkpoint": (f"{config}.CheckpointConfig", _checkpoint(plan)),
        "logger": (f"{config}.LoggerConfig", _logger(plan)),
        "rng": ("megatron.training.config.RNGConfig", {"seed": plan.spec.training.seed}),
    }
    made = {name: {"_target_": target, **values} for name, (target, values) in parts.items()}
    return {"_target_": f"{config}.ConfigContainer", **made, "mixed_precision": None, "comm_overlap": None}


_FUNCTIONS = {
    "silu": "torch.nn.functional.silu",
    "gelu": "torch.nn.functional.gelu",
    "quick_gelu": "megatron.core.fusions.fused_bias_geglu.quick_gelu",
    "relu": "torch.nn.functional.relu",
    "squared_relu": "megatron.core.activations.squared_relu",
}


def _objects(values: Mapping[str, Any]) -> Values:
    """Names of dtypes, functions and enumerations as YAML of Megatron's own writes them."""
    made = dict(values)
    for name, value in values.items():
        if name.endswith("dtype") and isinstance(value, str) and name != "moe_router_dtype":
            made[name] = _named(f"torch.{value}")
    if "activation_func" in made:
        made["activation_func"] = _named(_FUNCTIONS[made["activation_func"]])
    if "attention_backend" in made:
        made["attention_backend"] = _named(f"megatron.core.transformer.enums.AttnBackend.{made['attention_backend']}")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}


_QUANT = "megatron.core.quantization.quant_config"


def _recipe(said: Mapping[str, Any]) -> Values:
    """A RecipeConfig as Bridge itself writes one (training/utils/config_utils.py)."""
    matchers = [
        {"_target_": f"{_QUANT}.GlobMatcher", "pattern": one["pattern"], "config_key": one["config"]}
        for one in said["matchers"].values()
    ]
    return {"_target_": f"{_QUANT}.RecipeConfig", "matchers": matchers, "config_dict": said["configs"]}


def _named(target: str) -> Values:
    return {"_target_": target, "_call_": False}


def _model(plan: Plan, transformer: Mapping[str, Any]) -> Values:
    m, scaling = plan.spec.model, plan.spec.model.rope.scaling
    stretched = scaling is not None and scaling.kind == "llama3"
    return {
        **_objects(transformer),
        **({"quant_recipe": _recipe(said)} if (said := transformer.get("quant_recipe")) else {}),
        **({"tp_comm_overlap_cfg": said} if (said := products(plan.spec.backend.megatron.tp_overlap)) else {}),
        "vocab_size": m.vocab,
        "should_pad_vocab": True,
        "make_vocab_size_divisible_by": plan.spec.backend.megatron.vocab_divisor,
        "seq_length": plan.batch.sequence,
        "share_embeddings_and_output_weights": m.tied_embeddings,
        "position_embedding_type": {"learned": "learned_absolute"}.get(m.positions, m.positions),
        "rotary_base": int(m.rope.base),
        "rotary_percent": m.rope.fraction,
        "rope_scaling": stretched,
        **({"rope_scaling_factor": scaling.factor} if scaling and stretched else {}),
        **({"seq_len_interpolation_factor": scaling.factor} if scaling and not stretched else {}),
    }


def _train(plan: Plan) -> Values:
    return {
        "empty_unused_memory_level": plan.spec.backend.megatron.empty_cache,
        **collections(plan),
        "train_iters": plan.steps,
        "global_batch_size": plan.batch.global_batch,
        "micro_batch_size": plan.batch.micro_batch,
        "exit_signal_handler": True,
    }


_STYLES = {"wsd": "WSD", "inverse_sqrt": "inverse-square-root"}


def _scheduler(plan: Plan) -> Values:
    training = plan.spec.training
    schedule, decay = training.schedule, training.optimizer.weight_decay
    wsd = {
        "lr_wsd_decay_style": schedule.wsd_decay_style,
        "lr_wsd_decay_iters": schedule.wsd_decay_steps,
    }
    return {
        "lr_decay_style": _STYLES.get(schedule.style, schedule.style),
        "lr_warmup_iters": schedule.warmup_steps,
        "lr_decay_iters": decay_steps(training, plan.batch.global_batch),
        **(wsd if schedule.style == "wsd" else {}),
        "start_weight_decay": decay,
        "end_weight_decay": decay,
        "weight_decay_incr_style": "constant",
    }


def _dist(plan: Plan) -> Values:
    torch_fsdp = uses_fsdp(plan) and plan.spec.backend.megatron.fsdp == "torch"
    return {
        "use_tp_pp_dp_mapping": plan.spec.parallelism.order == "tp-cp-ep-pp-dp",
        "use_megatron_fsdp": uses_fsdp(plan) and not torch_fsdp,
        "use_torch_fsdp2": torch_fsdp,
        "enable_megatron_core_experimental": plan.spec.backend.megatron.experimental,
        **group_kwargs(plan),
    }


def _dataset(plan: Plan) -> Values:
    data = plan.spec.training.data
    weighted = [word for weight, path in zip(data.weights, data.paths, strict=False) for word in (f"{weight:g}", path)]
    named = {"data_path": weighted or list(data.paths), "split": data.split} if data.paths else {}
    return {
        "seq_length": plan.batch.sequence,
        "random_seed": plan.spec.training.seed,
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "dataloader_type": "single",
        "num_workers": data.workers,
        "path_to_cache": data.cache,
        **named,
    }


_TOKENIZERS = {
    "huggingface": "HuggingFaceTokenizer",
    "sentencepiece": "SentencePieceTokenizer",
    "tiktoken": "TikTokenizer",
}


def _tokenizer(plan: Plan) -> Values:
    """The model's vocabulary stays the plan's, whatever the tokenizer's."""
    tokenizer = plan.spec.training.data.tokenizer
    return {
        "tokenizer_type": _TOKENIZERS.get(tokenizer.kind, "NullTokenizer"),
        "tokenizer_model": tokenizer.path,
        "vocab_size": plan.spec.model.vocab,
        "use_tokenizer_vocab_size": False,
    }


def _checkpoint(plan: Plan) -> Values:
    logging = plan.spec.training.logging
    saves = {"save": logging.folder, "save_interval": logging.save_interval or plan.steps}
    return {
        **(saves if logging.checkpoints else {"save": None}),
        "load": logging.load,
        "ckpt_format": checkpoint_format(plan),
        "fully_parallel_load": plan.spec.backend.megatron.checkpoint_parallel_load,
        "dist_ckpt_optim_fully_reshardable": plan.spec.backend.megatron.checkpoint_reshardable,
    }


def _logger(plan: Plan) -> Values:
    logging = plan.spec.training.logging
    return {
        "log_interval": logging.interval,
        "log_throughput": True,
        "tensorboard_dir": logging.tensorboard,
        "wandb_project": logging.wandb_project,
        "wandb_exp_name": logging.wandb_name or plan.spec.name,
    }


def _environment(plan: Plan) -> dict[str, str]:
    return {
        **{name: one.value for name, one in {**plan.spec.cluster.environment, **environment(plan)}.items()},
        **plan.spec.launch.environment,
    }


def _overrides(values: Mapping[str, Any], path: str) -> Iterator[str]:
    """``path=value`` as Hydra's grammar reads it; which classes take the values is the recipe's business."""
    for name, value in values.items():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, Mapping) and "_call_" in value:
            yield f"{here}={{_target_:{value['_target_']},_call_:false}}"
        elif isinstance(value, Mapping):
            yield from _overrides(value, here)
        elif name != "_target_":
            yield f"{here}={_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    plain = not isinstance(value, str) or value.replace("_", "").replace("-", "").replace("/", "").isalnum()
    return str(value) if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
