"""What a degree must divide: heads, MLP, experts, sequence. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.model.kinds import kinds
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import EVERY, MEGATRON, Layout, Rule, implies

__all__ = ["RULES"]

_TP = nearest("parallelism.tp", lambda r: r.tp, high=64)
_EP = nearest("parallelism.ep", lambda r: r.ep)
_ETP = nearest("parallelism.etp", lambda r: r.etp, high=64)

_TENSOR = (
    Rule(
        id="tensor.heads",
        path="parallelism.tp",
        backends=EVERY,
        holds=lambda r: r.model.heads % r.tp == 0,
        message="{model.heads} attention heads do not divide by tp = {tp}",
        source="core/transformer/transformer_config.py:1324",
        repairs=_TP,
    ),
    Rule(
        id="tensor.kv_heads",
        path="parallelism.tp",
        backends=MEGATRON,
        holds=lambda r: (r.model.mla is not None) | (r.model.kv_heads % r.tp == 0) | (r.tp % r.model.kv_heads == 0),
        message="{model.kv_heads} key/value heads are neither a multiple nor a divisor of tp = {tp}",
        source="core/transformer/transformer_config.py:1342",
        repairs=_TP,
    ),
    Rule(
        id="tensor.ffn",
        path="parallelism.tp",
        backends=EVERY,
        holds=lambda r: (not _has_dense_layer(r)) | (r.model.ffn % r.tp == 0),
        message="ffn = {model.ffn} does not divide by tp = {tp}",
        source="core/utils.py:558, when the model is built",
        repairs=_TP,
    ),
    Rule(
        id="tensor.shared_experts",
        path="parallelism.tp",
        backends=MEGATRON,
        holds=lambda r: (r.model.moe is None) or (r.model.moe.shared_ffn % r.tp == 0),
        message="the shared experts' ffn = {model.moe.shared_ffn} does not divide by tp = {tp}",
        source="core/utils.py:558, when the model is built",
        repairs=_TP,
    ),
    Rule(
        id="tensor.sequence_parallel",
        path="parallelism.sp",
        backends=EVERY,
        holds=lambda r: implies(r.sp, r.tp > 1),
        message="sequence parallelism needs tp > 1, tp = {tp}",
        source="core/model_parallel_config.py:504; the command line only warns and turns it off",
        repairs=any_of(change(parallelism__sp=False), nearest("parallelism.tp", lambda r: r.tp, low=2, high=16)),
    ),
    Rule(
        id="tensor.overlap",
        path="parallelism.overlap_tp",
        backends=MEGATRON,
        holds=lambda r: implies(r.spec.parallelism.overlap_tp, r.sp),
        message="overlapping tensor-parallel collectives with GEMMs needs sp=true",
        source="training/arguments.py:1402",
        repairs=any_of(change(parallelism__sp=True), change(parallelism__overlap_tp=False)),
    ),
)

_EXPERTS = (
    Rule(
        id="experts.ep",
        path="parallelism.ep",
        backends=EVERY,
        needs=("grid.dense_experts",),
        holds=lambda r: (r.model.moe is None) or (r.model.moe.experts % r.ep == 0),
        message="{model.moe.experts} experts do not divide by ep = {ep}",
        source="training/arguments.py:1602",
        repairs=_EP,
    ),
    Rule(
        id="experts.etp",
        path="parallelism.etp",
        backends=MEGATRON,
        needs=("grid.dense_experts",),
        holds=lambda r: (r.model.moe is None) or (r.model.moe.ffn % r.etp == 0),
        message="the experts' ffn = {model.moe.ffn} does not divide by etp = {etp}",
        source="core/utils.py:558, when the model is built",
        repairs=_ETP,
    ),
    Rule(
        id="experts.topk",
        path="model.moe.topk",
        backends=EVERY,
        holds=lambda r: (r.model.moe is None) or (1 <= r.model.moe.topk <= r.model.moe.experts),
        message="topk = {model.moe.topk} of {model.moe.experts} experts",
        source="a token cannot visit more experts than there are",
        repairs=nearest("model.moe.topk", lambda r: r.model.moe.topk if r.model.moe else 1, high=16),
    ),
    Rule(
        id="experts.groups",
        path="model.moe.groups",
        backends=EVERY,
        holds=lambda r: (
            (r.model.moe is None)
            or (
                r.model.moe.experts % max(1, r.model.moe.groups) == 0
                and 1 <= r.model.moe.group_topk <= r.model.moe.groups
            )
        ),
        message="{model.moe.experts} experts in {model.moe.groups} groups of which {model.moe.group_topk} are chosen",
        source="core/transformer/transformer_config.py:2349, :2353",
        repairs=change(model__moe__groups=1, model__moe__group_topk=1),
    ),
    Rule(
        id="experts.sequence_parallel",
        path="parallelism.sp",
        backends=MEGATRON,
        holds=lambda r: (r.model.moe is None) | (r.tp == 1) | (r.sp > 0),
        message="experts with tp = {tp} train only with sp=true",
        source="core/transformer/moe/moe_layer.py:630, at the first step",
        repairs=any_of(change(parallelism__sp=True), change(parallelism__tp=1)),
    ),
    Rule(
        id="tensor.latent",
        path="parallelism.sp",
        backends=MEGATRON,
        needs=("experts.sequence_parallel",),
        holds=lambda r: (r.model.mla is None) | (r.tp == 1) | (r.sp > 0),
        message="without sp each of tp = {tp} ranks learns latent attention's shared keys from its own heads alone",
        source="core/transformer/multi_latent_attention.py:752: only sp sums their gradient; measured in a rehearsal",
        repairs=any_of(change(parallelism__sp=True), change(parallelism__tp=1)),
    ),
    Rule(
        id="experts.bias",
        path="parallelism.etp",
        backends=MEGATRON,
        holds=lambda r: (r.model.moe is None) | (not r.model.linear_bias) | (r.etp == 1),
        message="experts with biases need etp = 1, etp = {etp}",
        source="core/transformer/transformer_config.py:2280",
        repairs=change(parallelism__etp=1),
    ),
    Rule(
        id="experts.overlap",
        path="parallelism.overlap_ep",
        backends=MEGATRON,
        holds=lambda r: implies(
            r.spec.parallelism.overlap_ep,
            (r.ep > 1)
            & ((r.pp == 1) | (r.vpp > 1))
            & (r.recompute < 2)
            & (r.model.mtp <= 1)
            & (r.training.precision != "fp32")
            & (r.backend.megatron.moe_dispatcher != "allgather")
            & implies(r.recompute == 1, "moe" not in (r.spec.parallelism.recompute_modules or ())),
        ),
        message="overlap_ep needs ep > 1, vpp > 1 where pp > 1, no recompute of all or of moe, at most one MTP layer, "
        "16-bit training and no allgather dispatcher; ep = {ep}, pp = {pp}, vpp = {vpp}, "
        "recompute = {spec.parallelism.recompute}",
        source="core/transformer/transformer_config.py:2675-2709",
        repairs=change(parallelism__overlap_ep=False),
    ),
    Rule(
        id="mtp.positions",
        path="model.mtp",
        backends=MEGATRON,
        holds=lambda r: (r.model.mtp == 0) | (r.model.positions in ("rope", "none")),
        message="{model.mtp} multi-token-prediction layers with {model.positions} positions; rope or none is needed",
        source="training/arguments.py:857",
        repairs=change(model__mtp=0),
    ),
)

_MODEL = (
    Rule(
        id="model.query_groups",
        path="model.kv_heads",
        backends=EVERY,
        holds=lambda r: (r.model.mla is not None) | (r.model.heads % r.model.kv_heads == 0),
        message="{model.heads} heads do not share {model.kv_heads} key/value heads evenly",
        source="Ainslie et al. 2023: groups of query heads share one key/value head",
        repairs=nearest("model.kv_heads", lambda r: r.model.kv_heads),
    ),
    Rule(
        id="model.moe_layers",
        path="model.moe.first_dense",
        backends=EVERY,
        holds=lambda r: (r.model.moe is None) or (r.model.moe.first_dense <= r.model.layers),
        message="{model.moe.first_dense} dense layers come first, but there are {model.layers} layers in all",
        source="core/models/gpt/gpt_layer_specs.py:653",
        repairs=change(model__moe__first_dense=0),
    ),
)


def _has_dense_layer(r: Layout) -> bool:
    return any(kind.ffn == "mlp" for kind in kinds(r.model))


RULES: tuple[Rule, ...] = _TENSOR + _EXPERTS + _MODEL
