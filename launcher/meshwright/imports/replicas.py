"""Hugging Face's Trainer and accelerate where they shard nothing: torch's DistributedDataParallel, not DeepSpeed."""

from __future__ import annotations

from dataclasses import replace

from meshwright.imports.found import Imported, Place, Remark

__all__ = ["named"]

_SHARDS = ("deepspeed", "fsdp", "fsdp_config.reshard_after_forward", "deepspeed_config.deepspeed_config_file")
_BY = ("DEEPSPEED", "FSDP", "MEGATRON_LM")


def named(imported: Imported) -> Imported:
    """With bf16 under DDP read as ZeRO-1, which updates the same weights, and said to be so.

    The Trainer keeps fp32 weights and computes in bf16 by autocast; DeepSpeed at stage 0 has no such fp32 copies.
    """
    if not _replicated(imported):
        return imported
    message = (
        "neither DeepSpeed nor FSDP is named: every GPU keeps all weights and optimizer states (DDP), in fp32, and "
        "computes in bf16 by autocast. No backend here does so; read as DeepSpeed's ZeRO stage 1, which shards the "
        "optimizer's states and so needs less memory"
    )
    place = next((one.place for one in imported.found if one.path == "training.precision"), Place(imported.files[0]))
    remark = Remark("warning", "import.ddp", message, place)
    values = {**imported.values, "parallelism.zero": 1}
    return replace(imported, values=values, remarks=(*imported.remarks, remark))


def _replicated(imported: Imported) -> bool:
    trainer = any("Hugging Face Trainer" in kind or kind.startswith("accelerate") for kind in imported.kinds)
    half = imported.values.get("training.precision") == "bf16" and not imported.values.get("parallelism.zero")
    return trainer and half and not _sharded(imported)


def _sharded(imported: Imported) -> bool:
    """Whether a file or a key says who shards, be it stage 0."""
    return any(kind.startswith("DeepSpeed") for kind in imported.kinds) or any(
        one.key in _SHARDS or one.path == "parallelism.zero" or (one.key == "distributed_type" and one.value in _BY)
        for one in imported.found
    )
