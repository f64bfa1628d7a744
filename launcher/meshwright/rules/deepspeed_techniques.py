"""What DeepSpeed's techniques need: tiles, ZenFlow, SuperOffload, DeepCompile, DeepEP, Muon.

Places: DeepSpeed 0.19.8, below ``deepspeed/``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import DEEPSPEED, Layout, Number, Rule, implies
from meshwright.spec import DeepSpeedOptions

__all__ = ["RULES", "TILED_MLPS"]

TILED_MLPS = (
    *("apertus", "arcee", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "glm"),
    *("glm4", "gpt_neox", "granite", "helium", "llama", "ministral3", "mistral", "nemotron", "olmo", "olmo2"),
    *("olmo3", "persimmon", "phi", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm", "starcoder2"),
)
"""Dense models of transformers whose MLP is a module that takes the hidden states alone; a test asks transformers."""


def _options(r: Layout) -> DeepSpeedOptions:
    return r.backend.deepspeed


def _cuda(r: Layout) -> bool:
    return r.cluster.accelerator.platform == "cuda"


def _plain_loss(r: Layout) -> bool:
    """Whether transformers makes its loss of the head's product alone, whose weight nothing else has.

    A tied one gets its gradient twice, in the pieces and by the embedding, which ZeRO stops at.
    """
    model = r.model
    balanced = model.moe is not None and model.moe.balancing != "none" and model.moe.aux_loss > 0
    plain = model.final_softcap is None and model.logit_scale is None and not model.tied_embeddings
    return model.measured is None and plain and not balanced


def _on_the_host(r: Layout) -> Number:
    return (_options(r).offload_optimizer.device == "cpu") & (r.training.optimizer.name in ("adam", "adamw"))


def _zenflow(r: Layout) -> Number:
    z = _options(r).zenflow
    alone = not _options(r).super_offload and not _options(r).torch_adam and _options(r).offload_optimizer.ratio == 1
    fits = _on_the_host(r) & (r.microbatches == 1) & (z.select_interval >= z.update_interval)
    return implies(z.topk is not None, fits & alone)


_NO_ZENFLOW = change(backend__deepspeed__zenflow__topk=None)


def _steps_once(r: Layout) -> Iterable[Repair]:
    """A micro-batch as large as the step, or a step as small; columns chosen no more often than the CPU steps."""
    zenflow = _options(r).zenflow
    if r.microbatches > 1:
        yield {"training.micro_batch": r.micro_batch * r.microbatches, "training.microbatches": None}
        yield {"training.global_batch": r.micro_batch * r.data, "training.microbatches": None}
    if zenflow.select_interval < zenflow.update_interval:
        yield {"backend.deepspeed.zenflow.select_interval": zenflow.update_interval}


_NO_SUPER = change(backend__deepspeed__super_offload=False)
_NOT_COMPILED = change(
    backend__deepspeed__deep_compile__enabled=False, backend__deepspeed__deep_compile__offload="none"
)
_ALLTOALL = change(backend__deepspeed__moe_dispatcher="alltoall")

_TILES = (
    Rule(
        id="deepspeed.tiled_loss",
        path="backend.deepspeed.tiling.loss",
        backends=DEEPSPEED,
        holds=lambda r: implies(_options(r).tiling.loss > 1, _plain_loss(r)),
        message="the loss of {model.name} is more than the head's product: a soft cap, a scale, the "
        "experts' balance or a tied weight, which pieces of {backend.deepspeed.tiling.loss} would leave out",
        source="ours: train/deepspeed_tiling.py; tied, runtime/zero/stage3.py:1662",
        repairs=change(backend__deepspeed__tiling__loss=1),
    ),
    Rule(
        id="deepspeed.tiled_mlp",
        path="backend.deepspeed.tiling.mlp",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            _options(r).tiling.mlp > 1, r.model.moe is None and r.model.transformers in TILED_MLPS and r.tp == 1
        ),
        message="pieces of {backend.deepspeed.tiling.mlp} need a dense model of transformers whose MLP is a module of "
        "its own, and tp = 1; {model.transformers} has tp = {tp}",
        source="runtime/sequence_parallel/ulysses_sp.py:955; ours: under AutoTP each piece would be reduced by itself",
        repairs=change(backend__deepspeed__tiling__mlp=1),
    ),
    Rule(
        id="deepspeed.tiles",
        path="backend.deepspeed.tiling",
        backends=DEEPSPEED,
        holds=lambda r: max(_options(r).tiling.loss, _options(r).tiling.mlp) <= r.training.sequence // r.cp,
        message="more pieces than the {training.sequence} tokens of a sequence over cp = {cp}",
        source="arithmetic",
        repairs=change(backend__deepspeed__tiling__loss=1, backend__deepspeed__tiling__mlp=1),
    ),
)

_HOST = (
    Rule(
        id="deepspeed.zenflow",
        path="backend.deepspeed.zenflow.topk",
        backends=DEEPSPEED,
        needs=("deepspeed.offload_optimizer",),
        holds=_zenflow,
        message="ZenFlow steps each micro-batch ({microbatches} of them in a step of ours), offloads the whole of "
        "DeepSpeed's Adam to the cpu, without SuperOffload, and chooses columns no more often than the CPU steps: "
        "select_interval = {backend.deepspeed.zenflow.select_interval}, "
        "update_interval = {backend.deepspeed.zenflow.update_interval}",
        source="runtime/zenflow/zenflow_stage_1_and_2.py:116; runtime/zenflow/engine.py:57, :65, which takes its "
        "interval for the accumulation's",
        repairs=any_of(_steps_once, _NO_ZENFLOW),
    ),
    Rule(
        id="deepspeed.super_offload",
        path="backend.deepspeed.super_offload",
        backends=DEEPSPEED,
        needs=("deepspeed.offload_optimizer",),
        holds=lambda r: implies(_options(r).super_offload, _on_the_host(r) & (r.zero == 3) & _cuda(r)),
        message="SuperOffload needs zero = 3, offload_optimizer.device = cpu, Adam and a CUDA GPU; zero = {zero}, "
        "device = {backend.deepspeed.offload_optimizer.device}, {training.optimizer.name}, "
        "{cluster.accelerator.name}",
        source="runtime/zero/offload_config.py:102; runtime/superoffload/superoffload_stage3.py:20, :51",
        repairs=_NO_SUPER,
    ),
)

_COMPILED = (
    Rule(
        id="deepspeed.deep_compile",
        path="backend.deepspeed.deep_compile.enabled",
        backends=DEEPSPEED,
        holds=lambda r: implies(_options(r).deep_compile.enabled, _cuda(r) & (r.zero >= 1) & (r.tp == 1) & (r.cp == 1)),
        message="DeepCompile's passes are ZeRO's, zero >= 1 (zero = {zero}), on a CUDA GPU "
        "({cluster.accelerator.name}), and go with neither AutoTP nor Ulysses, tp = {tp}, cp = {cp}",
        source="compile/util.py:29; runtime/engine.py:5803, :5840; module_inject/auto_ep_folding.py:202",
        repairs=_NOT_COMPILED,
    ),
    Rule(
        id="deepspeed.deep_compile_offload",
        path="backend.deepspeed.deep_compile.offload",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            _options(r).deep_compile.offload != "none", _options(r).deep_compile.enabled & (r.zero == 3)
        ),
        message="{backend.deepspeed.deep_compile.offload} leave the GPU by passes of DeepCompile at zero = 3 alone; "
        "zero = {zero}",
        source="compile/init_z3.py:18; compile/config.py: in place of its other passes",
        repairs=any_of(change(backend__deepspeed__deep_compile__offload="none")),
    ),
    Rule(
        id="deepspeed.deep_compile_tiles",
        path="backend.deepspeed.deep_compile.enabled",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            _options(r).deep_compile.enabled,
            (max(_options(r).tiling.loss, _options(r).tiling.mlp) == 1)
            & (_options(r).zenflow.topk is None)
            & (r.training.optimizer.name != "muon"),
        ),
        message="DeepCompile takes over ZeRO's hooks, which tiles, ZenFlow and Muon work with",
        source="compile/init_z1_and_2.py, compile/init_z3.py: gradients are reduced inside the graph; ours for tiles",
        repairs=_NOT_COMPILED,
    ),
)

_EXPERTS = (
    Rule(
        id="deepspeed.deepep",
        path="backend.deepspeed.moe_dispatcher",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            _options(r).moe_dispatcher == "deepep",
            (r.model.moe is not None) and _cuda(r) & (r.training.precision == "bf16") & (r.ep > 1) & (r.tp == 1),
        ),
        message="DeepEP carries tokens of experts that AutoEP deals out, ep = {ep}, in bf16 ({training.precision}), on "
        "CUDA GPUs ({cluster.accelerator.name}), at tp = {tp}",
        source="module_inject/auto_ep_comm.py:62; module_inject/auto_ep_layer.py:776, :984",
        repairs=_ALLTOALL,
    ),
)

RULES: tuple[Rule, ...] = _TILES + _HOST + _COMPILED + _EXPERTS
