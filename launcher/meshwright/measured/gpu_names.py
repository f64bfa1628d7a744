"""A GPU's name as measured rows, NVIDIA's driver and cluster files write it."""

from __future__ import annotations

import re

from meshwright.spec import Cluster

__all__ = ["same_gpu"]

_GPU = r"[a-z]+\d{3}\w*"  # a100 and gb200, but not sxm5, hbm3 or nvl72


def same_gpu(gpu: str, cluster: Cluster) -> bool:
    """Whether ``gpu`` ("NVIDIA H100 80GB HBM3", "A100-80GB") is the one that ``cluster`` is made of."""
    known = {_words(cluster.accelerator.name)[0], *(w for w in _words(cluster.name) if re.fullmatch(_GPU, w))}
    return not known.isdisjoint(_words(gpu))


def _words(name: str) -> list[str]:
    return re.findall(r"\w+", name.lower().replace("_", " ")) or [""]
