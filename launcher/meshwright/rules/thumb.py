"""Rules of thumb: a plan may go against them, and is told so by name. Those of the papers are in ``thumb_layout``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import lcm

from meshwright.layout.grid import Grid
from meshwright.layout.length import UNSTATED_STEPS
from meshwright.layout.plan import Caution
from meshwright.model.offload import sums_beside
from meshwright.rules import thumb_layout
from meshwright.rules._rule import Thumb
from meshwright.rules.foreign import unread
from meshwright.spec import MegatronOptions, Spec
from meshwright.spec.effect import unequal
from meshwright.spec.training import MATRIX_OPTIMIZERS

__all__ = ["THUMBS", "warnings"]


def _whole_nodes(spec: Spec, grid: Grid) -> str | None:
    rest = grid.world % grid.gpus_per_node
    return f"{grid.world} GPUs leave the last node with {rest} of {grid.gpus_per_node}" if rest else None


def _saves_on_the_way(spec: Spec, grid: Grid) -> str | None:
    never = spec.launch.kind == "slurm" and spec.training.logging.save_interval is None
    return f"no interval: a failure of one of {grid.nodes:,} nodes loses every step since the start" if never else None


def _stated_length(spec: Spec, grid: Grid) -> str | None:
    unstated = spec.training.steps is None and spec.training.tokens is None
    made_up = f"Megatron trains {UNSTATED_STEPS:,}, DeepSpeed does not start"
    return f"neither they nor training.tokens are stated: {made_up}" if unstated else None


def _of_other_backends(spec: Spec, grid: Grid) -> str | None:
    paths = unread(spec.backend, spec.backend.name)
    return f"{', '.join(paths)}: {spec.backend.name}, which is launched, does not read this" if paths else None


def _of_experts(spec: Spec, grid: Grid) -> str | None:
    """A dense model's flags say nothing of them."""
    said, usual = spec.backend.megatron, MegatronOptions()
    if spec.model.moe is not None or spec.backend.name != "megatron":
        return None
    named = [name for name in _EXPERTS if getattr(said, name) != getattr(usual, name)]
    named += [f"experts.{one}" for one, *_ in unequal(said.experts, usual.experts)]
    listed = ", ".join(f"backend.megatron.{name}" for name in named)
    return f"{listed}: {spec.model.name} has no experts, so that nothing reads this" if named else None


_EXPERTS = (
    "moe_dispatcher",
    "moe_flex_backend",
    "moe_flex_sms",
    "moe_grouped_gemm",
    "moe_permute_fusion",
    "moe_router_fusion",
    "moe_shared_expert_overlap",
    "moe_rank_capacity",
    "moe_paged_stash",
)


def _bias_stands(spec: Spec, grid: Grid) -> str | None:
    moe = spec.model.moe
    padded = spec.backend.name == "megatron" and spec.backend.megatron.experts.padded_to_capacity
    if moe is None or not moe.router_bias or not padded:
        return None
    return "every expert counts as full, so that model.moe.router_bias never moves and evens no load"


def _minutes(spec: Spec, grid: Grid) -> str | None:
    time = spec.launch.slurm.time
    if spec.launch.kind != "slurm" or time is None or not re.fullmatch(r"\d+:\d\d", time):
        return None
    minutes, seconds = time.split(":")
    return f"{time} is {minutes} minutes and {int(seconds)} seconds to SLURM; hours are written {time}:00"


def _muon_by_layers(spec: Spec, grid: Grid) -> str | None:
    name, where = spec.training.optimizer.name, (spec.parallelism.zero, spec.backend.name)
    if name not in MATRIX_OPTIMIZERS or where != (1, "megatron"):
        return None
    return f"ZeRO-1 with {name} deals states out layer by layer: no parameter is cut, and shares are uneven"


def _clips_muon(spec: Spec, grid: Grid) -> str | None:
    """BF16_Optimizer, of ZeRO-1 in bf16 with sums in fp32, clips gradients; the others what Muon made of them."""
    t, zero = spec.training, spec.parallelism.zero
    before = zero == 0 or sums_beside(spec.backend.deepspeed, t, zero)
    clips = t.optimizer.name == "muon" and spec.backend.name == "deepspeed" and not before and t.optimizer.clip
    told = "what Muon has made orthogonal, a norm of many unit vectors: each step is as much smaller; 0 clips nothing"
    return f"DeepSpeed clips to {t.optimizer.clip:g} {told}" if clips else None


def _sums_beside(spec: Spec, grid: Grid) -> str | None:
    on = spec.backend.name == "deepspeed" and grid.data > 1
    if not on or not sums_beside(spec.backend.deepspeed, spec.training, spec.parallelism.zero):
        return None
    now = "fp32 at zero = 1 is BF16_Optimizer: 6 bytes of gradients a parameter on each rank, all-reduced after the"
    return f"{now} backward; bf16 takes 2, zero = 2 takes 4 over {grid.data:,} ranks, scattered in every micro-batch"


