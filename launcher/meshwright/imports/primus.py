"""Primus' experiments: Megatron-LM's arguments, or torchtitan's, below the model they name (primus/configs)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Found, Source, shown
from meshwright.imports.shape_values import KERNELS, OWN
from meshwright.imports.shaped import Shape, To, of_shape
from meshwright.imports.torchtitan import of_toml

__all__ = ["of_primus", "takes"]

_TRAINERS = ("modules.pre_trainer.", "modules.post_trainer.")
_OVERRIDES = "overrides."


def _more(leaves: Leaves) -> dict[str, Any]:
    """Layers that are recomputed one by one, as so many of each stage."""
    said = {key: one.value for key, one in leaves.items()}
    layers, stages = said.get("recompute_layer_ids"), said.get("pipeline_model_parallel_size") or 1
    if not layers or not isinstance(stages, int):
        return {}
    count = len(layers) if isinstance(layers, list) else len(str(layers).split(","))
    return {"recompute_method": "block", "recompute_num_layers": -(-count // stages)}


PRIMUS = Shape(
    kind="Primus experiment on Megatron-LM",
    more=_more,
    model="model",
    sections=("",),
    # primus/configs/modules/megatron/pre_trainer.yaml, above trainer_base.yaml
    defaults={
        "bf16": True,
        "use_distributed_optimizer": True,
        "train_iters": 1000,
        "micro_batch_size": 2,
        "global_batch_size": 16,
        "seq_length": 1024,
        "lr": 2.0e-5,
        "min_lr": 0.0,
        "lr_decay_style": "cosine",
        "lr_warmup_iters": 40,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
    },
    keys={
        "norm_epsilon": To("layernorm_epsilon", float),
        "train_data_path": To("data_path", lambda path: str(path).split() if path else None),
        "moe_enable_deepep": To("moe_token_dispatcher_type", lambda on: "flex" if on is True else None),
    },
    reasons={
        "recompute_layer_ids": "single layers; read as so many layers of each stage (recompute_method=block)",
        **dict.fromkeys(
            (
                *("stderr_sink_level", "file_sink_level", "sink_level", "log_avg_skip_iterations", "framework"),
                *("log_avg_reset_interval", "disable_wandb", "disable_tensorboard", "disable_mlflow", "config"),
                *("auto_continue_train", "disable_last_saving", "disable_compile_dependencies", "pp_warmup"),
                *("dump_pp_data", "patch_moe_overlap", "use_rocm_mem_info", "use_rocm_mem_info_iters", "profile"),
                *("torch_profiler_record_shapes", "torch_profiler_with_stack", "torch_profiler_use_gzip"),
                *("disable_profiler_activity_cpu", "wandb_entity", "work_group", "user_name", "exp_name", "workspace"),
                *("valid_data_path", "test_data_path", "no_load_optim", "no_load_rng", "no_save_optim"),
                *("no_save_rng", "platform", "includes"),
            ),
            OWN,
        ),
        **dict.fromkeys(
            (
                *("enable_primus_turbo", "use_turbo_attention", "use_turbo_grouped_gemm", "use_turbo_parallel_linear"),
                *("use_turbo_grouped_mlp", "use_turbo_deepep", "turbo_deepep_num_cu", "turbo_deepep_use_comm_stream"),
                *("turbo_sync_free_moe_stage", "use_turbo_rms_norm", "use_turbo_gemm", "turbo_attention_backend"),
                *(
                    "moe_use_legacy_grouped_gemm",
                    "moe_use_fused_router_with_aux_score",
                    "no_fp8_weight_transpose_cache",
                ),
                *(
                    "use_turbo_fused_act_with_probs",
                    "enable_turbo_attention_float8",
                    "moe_router_force_load_balancing_type",
                ),
                *("disable_parameter_transpose_cache", "apply_rope_fusion"),
            ),
            KERNELS,
        ),
    },
)


def takes(leaves: Leaves) -> bool:
    """Whether a file is an experiment of Primus."""
    return any(f"{trainer}framework" in leaves for trainer in _TRAINERS)


def of_primus(leaves: Leaves) -> Source:
    """One trainer's overrides above the model it names; ``${NAME:default}`` is its default.

    Raises:
        ConfigError: where its framework is another than Megatron-LM or torchtitan.

    """
    filled = {key: replace(one, value=_default(one.value)) for key, one in leaves.items()}
    trainer = next(trainer for trainer in _TRAINERS if f"{trainer}framework" in filled)
    framework = filled[f"{trainer}framework"]
    inner = {_short(key, trainer): one for key, one in filled.items()}
    if "model" in inner:
        inner["model"] = replace(inner["model"], value=str(inner["model"].value).removesuffix(".yaml"))
    if framework.value == "torchtitan":
        return _whole(_titan(inner), filled, trainer)
    if framework.value != "megatron":
        message = f"framework {framework.value} is not read; Primus' megatron and torchtitan are"
        raise ConfigError([Problem(str(framework.place), message, "import.kind")])
    return _whole(of_shape(inner, PRIMUS), filled, trainer)


def _whole(source: Source, leaves: Leaves, trainer: str) -> Source:
    """With the keys as the file writes them."""
    named = {_short(key, trainer): key for key in leaves}
    named["model.flavor"] = named.get("model", "model.flavor")
    return replace(source, found=tuple(replace(one, key=named.get(one.key, one.key)) for one in source.found))


def _short(key: str, trainer: str) -> str:
    return key.removeprefix(trainer).removeprefix(_OVERRIDES)


def _titan(leaves: Leaves) -> Source:
    """The model's name is one word here, torchtitan's are two; other keys outside its sections are Primus' own."""
    own = {key: one for key, one in leaves.items() if ("." not in key and key != "model") or key.startswith("primus_")}
    theirs = {"model.flavor" if key == "model" else key: one for key, one in leaves.items() if key not in own}
    source = of_toml(theirs)
    lost = (Found(key, shown(one.value), one.place, "dropped", reason=OWN) for key, one in own.items())
    return replace(source, kind="Primus experiment on torchtitan", found=(*lost, *source.found))


_WITH_DEFAULT = re.compile(r"\$\{\w+:([^{}]*)\}")


def _default(value: Any) -> Any:
    """What the environment leaves unsaid (primus/core/config: ``${NAME:default}``)."""
    if not isinstance(value, str) or not _WITH_DEFAULT.search(value):
        return value
    text = _WITH_DEFAULT.sub(lambda found: found[1], value)
    try:
        return yaml.safe_load(text) if _WITH_DEFAULT.fullmatch(value) else text
    except yaml.YAMLError:
        return text
