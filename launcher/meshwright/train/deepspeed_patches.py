"""What DeepSpeed 0.19.8 and transformers 5 need to run together, and on a machine without a GPU."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["experts", "machines", "on_cpu", "readable", "without_compiler"]


def without_compiler() -> None:
    """Keep DeepSpeed from compiling, at every start on a CPU, a collective of inference and Muon's products.

    comm/torch.py:207; runtime/zero/muon/original_muon.py, which for a few steps takes longer than they do.
    """
    import deepspeed
    import torch

    torch.compiler.set_stance("force_eager")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def machines() -> None:
    """Name this rank's machine as DeepSpeed's own launcher does; its checkpoint writers ask for it.

    model_checkpointing/utils.py:85: ``KeyError: 'CROSS_SIZE'`` under torchrun.
    """
    node = os.environ.get("GROUP_RANK", "0")
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    os.environ.setdefault("CROSS_RANK", node)
    os.environ.setdefault("CROSS_SIZE", str(max(1, nodes)))


def readable() -> None:
    """Let the engines that write beside torch's read what they wrote, which holds more than tensors.

    checkpoint_engine/fast_checkpoint_engine.py:44: ``Unsupported global: ZeroStageEnum`` since PyTorch 2.6.
    """
    import torch
    from deepspeed.runtime.checkpoint_engine import decoupled_checkpoint_engine, fast_checkpoint_engine

    def load(self: Any, path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=False)

    decoupled_checkpoint_engine.DecoupledCheckpointEngine.load = load
    fast_checkpoint_engine.FastCheckpointEngine.load = load


def experts() -> None:
    """AutoEP looks up recorders by name and with a default, which transformers' registry by class does not take.

    deepspeed/module_inject/auto_ep_presets/base.py:326: ``TypeError: _CanRecordRegistry.get() takes 2 positional
    arguments but 3 were given``.
    """
    from transformers.utils import output_capturing

    registry = getattr(output_capturing, "_CanRecordRegistry", None)
    if registry is not None:
        registry.get = _get
        registry.__setitem__ = _set


def _get(self: dict[str, Any], key: Any, default: Any = None) -> Any:
    return dict.get(self, key, default) if isinstance(key, str) else dict.get(self, str(key.__class__)) or {}


def _set(self: dict[str, Any], key: Any, value: Any) -> None:
    dict.__setitem__(self, key if isinstance(key, str) else str(key.__class__), value)


def on_cpu(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a CPU can initialize, and what stood in for the rest."""
    changed, substitutions = dict(settings), []
    optimizer = settings["optimizer"]
    if optimizer["type"] == "Lion":
        changed["optimizer"] = {"type": "AdamW", "params": {**optimizer["params"], "torch_adam": True}}
        substitutions.append("torch's Adam for DeepSpeed's Lion, which is compiled for GPUs alone")
    elif optimizer["type"] != "SGD" and not optimizer["params"].get("torch_adam"):
        changed["optimizer"] = {**optimizer, "params": {**optimizer["params"], "torch_adam": True}}
        substitutions.append("torch's Adam for DeepSpeed's compiled one")
    if "fp16" in settings:
        changed = {**changed, "bf16": {"enabled": True}}
        del changed["fp16"]
        substitutions.append("bf16 for fp16, which DeepSpeed's CPU backend lacks")
    changed["zero_optimization"] = _zero_on_cpu(settings["zero_optimization"], substitutions)
    if changed.pop("compile", None):
        substitutions.append("no DeepCompile, which DeepSpeed supports on CUDA alone")
    if changed.get("expert_parallel", {}).get("comm_backend") == "deepep":
        changed["expert_parallel"] = {k: v for k, v in changed["expert_parallel"].items() if not k.startswith("comm_")}
        substitutions.append("the plain all-to-all for DeepEP, which needs GPUs")
    writer = changed.get("checkpoint", {}).get("writer", {})
    if writer.get("type") == "fast":
        changed["checkpoint"] = {**changed["checkpoint"], "writer": {**writer, "type": "python"}}
        substitutions.append("DeepSpeed's writer in Python for its fast one, which is compiled")
    for monitor in ("tensorboard", "wandb"):
        if changed.pop(monitor, None):
            substitutions.append(f"no {monitor}")
    return changed, substitutions


def _zero_on_cpu(zero: dict[str, Any], substitutions: list[str]) -> dict[str, Any]:
    kept = {k: v for k, v in zero.items() if not k.startswith("zero_quantized")}
    if len(kept) < len(zero):
        substitutions.append("no ZeRO++ quantization, which needs CUDA kernels")
    if kept.pop("zenflow", None):
        substitutions.append("no ZenFlow, whose Adam DeepSpeed compiles; its keys are read, its schedule is not run")
    if kept.get("offload_optimizer", {}).get("super_offload"):
        rest = {k: v for k, v in kept["offload_optimizer"].items() if k not in ("super_offload", "cpuadam_cores_perc")}
        kept["offload_optimizer"] = rest
        substitutions.append("plain offload for SuperOffload, which DeepSpeed supports on CUDA alone")
    if kept.get("offload_optimizer", {}).get("ratio", 1.0) < 1:
        kept["offload_optimizer"] = {**kept["offload_optimizer"], "ratio": 1.0}
        substitutions.append("the whole optimizer offloaded for a part of it, which takes DeepSpeed's compiled Adam")
    for name in ("offload_optimizer", "offload_param"):
        if kept.get(name, {}).get("device") == "nvme":
            kept[name] = {"device": "cpu"}
            substitutions.append(f"CPU memory for NVMe in {name}")
    return kept
