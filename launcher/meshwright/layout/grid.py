"""The rank grid: arithmetic on the rank number, never a list of ranks.

The dense world is ``tp*gtp*cp*pp*dp``. The experts live on their own grid, ``etp*ep*egtp*edp*pp``; EP is no factor of
the dense world. Both are walked in Megatron's order, the fastest axis first (megatron/core/parallel_state.py
``RankGenerator``; gtp stands behind tp, egtp behind ep: ``_inject_gtp_remat_axis``). These two are left out
where they are 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod

from meshwright.spec.frozen import dataclass

__all__ = ["Axes", "Grid"]


@dataclass(frozen=True)
class Axes:
    """A mixed-radix numbering of ``world`` ranks; ``sizes`` runs from the fastest axis to the slowest."""

    sizes: Mapping[str, int]

    @property
    def world(self) -> int:
        """Number of ranks."""
        return prod(self.sizes.values())

    @cached_property
    def strides(self) -> Mapping[str, int]:
        """Distance in ranks between neighbours along each axis."""
        strides, step = {}, 1
        for axis, size in self.sizes.items():
            strides[axis], step = step, step * size
        return strides

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where ``rank`` stands on each axis."""
        assert 0 <= rank < self.world, rank
        return {axis: rank // self.strides[axis] % size for axis, size in self.sizes.items()}

    def rank(self, **coordinates: int) -> int:
        """The rank at ``coordinates``; axes not named are 0."""
        return sum(index * self.strides[axis] for axis, index in coordinates.items())

    def group(self, rank: int, *axes: str) -> list[int]:
        """The ranks that differ from ``rank`` along ``axes`` only, in ascending order."""
        here = self.coordinates(rank)
        ranks = [rank - sum(here[a] * self.strides[a] for a in axes)]
        for axis in axes:
            ranks = [base + i * self.strides[axis] for base in ranks for i in range(self.sizes[axis])]
        return sorted(ranks)

    def span(self, *axes: str) -> int:
        """Ranks from the first to the last of a group along ``axes``, both counted."""
        return 1 + sum((self.sizes[a] - 1) * self.strides[a] for a in axes)

    def groups(self, *axes: str) -> Iterator[list[int]]:
        """Every group along ``axes``, by its lowest rank."""
        for rank in range(self.world):
            here = self.coordinates(rank)
            if all(here[a] == 0 for a in axes):
                yield self.group(rank, *axes)


@dataclass(frozen=True)
class Grid:
    """All degrees, and the two numberings of the ranks."""

    tp: int
    cp: int
    pp: int
    dp: int
    ep: int
    etp: int
    edp: int
    order: str
    gpus_per_node: int
    gtp: int = 1
    egtp: int = 1

    @property
    def world(self) -> int:
        """Number of ranks: ``tp*gtp*cp*pp*dp``."""
        return self.tp * self.cp * self.pp * self.data

    @property
    def data(self) -> int:
        """Ranks that have micro-batches of their own: ``gtp*dp``."""
        return self.gtp * self.dp

    @property
    def nodes(self) -> int:
        """Nodes the world occupies, the last one perhaps in part."""
        return -(-self.world // self.gpus_per_node)

    @property
    def factors(self) -> str:
        """The world as a product, for people."""
        gathered = f" · gtp {self.gtp}" * (self.gtp > 1)
        return f"tp {self.tp}{gathered} · cp {self.cp} · pp {self.pp} · dp {self.dp}"

    @property
    def expert_factors(self) -> str:
        """The same of the experts' grid."""
        gathered = f" · egtp {self.egtp}" * (self.egtp > 1)
        return f"etp {self.etp} · ep {self.ep}{gathered} · edp {self.edp} · pp {self.pp}"

    @cached_property
    def dense(self) -> Axes:
        """Axes tp, gtp, cp, dp, pp."""
        names = self._behind("tp", "gtp")
        return Axes({a: getattr(self, a) for a in names if a != "ep"})

    @cached_property
    def expert(self) -> Axes:
        """Axes etp, ep, egtp, edp, pp."""
        names = {"tp": "etp", "dp": "edp"}
        axes = self._behind("ep", "egtp")
        return Axes({names.get(a, a): getattr(self, names.get(a, a)) for a in axes if a != "cp"})

    def _behind(self, axis: str, new: str) -> list[str]:
        """The order, with ``new`` behind ``axis`` where it has ranks."""
        axes = self.order.split("-")
        axes[axes.index(axis) + 1 : axes.index(axis) + 1] = [new] * (getattr(self, new) > 1)
        return axes

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where ``rank`` stands: tp, gtp, cp, dp, pp, etp, ep, egtp, edp."""
        return {**self.expert.coordinates(rank), **self.dense.coordinates(rank)}

    def node(self, rank: int) -> int:
        """The node that holds ``rank``."""
        return rank // self.gpus_per_node

    def ranks_per_node(self, *axes: str) -> int:
        """Of the ranks in one group along ``axes``, how many share a node (groups starting at rank 0)."""
        numbering = self.dense if set(axes) <= set(self.dense.sizes) else self.expert
        group = numbering.group(0, *axes) if numbering.span(*axes) < 2**20 else [0]
        return sum(rank < self.gpus_per_node for rank in group)
