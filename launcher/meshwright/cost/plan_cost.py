"""The cost of one resolved plan, stage by stage, with the pipeline's schedule simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from itertools import islice
from math import exp

from meshwright.cost import offload
from meshwright.cost.advice import Advice, advice
from meshwright.cost.counts import CONVENTIONS, hardware_flops, training_flops
from meshwright.cost.estimate import estimate
from meshwright.cost.fitting import fit_probability
from meshwright.cost.framework import SPREAD
from meshwright.cost.inputs import Load, Scene, scene
from meshwright.cost.memory import GIB, Memory, allocatable, memories
from meshwright.cost.notes import notes
from meshwright.cost.pipeline_time import Work
from meshwright.cost.schedule import simulate
from meshwright.cost.stage_loads import load_of
from meshwright.cost.time import StageTime, Step, sends, times_of_one
from meshwright.cost.traffic import Traffic, traffic
from meshwright.layout.plan import Plan
from meshwright.resolver import layout
from meshwright.spec.frozen import dataclass

__all__ = ["Cost", "Pipeline", "cost", "pipeline"]


@dataclass(frozen=True, repr=False)
class Cost:
    """What one step costs. Seconds, bytes on the fullest rank of each stage, FLOP/s of one GPU."""

    step: Step
    step_time: float  # of which 80 % of runs would lie in ``interval``
    interval: tuple[float, float]
    stages: tuple[Memory, ...]
    traffic: Traffic  # of one rank of the stage that sends most
    tokens_per_second: float
    model_flops: float  # per second and GPU, megatron convention
    mfu: float
    hfu: float
    memory_limit: float  # bytes the allocator can use
    memory_spread: float  # 80 % of measured peaks lie within exp(-memory_spread) .. exp(memory_spread) times ours
    host: offload.Host  # of the fullest node
    host_limit: float  # bytes of a node's memory; 0: not stated
    conventions: Mapping[str, float]  # MFU under each of ``counts.CONVENTIONS``
    notes: tuple[str, ...] = ()  # what of this plan the model does not cover
    advice: tuple[Advice, ...] = ()

    def __repr__(self) -> str:
        """Step, rate and memory."""
        return f"<Cost {self._headline}>"

    def _repr_html_(self) -> str:
        """What the step's time goes to."""
        from meshwright.layout.notebook import html_table

        parts = ((f.name, float(getattr(self.step, f.name))) for f in fields(self.step))
        rows = ((name, f"{seconds:.3g}", f"{seconds / self.step_time:.1%}") for name, seconds in parts if seconds)
        return html_table(self._headline, rows, ("part", "seconds", "of the step"))

    @property
    def _headline(self) -> str:
        memory = f"{self.peak_memory / GIB:.1f} of {self.memory_limit / GIB:.1f} GiB"
        return f"{self.step_time:.3g} s, {self.tokens_per_second:,.0f} tokens/s, MFU {self.mfu:.1%}, {memory}"

    @property
    def peak_memory(self) -> float:
        """Bytes of the fullest rank."""
        return float(max(stage.total for stage in self.stages))

    @property
    def memory_interval(self) -> tuple[float, float]:
        """Bytes between which 80 % of measured peaks would lie."""
        return self.peak_memory / exp(self.memory_spread), self.peak_memory * exp(self.memory_spread)

    @property
    def fullest(self) -> int:
        """The stage where it is."""
        return max(range(len(self.stages)), key=lambda i: self.stages[i].total)

    @property
    def fit_probability(self) -> float:
        """That the fullest rank's peak is within the limit; see ``cost.fitting``."""
        return fit_probability(self.peak_memory, self.memory_limit, self.memory_spread)

    @property
    def fits(self) -> bool:
        """Whether the fullest rank's peak is within the limit, more likely than not."""
        return self.peak_memory <= self.memory_limit


LOOKED_AT = 2.0
"""How many times wider, in logarithms, the interval of a model is that was only looked at. Ours, by judgement."""


