"""Spec -> miniature Specs: the same kinds of parallelism on a few CPU processes, the same kind of model, small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from meshwright.errors import ConfigError, Problem
from meshwright.model.megatron_classes import is_hybrid
from meshwright.rehearse.deepspeed import of_deepspeed, small_options
from meshwright.rehearse.layouts import layouts, parallelism, processes, recomputed, split
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
    Schedule,
    Spec,
    Tokenizer,
    Training,
)
from meshwright.spec.launch import Launch
from meshwright.spec.model import Model, Moe
from meshwright.spec.techniques import ExpertOptions

__all__ = ["miniature", "one_process", "substitutions"]

MICRO_BATCH, GLOBAL_BATCH = 2, 8  # sequences; 4 micro-batches fill four stages
LEARNING_RATE = 1.0e-3  # ours: the loss falls by 2 nats in 40 steps, and rounding does not grow (3e-3: to 0.1 nats)
ROUTED_LEARNING_RATE = 5.0e-4  # ours: slower, so that few tokens whose experts are nearly tied change them by rounding
EPSILON = 1.0e-5  # ours: with Adam's 1e-8, gradients that are only rounding noise would move weights as others do
FAINT = 1.0e-3


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
    yield from _in_training(spec, minis[0].training)
    if spec.backend.name == "deepspeed":
        yield from of_deepspeed(spec.backend.deepspeed)
    yield from _in_layout(spec, minis)
    yield from _in_the_model(spec, minis[0].model)
    yield from _without_a_gpu(spec.parallelism)
    if spec.backend.megatron.extra:
        yield f"without the extra flags {' '.join(spec.backend.megatron.extra)}"
    if spec.backend.megatron.per_token_loss and not minis[0].backend.megatron.per_token_loss:
        yield "gradients divided by ranks and micro-batches: not all that stands in for Megatron-FSDP divides by tokens"


def _in_training(spec: Spec, small: Training) -> Iterator[str]:
    training = spec.training
    if training.precision != "fp32":
        yield f"fp32 instead of {training.precision}: rounding would hide differences"
    if spec.model.attention_dropout or spec.model.hidden_dropout:
        yield "no dropout: its random numbers depend on the layout"
    if training.optimizer.name != small.optimizer.name and training.optimizer.name != "adam":
        yield f"AdamW instead of {training.optimizer.name}"


def _in_layout(spec: Spec, minis: tuple[Spec, ...]) -> Iterator[str]:
    p = spec.parallelism
    if p.zero >= 2 and spec.backend.name == "megatron":
        yield _instead_of_fsdp(p.zero, minis)
    if p.cp > 1 and p.cp_comm != minis[0].parallelism.cp_comm:
        yield f"context parallelism by all-gather instead of {p.cp_comm}"


def _instead_of_fsdp(zero: int, minis: tuple[Spec, ...]) -> str:
    stages = {mini.parallelism.zero for mini in minis}
    if max(stages) == 1:
        return f"ZeRO 1 instead of {zero}: Megatron-FSDP needs GPUs, and torch's FSDP2 has no ranks of experts"
    kind = "DeepSpeed" if any(mini.backend.name == "deepspeed" for mini in minis) else "torch's FSDP2"
    return f"ZeRO {zero} by {kind}: Megatron-FSDP needs GPUs"


def _in_the_model(spec: Spec, small: Model) -> Iterator[str]:
    if small.mtp_loss_weight == FAINT:
        yield f"multi-token prediction weighs {FAINT}: Megatron counts its tokens on each context-parallel rank apart"
    if spec.model.moe is not None and small.moe is not None:
        yield from _in_the_router(spec.model.moe, small.moe)
    if _only_flash_has_windows(spec):
        yield "windows as long as the sequence: under Ulysses only flash attention keeps them, which needs a GPU"
    if _cannot_tie(spec):
        yield "embeddings of their own: torch's FSDP2 cannot tie them"


def _in_the_router(moe: Moe, small: Moe) -> Iterator[str]:
    if moe.balancing != small.balancing:
        yield "experts balanced in each micro-batch: Megatron's count over a batch depends on the replicas"
    if moe.capacity_factor != small.capacity_factor:
        yield "no token is dropped: which ones a capacity drops depends on how ranks share a sequence"


def _without_a_gpu(p: Parallelism) -> Iterator[str]:
    if p.gtp > 1 or p.egtp > 1:
        yield "data parallelism instead of generalized tensor parallelism: gathering parts of weights needs GPUs"
    if p.overlap_tp or p.overlap_ep:
        yield "no overlap with matrix products: its kernels need GPUs"
    if recomputed(p) != p.recompute_modules:
        yield "the experts' activations are kept: recomputing them needs a grouped matrix product"


def _spec(spec: Spec, degrees: Mapping[str, int], ranks: int, steps: int) -> Spec:
    world = processes(degrees)
    layers, division = split(spec, ranks)
    cluster = replace(spec.cluster, name="this machine", gpus=world, nodes=None, gpus_per_node=world, environment={})
    return replace(
        spec,
        model=_comparable(spec, small_model(spec.model, layers)),
        cluster=replace(cluster, nvlink_domain=None),
        parallelism=parallelism(spec, degrees, division),
        training=_training(spec, steps, ROUTED_LEARNING_RATE if spec.model.routed else LEARNING_RATE),
        backend=_backend(spec),
        launch=Launch(),
        stage=None,
        variant=None,
    )


def _comparable(spec: Spec, model: Model) -> Model:
    """What its miniatures can train alike.

    With CP, Megatron weighs the MTP loss by each rank's own tokens, and the last one has fewer: 31 and 32 here
    (megatron/core/transformer/multi_token_prediction.py:851, :889); next to nothing at a real length. Balancing over
    the batch, it averages counts of the micro-batches so far (moe/router.py:527), which replicas divide among them. A
    capacity is of the tokens of one rank (moe_utils.py:990), of which there are fewer where ranks share a sequence.
    """
    if model.moe is not None and model.moe.balancing == "global_aux_loss":
        model = replace(model, moe=replace(model.moe, balancing="aux_loss"))
    if model.moe is not None and not _whole_sequences(spec):
        model = replace(model, moe=replace(model.moe, capacity_factor=None, drop_policy="probs"))
    if spec.parallelism.cp > 1 and model.mtp > 0 and spec.backend.name == "megatron":
        model = replace(model, mtp_loss_weight=FAINT)
    if _only_flash_has_windows(spec):
        model = replace(model, sliding_window=SEQUENCE)
    return replace(model, tied_embeddings=False) if _cannot_tie(spec) else model


def _whole_sequences(spec: Spec) -> bool:
    """Whether a rank routes all tokens of its sequences."""
    return spec.parallelism.tp * spec.parallelism.cp == 1


def _padded(spec: Spec) -> bool:
    """Whether experts are padded to a capacity here, too."""
    return spec.backend.megatron.experts.padded_to_capacity and _whole_sequences(spec)


def _only_flash_has_windows(spec: Spec) -> bool:
    """Ulysses drops the mask, and flash attention needs a GPU (rules.deepspeed_degrees)."""
    return spec.backend.name == "deepspeed" and spec.parallelism.cp > 1 and spec.model.sliding_window is not None


def _cannot_tie(spec: Spec) -> bool:
    """On a CPU: torch's FSDP2 ties nothing, Megatron-FSDP needs a GPU, and DeepSpeed has no such model."""
    sharded = spec.backend.name == "megatron" and spec.parallelism.zero >= 2
    return sharded and spec.model.tied_embeddings and spec.model.transformers is None


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
            experts=ExpertOptions(padded_to_capacity=_padded(spec)),
            vocab_divisor=VOCAB // 4,
            gradient_accumulation_fusion=False,
            per_token_loss=backend.megatron.per_token_loss and spec.parallelism.zero < 2,
            spec=backend.megatron.spec,
        ),
        deepspeed=small_options(backend.deepspeed, SEQUENCE // min(2, spec.parallelism.cp)),
    )


def _on_a_backend(mini: Spec) -> Spec:
    """The miniature itself; its FSDP by DeepSpeed where torch's FSDP2 cannot, else by ZeRO 1.

    Raises:
        ConfigError: where none can.

    """
    problems = refusals(mini, mini.backend.name)
    deepspeeds = replace(mini, backend=replace(mini.backend, name="deepspeed"))
    whole = replace(mini, parallelism=replace(mini.parallelism, zero=1))
    for instead in (deepspeeds, whole) if problems and mini.parallelism.zero >= 2 else ():
        if not refusals(instead, instead.backend.name):
            return instead
    if problems:
        raise ConfigError(problems)
    return mini
