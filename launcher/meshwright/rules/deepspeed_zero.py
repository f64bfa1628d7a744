"""Sharding, precision and optimizer of DeepSpeed. Places: DeepSpeed 0.19.8, below ``deepspeed/``."""

from __future__ import annotations

from meshwright.model.offload import sums_beside
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import DEEPSPEED, Layout, Number, Rule, implies

__all__ = ["RULES"]

_SIXTEEN_BIT = ("fp16", "bf16")


def _sums_beside(r: Layout) -> Number:
    return sums_beside(r.backend.deepspeed, r.training, r.zero)


def _whole_matrices(r: Layout) -> Number:
    """Where DeepSpeed's Muon runs, and does what one process would."""
    o = r.backend.deepspeed
    stays = o.offload_optimizer.device == o.offload_param.device == "none"
    plain = stays and not o.bf16_states and o.hpz == 1
    flat = r.model.moe is None and r.model.mamba is None and r.model.delta_net is None
    flat = flat and r.model.short_convolution is None
    return (r.tp == 1) & plain & implies(_sums_beside(r), (r.cp == 1) & (r.ep == 1) & flat)


def _fp32_on_the_gpu(r: Layout) -> bool:
    return r.backend.deepspeed.offload_optimizer.device == "none" and not r.backend.deepspeed.bf16_states


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
            (r.training.precision == "bf16") & (r.zero >= 1) & (r.backend.deepspeed.offload_optimizer.device == "none"),
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
        holds=lambda r: r.training.optimizer.name not in ("soap", "adaptive_muon"),
        message="DeepSpeed has no {training.optimizer.name}",
        source="runtime/config.py:65",
        repairs=any_of(change(training__optimizer__name="muon"), change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="deepspeed.qk_clip",
        path="training.optimizer.qk_clip",
        backends=(*DEEPSPEED, "accelerate_deepspeed", "accelerate_fsdp", "torchtitan"),
        holds=lambda r: r.training.optimizer.qk_clip is None,
        message="attention's logits are clipped by Megatron alone",
        source="ours: it would be lost",
        repairs=change(training__optimizer__qk_clip=None),
    ),
    Rule(
        id="deepspeed.lion",
        path="training.optimizer.name",
        backends=DEEPSPEED,
        holds=lambda r: r.training.optimizer.name != "lion" or _fp32_on_the_gpu(r),
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
    Rule(
        id="deepspeed.load_universal",
        path="backend.deepspeed.checkpoint.load_universal",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            r.backend.deepspeed.checkpoint.load_universal, (r.training.logging.load is not None) & (r.zero > 0)
        ),
        message="a universal checkpoint is read from training.logging.load ({training.logging.load}), with its "
        "optimizer's states where ZeRO shards them (zero = {zero})",
        source="checkpoint/ds_to_universal.py:1290 and runtime/engine.py:4486: of ZeRO's states alone",
        repairs=any_of(
            change(backend__deepspeed__checkpoint__load_universal=False),
            change(parallelism__zero=1),
        ),
    ),
)

RULES: tuple[Rule, ...] = _PRECISION + _OPTIMIZER + _ZERO_PLUS_PLUS + _CHECKPOINTS