def cost(plan: Plan, *, explained: bool = True) -> Cost:
    """Everything about one step of ``plan``; ``explained``: with notes and advice, which take longer than the rest."""
    spec = plan.spec
    s = scene(layout(spec))
    loads = [load_of(s, i, stage.chunks) for i, stage in enumerate(plan.stages)]
    closed = estimate(s.layout, s.framework)
    step = _step(s, plan, closed.parts)
    tokens = plan.batch.tokens
    seconds = float(step.total)
    peak = spec.cluster.accelerator.bf16_tflops * 1e12
    rate = tokens / seconds / plan.grid.world
    sequence = plan.batch.sequence
    hardware = _hardware_flops(plan)
    model_flops = training_flops(spec.model, sequence) * rate
    spread = exp(spec.cluster.efficiency.spread * (LOOKED_AT if spec.model.measured else 1))
    limit = allocatable(spec.cluster.accelerator.memory_gib)
    stages = memories(s, loads)
    return Cost(
        step=step,
        step_time=seconds,
        interval=(seconds / spread, seconds * spread),
        stages=stages,
        traffic=max((traffic(s, load) for load in _distinct(loads)), key=lambda t: t.data.size + t.tensor.size),
        tokens_per_second=tokens / seconds,
        model_flops=model_flops,
        mfu=model_flops / peak,
        hfu=hardware * rate / peak,
        memory_limit=limit,
        memory_spread=SPREAD if spec.model.measured else s.framework.memory_spread,
        host=offload.host(s, loads),
        host_limit=spec.cluster.host_memory_gib * GIB,
        conventions={c: training_flops(spec.model, sequence, c) * rate / peak for c in CONVENTIONS},
        notes=tuple(notes(s, plan, loads, step)) if explained else (),
        advice=advice(plan, limit, closed) if explained else (),
    )


def _hardware_flops(plan: Plan) -> float:
    """Of one token, with what this plan computes again."""
    p, layers = plan.spec.parallelism, plan.spec.model.layers
    part = min(1.0, (p.recompute_layers or 1) * p.vpp * p.pp / layers) if p.recompute_method == "block" else 1.0
    return hardware_flops(plan.spec.model, plan.batch.sequence, p.recompute, p.recompute_modules, part)


def _distinct(loads: Sequence[Load]) -> list[Load]:
    """Loads that differ in more than their place between the ends."""
    return list({(x.of_kind, x.embedding, x.head, x.index in (0, len(loads) - 1)): x for x in loads}.values())


@dataclass(frozen=True)
class Pipeline:
    """What is simulated, by stage and chunk: one micro-batch's times and work; the latency of a hand-over."""

    times: tuple[tuple[StageTime, ...], ...]
    waits: float  # seconds that a chunk waits for its two hand-overs of one micro-batch
    latency: float

    @property
    def work(self) -> tuple[tuple[Work, ...], ...]:
        """Forward and backward of every chunk, hand-overs included."""
        half = self.waits / 2
        return tuple(tuple(Work(t.forward + half, t.backward + half) for t in chunks) for chunks in self.times)


def pipeline(plan: Plan, s: Scene | None = None) -> Pipeline:
    """The stages of ``plan`` as the schedule sees them; chunks that hold the same are computed once."""
    s = s or scene(layout(plan.spec))
    waits, latency = sends(s)
    chunks = [[load_of(s, i, (chunk,)) for chunk in stage.chunks] for i, stage in enumerate(plan.stages)]
    each = iter(times_of_one(s, [load for stage in chunks for load in stage]))
    times = tuple(tuple(islice(each, len(stage))) for stage in chunks)
    return Pipeline(times, float(waits) / plan.spec.parallelism.vpp, float(latency))


_simulated = lru_cache(maxsize=64)(simulate)  # a run's stages often differ in the number of replicas alone


def _step(s: Scene, plan: Plan, parts: Step) -> Step:
    """The closed form's ``parts``, with their bubble replaced by the simulated one."""
    if plan.grid.pp == 1:
        return parts
    p = pipeline(plan, s)
    whole = _simulated(p.work, plan.batch.microbatches, p.latency, plan.spec.parallelism.microbatch_group)
    busy = parts.total - parts.data - parts.optimizer - parts.offload - parts.bubble
    return replace(parts, bubble=max(0.0, whole - busy))
