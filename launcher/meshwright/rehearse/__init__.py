"""A run's layout in miniature, trained for real on this machine and compared with one process."""

from __future__ import annotations

from meshwright.rehearse.processes import RankError
from meshwright.rehearse.result import Curve, Rehearsal
from meshwright.rehearse.run import rehearse
from meshwright.rehearse.shrink import miniature, one_process

__all__ = ["Curve", "RankError", "Rehearsal", "miniature", "one_process", "rehearse"]
