"""How a model and its batch are cut over GPUs: the degrees, ZeRO, recomputation, the pipeline split."""

from __future__ import annotations

from typing import Literal

from meshwright.spec.frozen import dataclass

__all__ = ["Parallelism", "PipelineSplit"]


@dataclass(frozen=True, kw_only=True)
class PipelineSplit:
    """How layers fall on pipeline stages. All unset: evenly."""

    first: int | None = None  # decoder layers of the first stage
    last: int | None = None  # decoder layers of the last stage
    embedding: bool = False  # the embedding takes the slot of one layer
    loss: bool = False  # the head and loss take the slot of one layer
    layout: str | None = None  # Megatron's layout string, for example "Et*3|(tt|)*29m|L"


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """The degrees. ``world = tp*gtp*cp*pp*dp``; the experts' own grid is ``world = etp*ep*egtp*edp*pp``."""

    tp: int = 1
    sp: bool = False
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    gtp: int = 1  # ranks with micro-batches of their own that each keep a part of every dense weight
    egtp: int = 1  # the same of the routed experts' weights
    dp: int | None = None
    zero: int = 0  # ZeRO stage 0-3
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_method: Literal["uniform", "block"] | None = None  # full only
    recompute_layers: int | None = None  # full only
    recompute_modules: tuple[str, ...] | None = None  # selective only; None: ("core_attn",)
    pipeline_split: PipelineSplit = PipelineSplit()
    order: Literal["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"] = "tp-cp-ep-dp-pp"  # fastest axis first
    cp_comm: Literal["p2p", "all_gather", "a2a", "a2a+p2p"] = "p2p"
    cp_levels: tuple[int, ...] = ()  # a2a+p2p only: ranks that exchange heads, and rings of such groups
    optimizer_instances: int = 1  # replicas of the sharded optimizer (hybrid sharding)
    microbatch_group: int | None = None  # interleaving: contiguous micro-batches per chunk; None: pp
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True
    overlap_p2p: bool = True  # interleaved schedule only
    overlap_tp: bool = False  # tensor-parallel GEMM and collective overlap (Transformer Engine user buffers)
    overlap_ep: bool = False  # expert all-to-all hidden behind another micro-batch
