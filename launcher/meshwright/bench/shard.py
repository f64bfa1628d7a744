"""What one rank does of one layer, as a plan of its own: nothing is sent, so that one device can run it."""

from __future__ import annotations

from dataclasses import replace

from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.spec import MegatronOptions, Model, Parallelism, Spec
from meshwright.spec.model import Moe

__all__ = ["shard"]

CPU_SEQUENCE = 64


def shard(spec: Spec, on_gpu: bool) -> Plan:
    """One decoder layer (of experts where the model has them) and the head, as a rank of ``spec``'s layout holds them.

    Tensor parallelism stays, among ranks that are only pretended; experts are the rank's own, to which as many tokens
    go as would come from its group. On a CPU the sequence is short and everything is in fp32.
    """
    p, training = spec.parallelism, spec.training
    sequence = training.sequence // p.cp
    alone = replace(
        spec,
        model=_layer(spec.model, p),
        cluster=replace(spec.cluster, gpus=p.tp, nodes=None),
        parallelism=Parallelism(tp=p.tp, sp=p.sp),
        training=replace(
            training,
            sequence=sequence if on_gpu else min(sequence, CPU_SEQUENCE),
            global_batch=training.micro_batch,
            microbatches=None,
            ramp=(),
            precision=training.precision if on_gpu else "fp32",
        ),
        backend=replace(spec.backend, name="megatron", megatron=_options(spec.backend.megatron, on_gpu)),
    )
    return resolve(alone)


def _options(megatron: MegatronOptions, on_gpu: bool) -> MegatronOptions:
    alone = replace(megatron, gradient_accumulation_fusion=False, moe_dispatcher="alltoall")
    if on_gpu:
        return alone
    return replace(alone, transformer="local", attention="unfused", moe_grouped_gemm=False)


def _layer(model: Model, p: Parallelism) -> Model:
    moe = model.moe
    return replace(model, layers=1, pattern=None, mtp=0, moe=None if moe is None else _own_experts(moe, p))


def _own_experts(moe: Moe, p: Parallelism) -> Moe:
    experts = max(1, moe.experts // p.ep)
    ffn, topk = moe.ffn // p.etp, min(moe.topk, experts)
    return replace(moe, experts=experts, ffn=ffn, topk=topk, first_dense=0, every=1, groups=1, group_topk=1)
