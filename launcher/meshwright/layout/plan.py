"""What a Spec resolves to: every derived number, exact."""

from __future__ import annotations

from meshwright.layout.grid import Grid
from meshwright.layout.length import sequences
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["Batch", "Caution", "Chunk", "Plan", "Stage"]


@dataclass(frozen=True)
class Caution:
    """A rule of thumb that the plan goes against; it names itself."""

    rule: str
    path: str
    message: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.path}: {self.message} [{self.rule}]"


@dataclass(frozen=True)
class Batch:
    """Sequences; ``global_batch = micro_batch * gtp * dp * microbatches``."""

    micro_batch: int
    global_batch: int
    microbatches: int
    sequence: int

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.global_batch * self.sequence


@dataclass(frozen=True)
class Chunk:
    """What one model chunk (virtual stage) holds; decoder layers ``first .. first + layers`` (from 0)."""

    first: int
    layers: int
    embedding: bool
    mtp: int
    final_norm: bool
    loss: bool


@dataclass(frozen=True)
class Stage:
    """One pipeline stage: its chunks in order, and the exact parameters of one of its ranks (TE layers)."""

    chunks: tuple[Chunk, ...]
    parameters: int  # on one rank, tp-, gtp- and ep-sharded, vocabulary padded
    expert_parameters: int  # of these, routed experts (sharded over etp*ep*egtp, replicated over edp)

    @property
    def layers(self) -> int:
        """Decoder layers on this stage."""
        return sum(chunk.layers for chunk in self.chunks)


@dataclass(frozen=True, repr=False)
class Plan:
    """A Spec that holds. ``spec`` is normalised: dp, gpus, nodes, global batch and steps are filled in."""

    spec: Spec
    grid: Grid
    batch: Batch
    stages: tuple[Stage, ...]  # one a pipeline stage
    padded_vocab: int
    total_parameters: int  # of the whole model, unpadded; equals transformers' count
    active_parameters: int  # used by one token: topk and shared experts only
    steps: int | None  # optimizer steps of this stage of the run, where its length is stated
    warnings: tuple[Caution, ...]

    def __repr__(self) -> str:
        """The run, its GPUs and its degrees."""
        return f"<Plan {'/'.join(self.spec.names)}: {self._degrees}>"

    def _repr_html_(self) -> str:
        """Layers and parameters of every pipeline stage."""
        from meshwright.layout.notebook import html_table  # which a plan does without

        rows = (
            (str(i), "+".join(str(chunk.layers) for chunk in stage.chunks), f"{stage.parameters:,}")
            for i, stage in enumerate(self.stages)
        )
        title = f"{'/'.join(self.spec.names)}: {self._degrees}"
        return html_table(title, rows, ("stage", "layers", "parameters per rank"))

    @property
    def _degrees(self) -> str:
        grid, batch = self.grid, self.batch
        world = f"{grid.world:,} GPUs = {grid.factors}"
        return f"{world}, {batch.global_batch:,} sequences in {batch.microbatches} micro-batches of {batch.micro_batch}"

    def sequences(self, step: int) -> int:
        """Sequences trained in the first ``step`` steps, ramp included."""
        return sequences(self.spec.training.ramp, self.batch.sequence, self.batch.global_batch, step)

    @property
    def tokens(self) -> int:
        """Tokens trained in all steps; 0 where the length is not stated."""
        return self.sequences(self.steps or 0) * self.batch.sequence