def _switches_asked(spec: Spec, grid: Grid) -> str | None:
    asked = any(word.startswith("--network") for word in spec.launch.slurm.extra)
    if spec.launch.kind != "slurm" or spec.backend.megatron.groups.sharp == "none" or asked:
        return None
    return "no --network=sharp, without which SLURM gives a job no sums in switches"


def _in_one_block(spec: Spec, grid: Grid) -> str | None:
    """SLURM hands out any free nodes unless asked for blocks."""
    domain, group = spec.cluster.nvlink_domain or 0, max(grid.tp * grid.gtp, grid.ep * grid.etp)
    loose = spec.launch.kind == "slurm" and spec.launch.slurm.segment is None and grid.nodes > 1
    if not loose or not grid.gpus_per_node < group <= domain:
        return None
    nodes = domain // group * group // grid.gpus_per_node
    return (
        f"not set: groups of {group} GPUs may be spread over NVLink domains of {domain}; {nodes} nodes hold whole ones"
    )


def _kept_by_ours(spec: Spec, grid: Grid) -> str | None:
    kept, entry = spec.training.logging.keep_last, spec.launch.entry
    if kept is None or entry == "meshwright":
        return None
    return f"{kept} checkpoints are kept by our program alone; {entry} deletes none"


def _never_validates(spec: Spec, grid: Grid) -> str | None:
    asked, steps = spec.training.evaluation, spec.training.steps
    if asked.interval is None or steps is None or asked.interval <= steps or asked.at_end:
        return None
    hint = "training.evaluation.at_end=true validates once"
    return f"every {asked.interval:,} steps is never, in a run of {steps:,}; {hint}"


def _keeps_fewer(spec: Spec, grid: Grid) -> str | None:
    logging = spec.training.logging
    kept, saved = logging.keep_every, logging.save_interval
    if logging.keep_last is None or not kept or not saved or kept % saved == 0:
        return None
    stay = f"of the older ones those of every {lcm(kept, saved):,} stay, not of {kept:,}"
    return f"one is saved every {saved:,} steps: {stay}"


THUMBS: tuple[Thumb, ...] = (
    *thumb_layout.THUMBS,
    Thumb(
        "save-interval",
        "training.logging.save_interval",
        _saves_on_the_way,
        "Llama 3, section 3.3.4: 419 unexpected interruptions in 54 days on 16,384 GPUs",
    ),
    Thumb(
        "length",
        "training.steps",
        _stated_length,
        "megatron/training/training.py:1939 asks for a length; the number is ours",
    ),
    Thumb(
        "muon-by-layers", "training.optimizer.name", _muon_by_layers, "megatron-core 0.19.2, training/arguments.py:1679"
    ),
    Thumb("muon-clip", "training.optimizer.clip", _clips_muon, "DeepSpeed 0.19.8, runtime/zero/stage3.py:2880"),
    Thumb("bf16-optimizer", "training.grad_reduce", _sums_beside, "DeepSpeed 0.19.8, runtime/bf16_optimizer.py:191"),
    Thumb("other-backend", "backend", _of_other_backends, "ours"),
    Thumb("no-experts", "backend.megatron", _of_experts, "emit/megatron_techniques.py: flags of experts need some"),
    Thumb(
        "padded-bias",
        "backend.megatron.experts.padded_to_capacity",
        _bias_stands,
        "megatron-core 0.19.2, core/transformer/moe/router.py:830 counts what is padded, too; moe_utils.py:1163",
    ),
    Thumb("slurm-minutes", "launch.slurm.time", _minutes, "man sbatch, --time"),
    Thumb("sharp", "launch.slurm.extra", _switches_asked, "megatron-core 0.19.2, core/parallel_state.py:1018"),
    Thumb("segment", "launch.slurm.segment", _in_one_block, "SLURM topology/block, sbatch --segment"),
    Thumb("foreign-retention", "training.logging.keep_last", _kept_by_ours, "ours: train/retention.py"),
    Thumb("evaluation-interval", "training.evaluation.interval", _never_validates, "arithmetic"),
    Thumb("keep-every", "training.logging.keep_every", _keeps_fewer, "arithmetic: train/retention.py"),
    Thumb("whole-nodes", "cluster.gpus", _whole_nodes, "schedulers hand out nodes"),
)


def warnings(spec: Spec, grid: Grid) -> Iterator[Caution]:
    """Each rule of thumb the plan goes against."""
    for thumb in THUMBS:
        message = thumb.against(spec, grid)
        if message is not None:
            yield Caution(thumb.id, thumb.path, message)
