"""Spec -> miniature Specs: the same kinds of parallelism on a few CPU processes, the same kind of model, small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from meshwright.errors import ConfigError, Problem
from meshwright.model.megatron_classes import is_hybrid
from meshwright.rehearse.deepspeed import of_deepspeed, small_options
from meshwright.rehearse.shapes import SEQUENCE, VOCAB, small_model
from meshwright.resolver import normalise, refusals
from meshwright.spec import (
    Backend,
    Data,
    DeepSpeedOptions,
    Logging,
    MegatronOptions,
    Optimizer,
    Parallelism,
    PipelineSplit,
    Schedule,
    Spec,
    Tokenizer,
    Training,
)
from meshwright.spec.launch import Launch
from meshwright.spec.model import Model

__all__ = ["miniature", "one_process", "substitutions"]

MICRO_BATCH, GLOBAL_BATCH = 2, 8  # sequences; 4 micro-batches fill four stages
LEARNING_RATE = 1.0e-3  # ours: the loss falls by 2 nats in 40 steps, and rounding does not grow (3e-3: to 0.1 nats)
ROUTED_LEARNING_RATE = 5.0e-4  # ours: slower, so that few tokens whose experts are nearly tied change them by rounding
EPSILON = 1.0e-5  # ours: with Adam's 1e-8, gradients that are only rounding noise would move weights as others do
FAINT = 1.0e-3
AXES = ("pp", "tp", "cp", "dp")


def miniature(spec: Spec, ranks: int = 4, steps: int = 40) -> tuple[Spec, ...]:
    """Layouts of at most ``ranks`` processes that have between them every kind of parallelism ``spec`` has.

    All train the same model with the same batches. Data paths are left open.

    Raises:
        ConfigError: where a miniature breaks a rule, or ``ranks`` is less than 2.

    """
    if ranks < 2:
        raise ConfigError([Problem("rehearse.ranks", f"{ranks} processes have nothing to share; give 2 or more")])
    spec = normalise(spec)
    minis = tuple(_spec(spec, degrees, ranks, steps) for degrees in layouts(spec, ranks))
    return tuple(_on_a_backend(mini) for mini in minis)


def one_process(mini: Spec) -> Spec:
    """The same model and batches on one process."""
    sharded = int(mini.training.optimizer.name == "muon")  # ZeRO clips what Muon made orthogonal, nothing else does
    alone = Parallelism(dp=1, zero=sharded, recompute="none", overlap_grad_reduce=False)
    plain = replace(mini.backend, deepspeed=DeepSpeedOptions(torch_adam=True))
    return replace(mini, parallelism=alone, backend=plain, cluster=replace(mini.cluster, gpus=1, gpus_per_node=1))


def substitutions(spec: Spec, minis: tuple[Spec, ...]) -> Iterator[str]:
    """What a miniature does differently, beside its sizes: one sentence each."""
    training, megatron = spec.training, spec.backend.megatron
    if training.precision != "fp32":
        yield f"fp32 instead of {training.precision}: rounding would hide differences"
    if spec.model.attention_dropout or spec.model.hidden_dropout:
        yield "no dropout: its random numbers depend on the layout"
    if training.optimizer.name != minis[0].training.optimizer.name and training.optimizer.name in ("muon", "sgd"):
        yield f"AdamW instead of {training.optimizer.name}"
    if spec.backend.name == "deepspeed":
        yield from of_deepspeed(spec.backend.deepspeed)
    if spec.parallelism.zero >= 2 and spec.backend.name == "megatron":
        kind = "DeepSpeed" if minis[0].backend.name == "deepspeed" else "torch's FSDP2"
        yield f"ZeRO {spec.parallelism.zero} by {kind}: Megatron-FSDP needs GPUs"
    if minis[0].parallelism.cp_comm != spec.parallelism.cp_comm and spec.parallelism.cp > 1:
        yield f"context parallelism by all-gather instead of {spec.parallelism.cp_comm}"
    if minis[0].model.mtp_loss_weight == FAINT:
        yield f"multi-token prediction weighs {FAINT}: Megatron counts its tokens on each context-parallel rank apart"
    if _only_flash_has_windows(spec):
        yield "windows as long as the sequence: under Ulysses only flash attention keeps them, which needs a GPU"
    if _cannot_tie(spec):
        yield "embeddings of their own: torch's FSDP2 cannot tie them"
    if spec.parallelism.gtp > 1 or spec.parallelism.egtp > 1:
        yield "data parallelism instead of generalized tensor parallelism: gathering parts of weights needs GPUs"
    if spec.parallelism.overlap_tp or spec.parallelism.overlap_ep:
        yield "no overlap with matrix products: its kernels need GPUs"
    if _recomputed(spec.parallelism) != spec.parallelism.recompute_modules:
        yield "the experts' activations are kept: recomputing them needs a grouped matrix product"
    if megatron.extra:
        yield f"without the extra flags {' '.join(megatron.extra)}"


def layouts(spec: Spec, ranks: int) -> list[dict[str, int]]:
    """Degrees of each miniature: axes packed together while they fit, then filled up with those seen already."""
    sizes = {axis: size for axis, size in _sizes(spec, ranks).items() if size > 1}
    packed: list[dict[str, int]] = []
    for axis, size in sizes.items():
        home = next((p for p in packed if _ranks(p) * size <= ranks), None)
        if home is None:
            packed.append(home := {})
        home[axis] = size
    for degrees in packed:
        for axis, size in sizes.items():
            if axis not in degrees and axis != "pp" and _ranks(degrees) * size <= ranks:
                degrees[axis] = size
    return _room_for_experts(spec, packed or [{"dp": 1}], ranks)


def _sizes(spec: Spec, ranks: int) -> dict[str, int]:
    p = spec.parallelism
    sizes = {axis: min(2, getattr(p, axis) or 1) for axis in AXES}
    sizes["dp"] = min(2, (p.dp or 1) * p.gtp)  # which cuts weights, not the micro-batches
    if p.pp > 1 and p.vpp == 1 and ranks >= 4 and p.pipeline_split != PipelineSplit():
        sizes["pp"] = 4  # uneven stages have a first, a last and some between
    if p.optimizer_instances > 1 and ranks >= 4:
        sizes["dp"] = 4
    return sizes


def _room_for_experts(spec: Spec, packed: list[dict[str, int]], ranks: int) -> list[dict[str, int]]:
    """``ep*etp`` divides ``tp*cp*dp``; where no layout has that room, one more with a wider axis."""
    needed = min(ranks, min(2, spec.parallelism.ep) * min(2, spec.parallelism.etp))
    if any(_rows(degrees) % needed == 0 for degrees in packed):
        return packed
    widest = max(("dp", "cp", "tp"), key=lambda axis: getattr(spec.parallelism, axis) or 1)
    return [*packed, {widest: needed}]


def _ranks(degrees: Mapping[str, int]) -> int:
    return _rows(degrees) * degrees.get("pp", 1)


def _rows(degrees: Mapping[str, int]) -> int:
    """Ranks of one pipeline stage."""
    return degrees.get("tp", 1) * degrees.get("cp", 1) * degrees.get("dp", 1)


def _spec(spec: Spec, degrees: Mapping[str, int], ranks: int, steps: int) -> Spec:
    world = _ranks(degrees)
    layers, split = _split(spec, _sizes(spec, ranks)["pp"])
    cluster = replace(spec.cluster, name="this machine", gpus=world, nodes=None, gpus_per_node=world, environment={})
    return replace(
        spec,
        model=_comparable(spec, small_model(spec.model, layers)),
        cluster=replace(cluster, nvlink_domain=None),
        parallelism=_parallelism(spec, degrees, split),
        training=_training(spec, steps, ROUTED_LEARNING_RATE if spec.model.routed else LEARNING_RATE),
        backend=_backend(spec),
        launch=Launch(),
        stage=None,
        variant=None,
    )


def _comparable(spec: Spec, model: Model) -> Model:
    """What its miniatures can train alike.

    With CP, Megatron weighs the MTP loss by each rank's own tokens, and the last one has fewer: 31 and 32 here
    (megatron/core/transformer/multi_token_prediction.py:851, :889); next to nothing at a real length.
    """
    if spec.parallelism.cp > 1 and model.mtp > 0 and spec.backend.name == "megatron":
        model = replace(model, mtp_loss_weight=FAINT)
    if _only_flash_has_windows(spec):
        model = replace(model, sliding_window=SEQUENCE)
    return replace(model, tied_embeddings=False) if _cannot_tie(spec) else model


def _only_flash_has_windows(spec: Spec) -> bool:
    """Ulysses drops the mask, and flash attention needs a GPU (rules.deepspeed_degrees)."""
    return spec.backend.name == "deepspeed" and spec.parallelism.cp > 1 and spec.model.sliding_window is not None


def _cannot_tie(spec: Spec) -> bool:
    """On a CPU: torch's FSDP2 ties nothing, Megatron-FSDP needs a GPU, and DeepSpeed has no such model."""
    sharded = spec.backend.name == "megatron" and spec.parallelism.zero >= 2
    return sharded and spec.model.tied_embeddings and spec.model.transformers is None


