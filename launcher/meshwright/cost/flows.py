"""Bytes that a rank sends in one kind of message, and the links that they cross."""

from __future__ import annotations

from meshwright.cost.collectives import Group
from meshwright.cost.numbers import Number
from meshwright.spec.frozen import dataclass

__all__ = ["Flow", "flow", "share"]


@dataclass(frozen=True)
class Flow:
    """Bytes a rank sends in a step, in how many messages and to how many ranks.

    Whether its group leaves the fast links of a node, and whether its pod; of an all-to-all the bytes that do.
    """

    size: Number
    between_nodes: Number
    between_pods: Number
    collective: str
    messages: Number
    group: Number
    outside: Number | None = None  # bytes beyond the fast links, where they are not all; None: not told apart
    joined: str = "nodes"  # what the fast links join

    @property
    def link(self) -> str:
        """The slowest link that one layout's flow crosses."""
        if self.between_pods:
            return "between pods"
        return f"{'between' if self.between_nodes else 'within'} {self.joined}"

    @property
    def told(self) -> str:
        """Gigabytes of one layout's flow, and over which links."""
        part = self.outside if self.outside is not None and 0 < self.outside < self.size else None
        some = "" if part is None else f", {part / 1e9:,.1f} of them"
        return f"{self.size / 1e9:,.1f} GB{some} {self.link}"


def flow(size: Number, g: Group, collective: str, messages: Number) -> Flow:
    """``size`` bytes among the ranks of ``g``."""
    return Flow(size, g.size > g.near, g.wide, collective, messages, g.size)


def share(g: Group) -> Number:
    """Part of what a group has that a rank lacks."""
    return (g.size - 1) / g.size
