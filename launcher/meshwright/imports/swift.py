"""ms-swift (``megatron sft``): Megatron-LM's arguments with underscores, among its own (swift/megatron/arguments)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.errors import Problem
from meshwright.imports.asks import open_ask
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Given, Remark, Source
from meshwright.imports.shape_values import OWN, on, switch
from meshwright.imports.shaped import Shape, To, of_shape
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.value import said
from meshwright.imports.trainer_keys import LOST, adapted
from meshwright.imports.unknown import is_known

__all__ = ["SWIFT", "of_swift", "processes"]

_METHOD = "rollouts, rewards and losses of its own; the training of the model is read"

SWIFT = Shape(
    kind="ms-swift's Megatron arguments",
    model="model",
    sections=("",),
    # swift/megatron/arguments/megatron_args.py, where they are others than Megatron-LM's
    defaults={
        "bf16": True,
        "use_distributed_optimizer": True,
        "micro_batch_size": 1,
        "global_batch_size": 16,
        "recompute_granularity": "selective",
        "attention_backend": "flash",
        "lr_decay_style": "cosine",
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "min_lr": 0.0,
        "seed": 42,
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": True,
        "cross_entropy_loss_fusion": True,
        "save_interval": 500,
    },
    keys={
        "max_length": To("seq_length"),
        "packing_length": To("seq_length"),
        "output_dir": To("save"),
        "save_steps": To("save_interval"),
        "logging_steps": To("log_interval"),
        "eval_steps": To("eval_interval"),
        "dataloader_num_workers": To("num_workers"),
        "fp8_format": To("fp8"),
        "fp4_format": To("fp4"),
        "moe_enable_deepep": To("moe_token_dispatcher_type", lambda on: "flex" if switch(on) else None),
        "recompute_granularity": To("recompute_granularity", lambda kind: None if kind == "none" else kind),
        "torch_dtype": To(
            "bf16", lambda kind: True if str(kind) in ("bfloat16", "bf16") else None, usual=("bfloat16",)
        ),
        "no_save_optim": To("no_save_optim", on),
        "no_save_rng": To("no_save_rng", on),
        "finetune": To("finetune", on),
    },
    unsets=frozenset(("recompute_granularity",)),
    reasons={
        **LOST,
        **dict.fromkeys(
            (
                *("rlhf_type", "beta", "loss_type", "rpo_alpha", "temperature", "max_completion_length", "epsilon"),
                *("epsilon_high", "num_generations", "steps_per_generation", "dynamic_sample", "overlong_filter"),
                *("importance_sampling_level", "reward_funcs", "teacher_model", "lmbda", "top_p", "top_k", "use_vllm"),
                *("vllm_mode", "vllm_max_model_len", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size"),
                *("sleep_level", "offload_model", "offload_optimizer", "offload_bridge", "multi_turn_scheduler"),
                *("max_turns", "external_plugins", "log_completions", "generation_batch_size", "task_type"),
            ),
            _METHOD,
        ),
        **dict.fromkeys(
            (
                *("save_safetensors", "load_from_cache_file", "split_dataset_ratio", "dataset_num_proc", "system"),
                *("model_name", "model_author", "padding_free", "freeze_vit", "freeze_llm", "freeze_aligner"),
                *("merge_lora", "target_modules", "loss_scale", "enable_thinking", "add_non_thinking_prefix"),
                *("use_hf", "model_type", "columns", "adapters", "to_hf", "to_mcore", "tuner_type", "mcore_model"),
                *("attn_impl", "dataset", "test_convert_precision", "linear_decoupled_in_proj"),
            ),
            OWN,
        ),
        "num_train_epochs": LOST["num_train_epochs"],
        "sequence_packing_scheduler": OWN,
    },
)


def of_swift(leaves: Leaves, scope: Scope) -> Source:
    """The training of ``megatron sft``, ``pt`` or ``rlhf``; processes come from the environment (swift/cli/main.py)."""
    world, open_ranks = processes(scope)
    source = of_shape(leaves, SWIFT, world)
    key = adapted({"adapter": leaves["tuner_type"].value}) if "tuner_type" in leaves else None
    message = "tuner_type: an adapter is trained, which is not described here; what is judged trains all of the model"
    remarks = (Remark("warning", "import.adapter", message, leaves["tuner_type"].place),) if key else ()
    asks = (*open_ranks, *source.asks, *_length(source.values))
    return replace(source, asks=asks, remarks=(*source.remarks, *remarks))


def _length(values: Mapping[str, object]) -> tuple[Ask, ...]:
    if values.get("training.steps"):
        return ()
    message = "epochs are as long as the data are; give training.steps=N or training.tokens=N"
    return (Ask("training.steps", Problem("training.steps", message, "import.missing")),)


def processes(scope: Scope) -> tuple[int | None, tuple[Ask, ...]]:
    """All ranks: NPROC_PER_NODE on each of NNODES; one where neither is said."""
    counts = {name: scope.variables[name][0] for name in ("NPROC_PER_NODE", "NNODES") if scope.variables.get(name)}
    opened = [(name, value) for name, value in counts.items() if not is_known(said(value))]
    if opened:
        name, value = opened[0]
        return None, (open_ask("cluster.gpus", Given(name, said(value), value[0][1])),)
    numbers = [int(said(value)) for value in counts.values() if said(value).isdigit()]
    return (numbers[0] * (numbers[1] if len(numbers) > 1 else 1) if numbers else 1), ()
