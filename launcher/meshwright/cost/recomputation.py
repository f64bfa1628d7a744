"""What full recomputation of a layer leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.cost.inputs import Scene
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix

__all__ = ["needless"]


def needless(s: Scene, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Names of a layer's operations that a checkpoint does not run again: its backward reads nothing that they give.

    torch ends as soon as the last tensor is there that a backward reads (torch/utils/checkpoint.py, ``early_stop``):
    ahead of a layer's last product, whose inputs autograd packs before it is run, but behind one of Transformer
    Engine's, which keeps them afterwards; and ahead of what DeepEP sends back, of which it keeps a handle alone.
    """
    if not s.framework.ends_early:
        return ()
    products = [o.name for o in operations if any(w.shard != "expert" and is_matrix(w.name) for w in o.weights)]
    plain = not s.framework.kernels.joined and products[-1:] != ["router"]
    handed = s.framework.sends_once and not s.framework.kernels.weighs_outputs
    return ("residual", *(products[-1:] if plain else ()), *(("combine",) if handed else ()))
