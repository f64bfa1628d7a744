"""Sharding, offload, precision and optimizer of DeepSpeed. Places: DeepSpeed 0.19.8, below ``deepspeed/``."""

from __future__ import annotations

from meshwright.model.offload import sums_beside
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import DEEPSPEED, Layout, Number, Rule, implies
from meshwright.spec import Offload

__all__ = ["RULES"]

_SIXTEEN_BIT = ("fp16", "bf16")


def _optimizer(r: Layout) -> Offload:
    return r.backend.deepspeed.offload_optimizer


def _param(r: Layout) -> Offload:
    return r.backend.deepspeed.offload_param


def _sums_beside(r: Layout) -> Number:
    return sums_beside(r.backend.deepspeed, r.training, r.zero)


def _whole_matrices(r: Layout) -> Number:
    """Where DeepSpeed's Muon runs, and does what one process would."""
    o = r.backend.deepspeed
    plain = _optimizer(r).device == "none" and _param(r).device == "none" and not o.bf16_states and o.hpz == 1
    flat = r.model.moe is None and r.model.mamba is None and r.model.delta_net is None
    flat = flat and r.model.short_convolution is None
    return (r.tp == 1) & plain & implies(_sums_beside(r), (r.cp == 1) & (r.ep == 1) & flat)


def _states(r: Layout) -> bool:
    return r.backend.deepspeed.bf16_states


def _quantized(r: Layout) -> bool:
    return r.backend.deepspeed.quantized_weights or r.backend.deepspeed.quantized_gradients


_PRECISION = (
    Rule(
        id="deepspeed.precision",
        path="training.precision",
        backends=DEEPSPEED,
        holds=lambda r: r.training.precision in ("fp32", *_SIXTEEN_BIT),
        message="DeepSpeed has no {training.precision}: fp32, fp16 and bf16",
        source="runtime/precision_config.py: bf16 and fp16 alone",
        repairs=any_of(change(training__precision="bf16"), change(training__precision="fp32")),
    ),
    Rule(
        id="deepspeed.stage_0",
        path="parallelism.zero",
        backends=DEEPSPEED,
        holds=lambda r: implies(r.training.precision in _SIXTEEN_BIT, r.zero > 0),
        message="{training.precision} at ZeRO stage 0: gradients cannot be summed in fp32 there, and Adam starts one "
        "step late, with a first update a quarter too small",
        source="runtime/engine.py:2323; runtime/fp16/unfused_optimizer.py:425",
        repairs=any_of(change(parallelism__zero=1), change(training__precision="fp32")),
    ),
    Rule(
        id="deepspeed.grad_reduce",
        path="training.grad_reduce",
        backends=DEEPSPEED,
        needs=("deepspeed.precision",),
        holds=lambda r: r.training.grad_reduce == "fp32" or r.training.precision == "bf16",
        message="grad_reduce={training.grad_reduce} needs precision=bf16, not {training.precision}",
        source="runtime/engine.py:2305-2323: the sums' type follows the weights'",
        repairs=change(training__grad_reduce="fp32"),
    ),
)

