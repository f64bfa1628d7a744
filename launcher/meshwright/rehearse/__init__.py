"""A run's layout in miniature, trained for real on this machine and compared with one process."""

from __future__ import annotations

from meshwright.rehearse.miniature import miniature, one_process
from meshwright.rehearse.processes import RankFailed
from meshwright.rehearse.result import Curve, Rehearsal
from meshwright.rehearse.run import rehearse

__all__ = ["Curve", "RankFailed", "Rehearsal", "miniature", "one_process", "rehearse"]