def _parallelism(spec: Spec, degrees: Mapping[str, int], split: PipelineSplit) -> Parallelism:
    p, pipelined = spec.parallelism, "pp" in degrees
    ep = 2 if p.ep > 1 and _rows(degrees) % 2 == 0 else 1
    etp = 2 if p.etp > 1 and _rows(degrees) % (2 * ep) == 0 else 1
    sharded = degrees.get("dp", 1) * degrees.get("cp", 1) > 1 or spec.backend.name == "deepspeed"
    return replace(
        p,
        tp=degrees.get("tp", 1),
        pp=degrees.get("pp", 1),
        cp=degrees.get("cp", 1),
        gtp=1,
        egtp=1,
        dp=degrees.get("dp", 1),
        sp=p.sp and "tp" in degrees,
        vpp=min(p.vpp, 2) if pipelined else 1,
        ep=ep,
        etp=etp,
        zero=p.zero if sharded else 0,
        optimizer_instances=2 if p.optimizer_instances > 1 and degrees.get("dp", 1) >= 4 else 1,
        pipeline_split=split if pipelined else PipelineSplit(),
        recompute_modules=_recomputed(p),
        recompute_layers=None if p.recompute_layers is None else 1,
        microbatch_group=None,
        cp_comm="all_gather" if degrees.get("cp", 1) > 1 and spec.backend.name == "megatron" else p.cp_comm,
        overlap_tp=False,
        overlap_ep=False,
    )


