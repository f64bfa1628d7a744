"""Variables of the environment that libraries read, as a launch is to have them."""

from __future__ import annotations

import re

from meshwright.imports.found import is_secret

__all__ = ["read_by_libraries"]

_CARRIED = re.compile(
    r"(NCCL|CUDA|NVTE|TORCH|PYTORCH|UB|GLOO|FI|OMP|UCX|NVSHMEM|TRITON|HIP|HSA|RCCL|GPU|OFI|SHARP|MIOPEN|CUBLAS)_"
    r"|TOKENIZERS_PARALLELISM$|HF_|TRANSFORMERS_"
)
_CHOSEN = frozenset(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
"""Which GPUs of a node are taken: launch.sh's and SLURM's to say."""


def read_by_libraries(name: str) -> bool:
    """Whether a variable is a library's, and for the run to carry."""
    return name not in _CHOSEN and not is_secret(name) and _CARRIED.match(name) is not None
