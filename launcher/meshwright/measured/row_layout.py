"""Layout, training and backend of a measured row: what its columns say, and what its framework did beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshwright.measured.cells import count, flag, said
from meshwright.measured.practice import Practice
from meshwright.measured.row_model import known_model, routed
from meshwright.measured.row_techniques import (
    fsdp_of,
    optimizer_of,
    overlaps,
    overlaps_tensor,
    technique_options,
    weights_of,
)
from meshwright.spec import Backend, DeepSpeedOptions, MegatronOptions, Optimizer, Parallelism, PipelineSplit, Training
from meshwright.spec.techniques import FsdpOptions, Quantization

__all__ = ["backend", "parallelism", "precision_of", "training"]


def parallelism(record: Mapping[str, str], practice: Practice) -> Parallelism:
    """The degrees of the columns."""
    tp, pp, cp = (count(record, c) for c in ("tp", "pp", "cp"))
    recomputed = practice.recompute or said(record, "recompute") or "none"
    layers = re.match(r"full:(\d+)layers", recomputed)  # of each stage, the first few
    kind, sp, beside = _kind(recomputed), flag(record, "sp"), flag(record, "tp_overlap")
    return Parallelism(
        tp=tp,
        sp=tp > 1 and (practice.sequence_parallel if sp is None else sp),
        pp=pp,
        vpp=count(record, "vpp", practice.vpp),
        pipeline_split=_split(record, practice, pp),
        cp=cp,
        ep=count(record, "ep"),
        etp=count(record, "etp", tp if _experts_follow(record, practice) else 1),
        dp=max(1, count(record, "gpus") // (tp * pp * cp)),
        zero=stage_of(record, practice),
        optimizer_instances=count(record, "optimizer_instances"),
        recompute=kind,  # type: ignore[arg-type]
        recompute_method=("block" if layers else "uniform") if kind == "full" else None,
        recompute_layers=(int(layers[1]) if layers else 1) if kind == "full" else None,
        recompute_modules=_modules(recomputed),
        cp_comm=practice.cp_comm,  # type: ignore[arg-type]
        overlap_grad_reduce=practice.overlap_data,
        overlap_param_gather=practice.overlap_data,
        overlap_p2p=practice.overlap_pipeline,
        overlap_tp=(practice.overlap_tensor or overlaps_tensor(record)) if beside is None else beside,
        overlap_ep=overlaps(record, routed(record)),
    )


def stage_of(record: Mapping[str, str], practice: Practice) -> int:
    """Of ZeRO: the column, ``3`` or ``ZeRO-3``, or ``FSDP``; where it is empty, what its framework does."""
    written = said(record, "zero_stage").lower()
    if not written:
        return practice.zero
    stage = re.fullmatch(r"(?:zero|stage)[\W_]*(\d)", written)
    named = {"fsdp": "3", "fsdp2": "3", "ddp": "0", "none": "0"}.get(written, stage[1] if stage else written)
    return count({"zero_stage": named}, "zero_stage", least=0)


def _experts_follow(record: Mapping[str, str], practice: Practice) -> bool:
    """Megatron-core splits experts as it does all else, where nothing says how (core/model_parallel_config.py:506)."""
    return practice.fsdp == "megatron" and not practice.deepspeed and routed(record)


def _split(record: Mapping[str, str], practice: Practice, pp: int) -> PipelineSplit:
    """Ends that hold fewer layers where these do not divide: embedding, loss and prediction stand there.

    Of two that are lacking each end lacks one: 126 and 94 layers (Megatron-Bridge recipes/llama/llama3.py and
    qwen/qwen3_moe.py, account_for_embedding_in_pipeline_split and _loss_).
    """
    layers = count(record, "layers", _known_layers(record))
    if practice.full_stages and pp > 1:
        return PipelineSplit(first=layers // pp + 1, last=layers - (pp - 1) * layers // pp - 1)
    absent = -layers % pp
    if absent == 2:
        return PipelineSplit(embedding=True, loss=True)
    if practice.short_ends is None or not absent:
        return PipelineSplit(embedding=practice.even_ends, loss=practice.even_ends)
    each, first = (layers + absent) // pp, practice.short_ends
    return PipelineSplit(first=each - first, last=each - absent + first)


def _known_layers(record: Mapping[str, str]) -> int:
    known = known_model(said(record, "model"))
    return known.layers if known else 1


def _kind(recomputed: str) -> str:
    """JAX's rows do not say; MaxText's remat_policy is "full" unless set. A flag is whether layers are checkpointed."""
    word = recomputed.lower()
    if re.match(r"full|unknown|uniform|block|(true|yes|on|1|1.0|ac)$", word):
        return "full"
    if re.match(r"none|(false|no|off|0|0.0)$", word):
        return "none"
    if not (word.startswith("selective") or "sac" in word.split() or _modules(recomputed)):
        raise ValueError(f"recompute = {recomputed} is none of none, selective and full")
    return "selective"


_EVERY_SECOND = ("layernorm", "act", "second_matmul")  # torchtitan's op-level checkpointing keeps every other product
_MODULES = ("core_attn", "mlp", "moe", "shared_experts", "layernorm", "moe_act", "mla_up_proj")
_OTHERWISE = {"norm": "layernorm", "shared_expert": "shared_experts", "attn": "core_attn"}


def _modules(recomputed: str) -> tuple[str, ...] | None:
    if "op" in recomputed and "SAC" in recomputed:
        return _EVERY_SECOND
    words = [_OTHERWISE.get(word, word) for word in re.findall(r"\w+", recomputed.lower())]
    return tuple(word for word in words if word in _MODULES) or None


def training(record: Mapping[str, str], practice: Practice) -> Training:
    """Batch and precision of the columns."""
    reduce = said(record, "gradients").partition(" ")[0] or _summed(record, practice)
    return Training(
        sequence=count(record, "seq"),
        micro_batch=count(record, "mbs"),
        global_batch=count(record, "gbs"),
        precision=precision_of(record),  # type: ignore[arg-type]
        grad_reduce=reduce,  # type: ignore[arg-type]
        optimizer=Optimizer(name=_optimizer(record)),  # type: ignore[arg-type]
    )


def _summed(record: Mapping[str, str], practice: Practice) -> str:
    """What gradients are summed in where no column says so."""
    if said(record, "precision").lower().startswith(("amp", "bf16 compute")):
        return "fp32"
    return "bf16" if practice.sums_as_fp16 and precision_of(record) == "fp16" else practice.grad_reduce


def _optimizer(record: Mapping[str, str]) -> str:
    name = said(record, "optimizer").lower() or "adamw"
    if name not in ("adamw", "adam", "sgd", "muon"):
        raise ValueError(f"optimizer = {name} is none of adamw, adam, sgd and muon")
    return name


_PRECISIONS = (
    ("nvfp4", "nvfp4"),
    (r"mx[\W_]*fp8|fp8[\W_]*mx", "mxfp8"),
    (r"delayed|fp8[\W_]*ds\b", "fp8_delayed"),
    (r"blockwise|subchannel|1x128|fp8[\W_]*sc\b", "fp8_blockwise"),
    ("fp8|float8|e4m3", "fp8_tensorwise"),
    ("fp4", "nvfp4"),
    (r"fp16|\bfloat16|^half", "fp16"),
    ("bf16|bfloat16", "bf16"),
    ("^(tf|fp|float)32", "fp32"),
)
"""(pattern in the column, precision of a Spec), the first that is found."""


def precision_of(record: Mapping[str, str]) -> str:
    """What the column means to a Spec."""
    written = (said(record, "precision") or "bf16").lower()
    found = [kind for pattern, kind in _PRECISIONS if re.search(pattern, written)]
    if not found or re.search(r"int\d|mxfp4", written):
        raise ValueError(f"precision = {written} is none of bf16, fp16, fp8, mxfp8, nvfp4 and fp32")
    return found[0]


def backend(record: Mapping[str, str], practice: Practice) -> Backend:
    """How the framework that ran the row computes."""
    attention = said(record, "attn_impl")
    old = not practice.transformer_engine and practice.dropout > 0 and "flash" not in attention
    unfused = old or attention in ("torch", "fused", "local") or attention.startswith("unfused")
    engine = practice.transformer_engine and (practice.dense_engine or routed(record)) and attention != "local"
    added = said(record, "gradients").endswith(" added")  # to their buffer by a kernel of their own
    loss, stage = said(record, "loss"), stage_of(record, practice)
    megatron = MegatronOptions(
        fsdp=practice.fsdp,  # type: ignore[arg-type]
        transformer="transformer_engine" if engine else "local",
        gradient_accumulation_fusion=engine and not added,
        attention="unfused" if unfused else "auto",
        cross_entropy_fusion=loss == "fused" if loss else practice.fused_loss,
        quantization=weights_of(record, precision_of(record), stage) if practice.low_weights else Quantization(),
        megatron_fsdp=fsdp_of(record) if stage > 1 and practice.fsdp == "megatron" else FsdpOptions(),
        **(optimizer_of(record) if practice.small_states or said(record, "states") else {}),
        **technique_options(record, routed(record)),
    )
    return Backend(
        name="deepspeed" if practice.deepspeed else "megatron", megatron=megatron, deepspeed=DeepSpeedOptions()
    )
