"""DeepSpeed's options in a miniature: those that a CPU can train with, and what is said of the others."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.spec import DeepSpeedOptions, Offload
from meshwright.spec.techniques import Tiling

__all__ = ["of_deepspeed", "small_options"]

PIECES = 4
"""At most. Ours: a few, so that their borders are seen."""


def small_options(o: DeepSpeedOptions, tokens: int) -> DeepSpeedOptions:
    """``o`` for a rank of ``tokens`` tokens: pieces of them, and states that leave for the host's memory."""
    pieces = min(PIECES, tokens)
    return DeepSpeedOptions(
        torch_adam=True,
        tiling=Tiling(loss=min(o.tiling.loss, pieces), mlp=min(o.tiling.mlp, pieces)),
        offload_optimizer=_hosted(o.offload_optimizer),
        offload_param=_hosted(o.offload_param),
    )


def _hosted(state: Offload) -> Offload:
    return Offload() if state.device == "none" else Offload(device="cpu", pin_memory=False)


def of_deepspeed(o: DeepSpeedOptions) -> Iterator[str]:
    """What a miniature leaves out: one sentence each."""
    if "nvme" in (o.offload_optimizer.device, o.offload_param.device):
        yield "CPU memory instead of NVMe: DeepSpeed compiles what reads and writes disks"
    if o.offload_optimizer.ratio < 1:
        yield "the whole optimizer offloaded: a part of it takes DeepSpeed's compiled Adam"
    if o.zenflow.topk is not None:
        yield "no ZenFlow: DeepSpeed compiles its Adam"
    if o.super_offload:
        yield "plain offload instead of SuperOffload, which needs a CUDA GPU"
    if o.deep_compile.enabled:
        yield "no DeepCompile, which needs a CUDA GPU"
    if o.hpz > 1 or o.quantized_weights or o.quantized_gradients:
        yield "plain ZeRO-3 instead of ZeRO++"
