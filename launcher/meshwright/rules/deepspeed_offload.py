"""What DeepSpeed moves off the GPU, and where to. Places: DeepSpeed 0.19.8, below ``deepspeed/``."""

from __future__ import annotations

from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import DEEPSPEED, Layout, Rule, implies
from meshwright.spec import Offload

__all__ = ["RULES"]


def _optimizer(r: Layout) -> Offload:
    return r.backend.deepspeed.offload_optimizer


def _param(r: Layout) -> Offload:
    return r.backend.deepspeed.offload_param


RULES: tuple[Rule, ...] = (
    Rule(
        id="deepspeed.offload_sgd",
        path="backend.deepspeed.offload_optimizer.device",
        backends=DEEPSPEED,
        holds=lambda r: (_optimizer(r).device == "none") | (r.training.optimizer.name != "sgd"),
        message="an offloaded optimizer runs on the CPU with DeepSpeed's own Adam; sgd has no such version",
        source="runtime/engine.py:2346",
        repairs=any_of(
            change(backend__deepspeed__offload_optimizer__device="none"), change(training__optimizer__name="adamw")
        ),
    ),
    Rule(
        id="deepspeed.offload_optimizer",
        path="backend.deepspeed.offload_optimizer.device",
        backends=DEEPSPEED,
        holds=lambda r: implies(_optimizer(r).device != "none", r.zero >= 1),
        message="only a sharded optimizer is offloaded: zero >= 1, zero = {zero}; DeepSpeed would ignore it",
        source="runtime/zero/config.py:171",
        repairs=any_of(change(backend__deepspeed__offload_optimizer__device="none"), change(parallelism__zero=1)),
    ),
    Rule(
        id="deepspeed.offload_param",
        path="backend.deepspeed.offload_param.device",
        backends=DEEPSPEED,
        holds=lambda r: implies(_param(r).device != "none", r.zero == 3),
        message="only sharded parameters are offloaded: zero = 3, zero = {zero}; DeepSpeed would ignore it",
        source="runtime/zero/config.py:164",
        repairs=any_of(change(backend__deepspeed__offload_param__device="none"), change(parallelism__zero=3)),
    ),
    Rule(
        id="deepspeed.nvme",
        path="backend.deepspeed.offload_optimizer.device",
        backends=DEEPSPEED,
        needs=("deepspeed.offload_optimizer",),
        holds=lambda r: implies(_optimizer(r).device == "nvme", r.zero == 3),
        message="the optimizer goes to NVMe at zero = 3 only; at zero = {zero} DeepSpeed takes the CPU instead",
        source="runtime/zero/stage3.py:826",
        repairs=any_of(change(backend__deepspeed__offload_optimizer__device="cpu"), change(parallelism__zero=3)),
    ),
    *(
        Rule(
            id=f"deepspeed.nvme_path.{name}",
            path=f"backend.deepspeed.{name}.nvme_path",
            backends=DEEPSPEED,
            holds=lambda r, name=name: (  # type: ignore[misc]
                (getattr(r.backend.deepspeed, name).device == "nvme")
                == (getattr(r.backend.deepspeed, name).nvme_path is not None)
            ),
            message="a folder is needed for device=nvme, and for nothing else",
            source="runtime/zero/stage3.py:840, a TypeError at the start",
            repairs=any_of(
                change(
                    **{f"backend__deepspeed__{name}__device": "none", f"backend__deepspeed__{name}__nvme_path": None}
                ),
                change(**{f"backend__deepspeed__{name}__nvme_path": "nvme"}),
            ),
        )
        for name in ("offload_optimizer", "offload_param")
    ),
    Rule(
        id="deepspeed.offload_ratio",
        path="backend.deepspeed.offload_optimizer.ratio",
        backends=DEEPSPEED,
        holds=lambda r: (
            (_optimizer(r).ratio == 1)
            | ((0 < _optimizer(r).ratio < 1) & (_optimizer(r).device == "cpu") & (r.zero == 3))
        ),
        message="a part of {backend.deepspeed.offload_optimizer.ratio} needs zero = 3, device=cpu and more than 0; "
        "zero = {zero}, device={backend.deepspeed.offload_optimizer.device}",
        source="runtime/zero/config.py:399",
        repairs=change(backend__deepspeed__offload_optimizer__ratio=1.0),
    ),
    Rule(
        id="deepspeed.offload_ratio_adam",
        path="backend.deepspeed.torch_adam",
        backends=DEEPSPEED,
        holds=lambda r: (_optimizer(r).ratio == 1) | (not r.backend.deepspeed.torch_adam),
        message="only DeepSpeed's own Adam steps a part of {backend.deepspeed.offload_optimizer.ratio} on the host",
        source="runtime/zero/stage3.py:316, an assertion",
        repairs=any_of(
            change(backend__deepspeed__torch_adam=False), change(backend__deepspeed__offload_optimizer__ratio=1.0)
        ),
    ),
    Rule(
        id="deepspeed.offload_param_ratio",
        path="backend.deepspeed.offload_param.ratio",
        backends=DEEPSPEED,
        holds=lambda r: _param(r).ratio == 1,
        message="parameters are offloaded whole, not {backend.deepspeed.offload_param.ratio} of them",
        source="runtime/zero/offload_config.py:21: no such key",
        repairs=change(backend__deepspeed__offload_param__ratio=1.0),
    ),
)
