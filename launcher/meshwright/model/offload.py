"""Where the states of one parameter are kept when they are offloaded: bytes on the GPU, the host and NVMe.

Places: DeepSpeed 0.19.8, below ``deepspeed/runtime/zero/``. An *owned* parameter is one that this rank's shard holds.
Arithmetic takes numbers or arrays of them, as a rule's ``holds`` does.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from meshwright.model.optimizer_state import state_bytes
from meshwright.spec import DeepSpeedOptions, Training
from meshwright.spec.frozen import dataclass

__all__ = [
    "GRADIENT",
    "MASTER",
    "Kept",
    "hybrid",
    "kept",
    "optimizer_part",
    "summed_bytes",
    "sums_beside",
    "weight_bytes",
]

Number = Any  # an int, float or bool, or a NumPy array of them

MASTER = GRADIENT = 4  # bytes of the fp32 copies that the optimizer steps on
_OPTIMIZER_BUFFERS = 4  # of a sub-group's size: offload_config.py:67
_PARAMETER_BUFFERS = 5 * 100_000_000  # elements: offload_config.py:33
_PARAMETERS_BESIDE_NVME = 1_000_000_000  # elements: offload_config.py:39


@dataclass(frozen=True)
class Kept:
    """Bytes of one owned parameter. ``pinned`` are of ``host``; ``buffers`` are a rank's own, pinned, beside it."""

    weight: Number = 0  # on the GPU, as the next two
    gradient: Number = 0
    optimizer: Number = 0
    host: Number = 0
    pinned: Number = 0
    nvme: Number = 0
    buffers: Number = 0


def kept(o: DeepSpeedOptions, t: Training, zero: Number, microbatches: Number, owned: Number) -> Kept:
    """What a rank of ``owned`` parameters keeps where. A gradient that ZeRO-1 keeps whole counts as if owned."""
    third, others = _stage_3(o, t, owned), _stages_1_and_2(o, t, zero, microbatches)
    three = (zero == 3) + 0
    pairs = {f.name: (getattr(third, f.name), getattr(others, f.name)) for f in fields(Kept)}
    return Kept(**{name: three * at_3 + (1 - three) * below for name, (at_3, below) in pairs.items()})


def hybrid(part: float, t: Training) -> Kept:
    """Megatron's optimizer on both devices: masters and gradients of ``part`` are pinned on the host.

    megatron-core 0.19.2, core/optimizer/cpu_offloading/hybrid_optimizer.py; what stays is counted with the backend's
    other states.
    """
    return Kept(host=part * (MASTER + GRADIENT + state_bytes(t.optimizer.name)), pinned=part * (MASTER + GRADIENT))


def optimizer_part(o: DeepSpeedOptions, owned: Number) -> Number:
    """Part of the optimizer's states that leaves the GPU.

    Whole sub-groups do, the first ``int((1 - ratio)*n)`` of n stay (stage3.py:1105). The last is of the parameters
    that do not decay, which are next to nothing.
    """
    if o.offload_optimizer.device == "none":
        return 0 * owned
    groups = -(-owned // o.sub_group_size) + 1
    left = 1 - (1 - o.offload_optimizer.ratio) * groups // 1 * o.sub_group_size / owned
    return left * (left > 0)


def weight_bytes(t: Training) -> int:
    """Of a weight that the model computes with."""
    return 4 if t.precision == "fp32" else 2


def summed_bytes(t: Training) -> int:
    """Of a gradient summed over micro-batches."""
    return 4 if t.grad_reduce == "fp32" else 2


def sums_beside(o: DeepSpeedOptions, t: Training, zero: Number) -> Number:
    """Whether BF16_Optimizer steps: its fp32 sums, whole, lie beside the backward's 16-bit gradients.

    ../engine.py:2305; ../bf16_optimizer.py:191 (sums), :623 (16 bits, zeroed in place until a step frees them).
    """
    mixed = t.precision == "bf16" and t.grad_reduce == "fp32" and o.offload_optimizer.device == "none"
    return (zero == 1) & mixed


def _master(o: DeepSpeedOptions) -> int:
    """Of a master weight.

    At stage 3 one of the weight's own width is a copy, too: what would make it the weight itself asks whether a device
    is a string (stage3.py:1161), which none is.
    """
    return 2 if o.bf16_states else MASTER


def _moments(o: DeepSpeedOptions, t: Training) -> int:
    return state_bytes(t.optimizer.name, "bf16" if o.bf16_states else "fp32")


def _stage_3(o: DeepSpeedOptions, t: Training, owned: Number) -> Kept:
    """Gradients are summed in a flat buffer and copied to fp32 ones (stage3.py:791, :1338).

    The buffers of weights are pinned whatever is said (stage3.py:906).
    """
    own, summed, part = weight_bytes(t), summed_bytes(t), optimizer_part(o, owned)
    moments, device, pin = _moments(o, t), o.offload_optimizer.device, o.offload_optimizer.pin_memory
    away = device != "none"
    in_host, on_disk = part * (device == "cpu"), part * (device == "nvme")
    weight_in_host, weight_on_disk = own * (o.offload_param.device == "cpu"), own * (o.offload_param.device == "nvme")
    states = MASTER + GRADIENT + moments
    return Kept(
        weight=own * (o.offload_param.device == "none"),
        gradient=(1 - part) * GRADIENT if away else summed,
        optimizer=(1 - part) * ((MASTER if away else _master(o)) + moments),
        host=in_host * states + away * summed + weight_in_host,
        pinned=pin * (in_host * GRADIENT + away * summed) + weight_in_host,
        nvme=on_disk * states + weight_on_disk,
        buffers=_buffers(o, own, owned),
    )


def _buffers(o: DeepSpeedOptions, own: int, owned: Number) -> Number:
    """What passes through to and from NVMe: sub-groups of the optimizer; parameters, of which some stay in the host."""
    group = owned - (owned - o.sub_group_size) * (owned > o.sub_group_size)
    stay = owned - (owned - _PARAMETERS_BESIDE_NVME) * (owned > _PARAMETERS_BESIDE_NVME)
    optimizer = _OPTIMIZER_BUFFERS * MASTER * group * (o.offload_optimizer.device == "nvme")
    return optimizer + own * (stay + _PARAMETER_BUFFERS) * (o.offload_param.device == "nvme")


def _stages_1_and_2(o: DeepSpeedOptions, t: Training, zero: Number, microbatches: Number) -> Kept:
    """A 16-bit copy of the new weights lies beside the states (stage_1_and_2.py:567); even fp32 weights have a master.

    At stage 2, fp32 sums of 16-bit weights' gradients stay on the GPU (:1259); others go to the host between
    micro-batches (:1809).
    """
    own, summed, moments = weight_bytes(t), summed_bytes(t), _moments(o, t)
    away = o.offload_optimizer.device != "none"
    moved = away * (summed == own) * (zero == 2)
    pinned = MASTER + GRADIENT + own + moved * (microbatches > 1) * own
    return Kept(
        weight=own,
        gradient=(1 - moved) * summed + sums_beside(o, t, zero) * own,
        optimizer=0 if away else _master(o) * ((zero > 0) | (own < MASTER)) + moments,
        host=away * (pinned + moments),
        pinned=away * o.offload_optimizer.pin_memory * pinned,
    )