_OPTIMIZER = (
    Rule(
        id="deepspeed.bf16_states",
        path="backend.deepspeed.bf16_states",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            r.backend.deepspeed.bf16_states,
            (r.training.precision == "bf16") & (r.zero >= 1) & (_optimizer(r).device == "none"),
        ),
        message="precision = {training.precision}, zero = {zero}, offload_optimizer.device = "
        "{backend.deepspeed.offload_optimizer.device}, and bf16 states need bf16, at least 1, and none: DeepSpeed's "
        "Adam on the CPU keeps them in fp32 unless it is built otherwise",
        source="runtime/config.py:706; runtime/base_optimizer.py:516",
        repairs=any_of(
            change(backend__deepspeed__bf16_states=False),
            change(
                training__precision="bf16", parallelism__zero=1, backend__deepspeed__offload_optimizer__device="none"
            ),
        ),
    ),
    Rule(
        id="deepspeed.bf16_states_of_sums",
        path="backend.deepspeed.bf16_states",
        backends=DEEPSPEED,
        needs=("deepspeed.bf16_states",),
        holds=lambda r: implies(r.backend.deepspeed.bf16_states, _sums_beside(r) == 0),
        message="zero = {zero} with grad_reduce={training.grad_reduce} is BF16_Optimizer, which keeps masters and "
        "states in fp32 whatever is said; bf16 sums or ZeRO-2 do not",
        source="runtime/engine.py:2305; runtime/bf16_optimizer.py:182",
        repairs=any_of(
            change(training__grad_reduce="bf16"),
            change(parallelism__zero=2),
            change(backend__deepspeed__bf16_states=False),
        ),
    ),
    Rule(
        id="deepspeed.optimizer",
        path="training.optimizer.name",
        backends=DEEPSPEED,
        holds=lambda r: implies(r.training.optimizer.name == "muon", _whole_matrices(r)),
        message="Muon needs whole matrices and their gradients at tp = 1, with nothing offloaded, no bf16 "
        "states, no hpz, and at zero = 1 in bf16 neither Ulysses nor experts nor convolutions, whose weights have "
        "three dimensions; tp = {tp}, cp = {cp}, ep = {ep}, zero = {zero}",
        source="runtime/bf16_optimizer.py:60; ours for tp, where each rank would "
        "orthogonalize its own part, and for offload, which we have not run",
        repairs=any_of(change(parallelism__zero=2), change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="deepspeed.soap",
        path="training.optimizer.name",
        backends=DEEPSPEED,
        holds=lambda r: r.training.optimizer.name != "soap",
        message="DeepSpeed has no SOAP",
        source="runtime/config.py:65",
        repairs=any_of(change(training__optimizer__name="muon"), change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="deepspeed.lion",
        path="training.optimizer.name",
        backends=DEEPSPEED,
        holds=lambda r: r.training.optimizer.name != "lion" or (_optimizer(r).device == "none" and not _states(r)),
        message="Lion keeps its state on the GPU in fp32: offload_optimizer.device = "
        "{backend.deepspeed.offload_optimizer.device}, bf16_states = {backend.deepspeed.bf16_states}",
        source="ours: neither its version for the CPU nor its state in bf16 has been run",
        repairs=any_of(
            change(
                backend__deepspeed__offload_optimizer__device="none",
                backend__deepspeed__bf16_states=False,
            ),
            change(training__optimizer__name="adamw"),
        ),
    ),
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
)

_OFFLOAD = (
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

_ZERO_PLUS_PLUS = (
    Rule(
        id="deepspeed.hpz_stage",
        path="backend.deepspeed.hpz",
        backends=DEEPSPEED,
        holds=lambda r: implies(r.backend.deepspeed.hpz > 1, r.zero == 3),
        message="hpz = {backend.deepspeed.hpz} needs zero = 3, zero = {zero}; DeepSpeed would ignore it",
        source="runtime/zero/config.py:324",
        repairs=any_of(change(backend__deepspeed__hpz=1), change(parallelism__zero=3)),
    ),
    Rule(
        id="deepspeed.hpz",
        path="backend.deepspeed.hpz",
        backends=DEEPSPEED,
        needs=("deepspeed.hpz_stage",),
        holds=lambda r: (r.backend.deepspeed.hpz >= 1) and (r.world % max(1, r.backend.deepspeed.hpz) == 0),
        message="hpz = {backend.deepspeed.hpz} does not divide the world of {world} GPUs",
        source="utils/groups.py:945",
        repairs=nearest("backend.deepspeed.hpz", lambda r: r.backend.deepspeed.hpz, high=64),
    ),
    Rule(
        id="deepspeed.hpz_tensor",
        path="backend.deepspeed.hpz",
        backends=DEEPSPEED,
        holds=lambda r: implies(r.backend.deepspeed.hpz > 1, r.tp == 1),
        message="hpz = {backend.deepspeed.hpz} groups neighbouring ranks, which at tp = {tp} hold different shards",
        source="utils/groups.py:948",
        repairs=any_of(change(backend__deepspeed__hpz=1), change(parallelism__tp=1)),
    ),
    Rule(
        id="deepspeed.quantized",
        path="backend.deepspeed.quantized_weights",
        backends=DEEPSPEED,
        holds=lambda r: implies(_quantized(r), (r.zero == 3) & (r.cluster.accelerator.platform == "cuda")),
        message="ZeRO++'s quantization needs zero = 3 and a CUDA GPU; zero = {zero} on {cluster.accelerator.name}",
        source="runtime/zero/config.py:328; ops/op_builder/cpu/no_impl.py:21",
        repairs=change(backend__deepspeed__quantized_weights=False, backend__deepspeed__quantized_gradients=False),
    ),
)

_CHECKPOINTS = (
    Rule(
        id="deepspeed.checkpoint_writer",
        path="backend.deepspeed.checkpoint.writer",
        backends=DEEPSPEED,
        holds=lambda r: implies(r.backend.deepspeed.checkpoint.writer != "torch", r.zero == 3),
        message="{backend.deepspeed.checkpoint.writer} writes at zero = 3 alone, where each rank has files of its own; "
        "at zero = {zero} DeepSpeed stops, or has all ranks write one file",
        source="runtime/model_checkpointing/data_parallel_writer_factory.py:57: AttributeError 'dp_rank'",
        repairs=any_of(change(backend__deepspeed__checkpoint__writer="torch"), change(parallelism__zero=3)),
    ),
)

RULES: tuple[Rule, ...] = _PRECISION + _OPTIMIZER + _OFFLOAD + _ZERO_PLUS_PLUS + _CHECKPOINTS