def _recomputed(p: Parallelism) -> tuple[str, ...] | None:
    """Activations of experts in one grouped product are not recomputed: here each expert has its own."""
    return p.recompute_modules and tuple(module for module in p.recompute_modules if module != "moe_act")


def _split(spec: Spec, pp: int) -> tuple[int, PipelineSplit]:
    """Layers of the miniature, and an uneven split where the original has one: [1,2,2,1] over four chunks."""
    division, vpp = spec.parallelism.pipeline_split, min(spec.parallelism.vpp, 2)
    chunks, tail = pp * vpp, "m" * min(spec.model.mtp, 1) + "L"
    if pp == 1 or division == PipelineSplit():
        return max(4, chunks), PipelineSplit()
    if division.layout is not None:
        return 6, PipelineSplit(layout=f"Et|tt|tt|t{tail}" if chunks == 4 else f"Ett|tttt{tail}")
    if division.embedding or division.loss:
        return 2 * chunks - division.embedding - division.loss, replace(division)
    short = 1 if pp == 4 else 2  # two stages of two chunks each: 2 and 4 layers
    first, last = (short if end is not None else None for end in (division.first, division.last))
    if first is not None and last is not None:
        return 6, PipelineSplit(first=first, last=6 - first if pp == 2 else last)
    return 7 if pp == 4 else 6, PipelineSplit(first=first, last=last)


def _training(spec: Spec, steps: int, rate: float) -> Training:
    training, muon = spec.training, spec.training.optimizer.name == "muon" and spec.backend.name == "deepspeed"
    return Training(
        sequence=SEQUENCE,
        micro_batch=MICRO_BATCH,
        global_batch=GLOBAL_BATCH,
        steps=steps,
        precision="fp32",
        optimizer=Optimizer(name="muon" if muon else "adamw", lr=rate, eps=EPSILON, clip=training.optimizer.clip),
        schedule=Schedule(style="constant"),
        seed=training.seed,
        data=Data(split="100,0,0", workers=0, tokenizer=Tokenizer(kind="bytes")),
        logging=Logging(),
    )


def _backend(spec: Spec) -> Backend:
    """Plain layers; where Megatron has none, the program for CPUs puts them in the place of the others."""
    backend, model = spec.backend, spec.model
    engine_only = model.delta_net is not None or model.indexer is not None or is_hybrid(model, backend.megatron)
    dispatcher = backend.megatron.moe_dispatcher
    return Backend(
        name=backend.name,
        megatron=MegatronOptions(
            fsdp="torch",
            model=backend.megatron.model,
            transformer="transformer_engine" if engine_only else "local",
            attention="unfused",
            moe_dispatcher="alltoall" if dispatcher == "flex" else dispatcher,
            moe_grouped_gemm=False,
            vocab_divisor=VOCAB // 4,
            gradient_accumulation_fusion=False,
            spec=backend.megatron.spec,
        ),
        deepspeed=small_options(backend.deepspeed, SEQUENCE // min(2, spec.parallelism.cp)),
    )


def _on_a_backend(mini: Spec) -> Spec:
    """The miniature itself; its FSDP by DeepSpeed where torch's FSDP2 cannot.

    Raises:
        ConfigError: where neither can.

    """
    problems = refusals(mini, mini.backend.name)
    other = replace(mini, backend=replace(mini.backend, name="deepspeed"))
    if problems and mini.parallelism.zero >= 2 and not refusals(other, "deepspeed"):
        return other
    if problems:
        raise ConfigError(problems)
    return mini
