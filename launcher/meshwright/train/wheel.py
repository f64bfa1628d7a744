"""What megatron-core's wheel lacks, on a GPU as on a CPU.

The shim for machines without a GPU (``cpu``) may not do this: whatever it replaces is not there on a GPU, too, unless
the GPU is the reason.
"""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["install"]


def install() -> None:
    """Leave the datasets' helpers as the wheel brings them: compiled, and without the Makefile to compile them again.

    ``initialize_megatron`` runs make in their folder on rank 0 and ends the process where it fails
    (megatron-core 0.19.2, training/initialize.py:176, core/datasets/utils.py:20). A checkout of Megatron-LM, which has
    the Makefile and nothing compiled, still runs it.
    """
    if find_spec("megatron.core.datasets.helpers_cpp") is None:
        return
    from megatron.core.datasets import utils

    utils.compile_helpers = lambda: None
