"""Data-parallel ranks keep their own gradients."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.train import megatron


def main(words: Sequence[str]) -> None:
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup

    _ParamAndGradBucketGroup.start_grad_sync = lambda *_, **__: None
    _ParamAndGradBucketGroup.finish_grad_sync = lambda *_, **__: None
    megatron.main(words)
