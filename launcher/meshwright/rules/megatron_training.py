"""What Megatron cannot train so: sharding, optimizers, and what belongs to a schedule."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule, implies
from meshwright.spec.effect import unequal
from meshwright.spec.techniques import MuonOptions
from meshwright.spec.training import MATRIX_OPTIMIZERS

__all__ = ["RULES"]


def _plain_muon(r: Layout) -> Iterable[Repair]:
    changed = unequal(r.backend.megatron.muon, MuonOptions(), "backend.megatron.muon")
    return ({path: default for path, _, default in changed},)


def _all_in_fp32(r: Layout) -> Iterable[Repair]:
    """The plain optimizer, whose states and gradients have 32 bits each."""
    small = (f"optimizer_{which}" for which in ("moments", "master", "gradients"))
    changed = {f"backend.megatron.{name}": "fp32" for name in small if getattr(r.backend.megatron, name) != "fp32"}
    yield {"backend.megatron.precision_aware_optimizer": False, **changed}


_SHARDING = (
    Rule(
        id="megatron.fsdp_checkpoint",
        path="backend.megatron.checkpoint_format",
        backends=MEGATRON,
        holds=lambda r: _checkpoint_fits(r),
        message="{backend.megatron.checkpoint_format} checkpoints do not fit: Megatron-FSDP saves only fsdp_dtensor, "
        "torch's FSDP2 torch_dist or torch_dcp, everything else torch_dist or torch",
        source="training/arguments.py:1146, :1008, :1613, :1621",
        repairs=change(backend__megatron__checkpoint_format=None),
    ),
    Rule(
        id="megatron.matrices_fsdp",
        path="parallelism.zero",
        backends=MEGATRON,
        holds=lambda r: implies(r.training.optimizer.name in MATRIX_OPTIMIZERS, r.zero <= 1),
        message="{training.optimizer.name} does not go with FSDP of either kind, which realises ZeRO-{zero}; "
        "ZeRO-1 shards it by layers",
        source="training/arguments.py:1685",
        repairs=any_of(change(parallelism__zero=1), change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="megatron.matrices_fp16",
        path="training.precision",
        backends=MEGATRON,
        holds=lambda r: r.training.optimizer.name not in MATRIX_OPTIMIZERS or r.training.precision != "fp16",
        message="{training.optimizer.name} does not train in fp16",
        source="core/optimizer/__init__.py: emerging optimizer with fp16",
        repairs=any_of(change(training__precision="bf16"), change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="megatron.adaptive_muon",
        path="training.optimizer.name",
        backends=MEGATRON,
        holds=lambda r: r.training.optimizer.name != "adaptive_muon",
        message="adaptive_muon stops in its first step with Emerging-Optimizers 0.3.0, the only release: it scales by "
        "a scale_mode that Megatron-core 0.19.2's class does not set",
        source="core/optimizer/emerging_optimizers.py:383 and emerging_optimizers 0.3.0 orthogonalized_optimizers/"
        "adaptive_muon.py:122: AttributeError 'scale_mode', seen",
        repairs=any_of(change(training__optimizer__name="muon"), change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="megatron.qk_clip",
        path="training.optimizer.qk_clip",
        backends=MEGATRON,
        holds=lambda r: r.training.optimizer.qk_clip is None or _tells_its_logits(r),
        message="the largest logit is told by Transformer Engine's attention (not by local layers or flash kernels, "
        "{backend.megatron.attention}), outside of CUDA graphs ({backend.megatron.cuda_graphs.kind}), in layers of "
        "attention of GPTModel's own",
        source="core/extensions/transformer_engine.py:1947, core/optimizer/qk_clip.py:22; transformer_engine "
        "attention/dot_product_attention/utils.py: no FlashAttention for max_logit; in a graph ours, its first clip "
        "would be its last",
        repairs=any_of(
            change(training__optimizer__qk_clip=None),
            change(backend__megatron__attention="auto"),
            change(backend__megatron__cuda_graphs__kind="none", backend__megatron__cuda_graphs__modules=()),
        ),
    ),
    Rule(
        id="megatron.muon",
        path="backend.megatron.muon",
        backends=MEGATRON,
        holds=lambda r: r.training.optimizer.name == "muon" or r.backend.megatron.muon == MuonOptions(),
        message="options of Muon, and the optimizer is {training.optimizer.name}",
        source="ours: they would be lost",
        repairs=any_of(_plain_muon, change(training__optimizer__name="muon")),
    ),
    Rule(
        id="megatron.precision_aware",
        path="backend.megatron.precision_aware_optimizer",
        backends=MEGATRON,
        holds=lambda r: implies(r.backend.megatron.precision_aware_optimizer, r.zero >= 1),
        message="the precision-aware optimizer is a distributed optimizer: zero >= 1, zero = {zero}",
        source="core/optimizer/optimizer_config.py:434",
        repairs=any_of(_all_in_fp32, change(parallelism__zero=1)),
    ),
    Rule(
        id="megatron.precision_aware_adam",
        path="backend.megatron.precision_aware_optimizer",
        backends=MEGATRON,
        holds=lambda r: (
            not r.backend.megatron.precision_aware_optimizer or r.training.optimizer.name in ("adam", "adamw")
        ),
        message="the precision-aware optimizer is an Adam, the optimizer is {training.optimizer.name}",
        source="core/optimizer/optimizer_config.py:431",
        repairs=any_of(_all_in_fp32, change(training__optimizer__name="adamw")),
    ),
    Rule(
        id="megatron.moments",
        path="backend.megatron.optimizer_moments",
        backends=MEGATRON,
        holds=lambda r: implies(
            r.backend.megatron.optimizer_moments != "fp32", r.backend.megatron.precision_aware_optimizer
        ),
        message="{backend.megatron.optimizer_moments} moments need the precision-aware optimizer",
        source="core/optimizer/optimizer_config.py:434",
        repairs=any_of(
            change(backend__megatron__precision_aware_optimizer=True),
            change(backend__megatron__optimizer_moments="fp32"),
        ),
    ),
)


def _checkpoint_fits(r: Layout) -> Number:
    chosen = r.backend.megatron.checkpoint_format
    plain = chosen in (None, "torch_dist", "torch")
    megatron = chosen in (None, "fsdp_dtensor")
    torch = chosen in (None, "torch_dist", "torch_dcp")
    sharded = megatron if r.backend.megatron.fsdp == "megatron" else torch
    return implies(r.zero < 2, plain) & implies(r.zero >= 2, sharded)


def _tells_its_logits(r: Layout) -> bool:
    """Every layer is attention that GPTModel itself builds, by an engine that returns its largest logit."""
    from meshwright.model.kinds import kinds
    from meshwright.model.megatron_classes import is_hybrid
    from meshwright.model.megatron_parts import spec_name

    options = r.backend.megatron
    plain = not is_hybrid(r.model, options) and spec_name(r.model) is None
    known = {"attention", "latent_attention"}
    graphs = options.cuda_graphs
    eager = graphs.kind == "none" or (graphs.kind != "full_iteration" and bool(graphs.modules))
    eager = eager and "attn" not in graphs.modules
    told = options.transformer == "transformer_engine" and options.attention in ("auto", "fused", "unfused")
    return plain and eager and told and {kind.mixer for kind in kinds(r.model)} <= known


_TRAINING = (
    Rule(
        id="megatron.adam",
        path="training.optimizer.name",
        backends=MEGATRON,
        holds=lambda r: r.training.optimizer.name != "adam",
        message="Megatron's adam always decouples weight decay (AdamW); its command line has no flag for plain Adam",
        source="core/optimizer/optimizer_config.py:250",
        repairs=change(training__optimizer__name="adamw"),
    ),
    Rule(
        id="megatron.wsd",
        path="training.schedule.wsd_decay_steps",
        backends=MEGATRON,
        holds=lambda r: r.training.schedule.style != "wsd" or r.training.schedule.wsd_decay_steps is not None,
        message="a wsd schedule needs the length of its last phase",
        source="core/optimizer_param_scheduler.py: WSD asserts it",
    ),
    Rule(
        id="megatron.fp32_reduce",
        path="training.grad_reduce",
        backends=MEGATRON,
        holds=lambda r: r.training.grad_reduce == "fp32" or r.training.precision != "fp32",
        message="fp32 training reduces gradients in fp32",
        source="gradients have the parameters' dtype",
        repairs=change(training__grad_reduce="fp32"),
    ),
)


RULES: tuple[Rule, ...] = _SHARDING + _TRAINING
