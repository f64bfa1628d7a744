"""Which degrees of parallelism DeepSpeed can give transformers' models. Places: DeepSpeed 0.19.8, in ``deepspeed/``."""

from __future__ import annotations

from meshwright.emit.deepspeed import attention
from meshwright.model.architecture_table import ARCHITECTURES, architecture_of
from meshwright.model.architectures import Architecture
from meshwright.model.count import cuts_vocabulary
from meshwright.rules._forms import only, unsplit
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import DEEPSPEED, Layout, Rule, implies
from meshwright.spec.techniques import AutoTp

__all__ = ["RULES"]

_TP = nearest("parallelism.tp", lambda r: r.tp, high=64)
_CP = nearest("parallelism.cp", lambda r: r.cp, high=64)
_EP = nearest("parallelism.ep", lambda r: r.ep)
_WHOLE_VOCABULARY = change(backend__deepspeed__autotp__vocabulary=None, backend__deepspeed__autotp__overlap=False)
_NO_TP = change(parallelism__tp=1, parallelism__sp=False)


def _architecture(r: Layout) -> Architecture:
    return architecture_of(r.model)


_PIPELINE = (
    Rule(
        id="deepspeed.pipeline",
        path="parallelism.pp",
        backends=DEEPSPEED,
        holds=lambda r: r.pp == 1,
        message="pp = {pp}: DeepSpeed cuts only models rewritten as a PipelineModule, which transformers' are not; it "
        "would also ignore tp and cp beside it",
        source="runtime/pipe/module.py:86; runtime/pipe/engine.py:76",
        repairs=any_of(
            change(parallelism__pp=1, parallelism__vpp=1, parallelism__dp=None),
            change(parallelism__pp=1, parallelism__vpp=1, parallelism__dp=None, parallelism__zero=3),
        ),
    ),
    unsplit("deepspeed.pipeline_split", DEEPSPEED, "DeepSpeed", needs="deepspeed.pipeline"),
)

_TENSOR = (
    only(
        "deepspeed.sp",
        DEEPSPEED,
        "parallelism.sp",
        False,
        "sp is Megatron's sequence parallelism; AutoTP keeps the whole sequence on every rank",
        "module_inject/layers.py: LinearAllreduce reduces whole activations",
    ),
    Rule(
        id="deepspeed.autotp",
        path="parallelism.tp",
        backends=DEEPSPEED,
        needs=("deepspeed.architecture",),
        holds=lambda r: implies(r.tp > 1, _architecture(r).autotp),
        message="tp = {tp}: AutoTP cannot cut {model.transformers} of transformers",
        source="module_inject/tp_plan_converter.py takes no plan with experts, latent attention or split inputs; ours: "
        "the losses of the others were compared with tp = 1",
        repairs=_NO_TP,
    ),
    Rule(
        id="deepspeed.kv_heads",
        path="parallelism.tp",
        backends=DEEPSPEED,
        needs=("tensor.heads",),
        holds=lambda r: (r.model.mla is not None) | (r.model.kv_heads % r.tp == 0),
        message="{model.kv_heads} key/value heads do not divide by tp = {tp}; AutoTP would leave ranks without heads",
        source="runtime/engine.py:1048: a warning only",
        repairs=_TP,
    ),
    Rule(
        id="deepspeed.tensor_and_sequence",
        path="parallelism.cp",
        backends=DEEPSPEED,
        holds=lambda r: (r.tp == 1) | (r.cp == 1),
        message="tp = {tp} with cp = {cp}: AutoTP and Ulysses build groups that do not know of each other",
        source="module_inject/auto_ep_folding.py:210; accepted with wrong groups without expert parallelism",
        repairs=any_of(change(parallelism__cp=1), _NO_TP),
    ),
    Rule(
        id="deepspeed.autotp_options",
        path="backend.deepspeed.autotp",
        backends=DEEPSPEED,
        holds=lambda r: implies(r.backend.deepspeed.autotp != AutoTp(), r.tp > 1),
        message="autotp says how tensor parallelism cuts, and tp = {tp} cuts nothing",
        source="runtime/engine.py:1104",
        repairs=_WHOLE_VOCABULARY,
    ),
    Rule(
        id="deepspeed.vocabulary",
        path="backend.deepspeed.autotp.vocabulary",
        backends=DEEPSPEED,
        holds=lambda r: implies(
            cuts_vocabulary(r.model, r.backend), (r.tp == 1) | (r.backend.deepspeed.tiling.loss == 1)
        ),
        message="logits cut by the vocabulary at tp = {tp} have a loss of their own, which takes no pieces of "
        "{backend.deepspeed.tiling.loss}",
        source="sequence/cross_entropy.py:457: the loss of the model is replaced; ours for the pieces",
        repairs=any_of(change(backend__deepspeed__tiling__loss=1), _WHOLE_VOCABULARY),
    ),
    only(
        "deepspeed.overlap",
        DEEPSPEED,
        "parallelism.overlap_tp",
        False,
        "overlap_tp is Transformer Engine's; AutoTP has none",
    ),
)

_EXPERTS = (
    Rule(
        id="deepspeed.expert_preset",
        path="parallelism.ep",
        backends=DEEPSPEED,
        needs=("deepspeed.architecture", "grid.dense_experts"),
        holds=lambda r: implies(r.ep > 1, _architecture(r).expert_preset is not None),
        message=lambda r: (
            f"ep = {r.ep}: AutoEP does not know {r.model.transformers}; it knows "
            f"{', '.join(a.model_type for a in ARCHITECTURES.values() if a.expert_preset)}"
        ),
        source="module_inject/auto_ep_presets/registry.py",
        repairs=change(parallelism__ep=1),
    ),
    Rule(
        id="deepspeed.experts",
        path="parallelism.ep",
        backends=DEEPSPEED,
        holds=lambda r: r.world % r.ep == 0,
        message="ep = {ep} does not divide the world of {world} GPUs",
        source="module_inject/auto_ep_folding.py:112",
        repairs=_EP,
    ),
    only(
        "deepspeed.etp",
        DEEPSPEED,
        "parallelism.etp",
        1,
        "etp = {etp}: DeepSpeed does not cut an expert",
        "module_inject/auto_ep_folding.py:215",
    ),
    Rule(
        id="deepspeed.sequence_experts",
        path="parallelism.cp",
        backends=DEEPSPEED,
        holds=lambda r: (r.ep == 1) | (r.cp == 1),
        message="ep = {ep} with cp = {cp}: AutoEP's replica groups do not know of Ulysses",
        source="module_inject/auto_ep_folding.py:120: groups of the world alone",
        repairs=any_of(change(parallelism__cp=1), change(parallelism__ep=1)),
    ),
    only("deepspeed.overlap_experts", DEEPSPEED, "parallelism.overlap_ep", False, "overlap_ep is Megatron's"),
)

_SEQUENCE = (
    Rule(
        id="deepspeed.sequence_exchange",
        path="parallelism.cp_comm",
        backends=DEEPSPEED,
        holds=lambda r: (r.cp == 1) | (r.spec.parallelism.cp_comm in ("a2a", "p2p")),
        message="cp_comm={spec.parallelism.cp_comm} is Megatron's: over cp = {cp} ranks Ulysses exchanges heads, all "
        "at once",
        source="runtime/sequence_parallel/ulysses_sp.py:194; ours: it would be lost, but for the default",
        repairs=change(parallelism__cp_comm="a2a", parallelism__cp_levels=()),
    ),
    Rule(
        id="deepspeed.ulysses",
        path="parallelism.cp",
        backends=DEEPSPEED,
        needs=("deepspeed.architecture",),
        holds=lambda r: implies(r.cp > 1, _architecture(r).ulysses),
        message="cp = {cp}: Ulysses cannot take over the attention of {model.transformers} of transformers",
        source="runtime/sequence_parallel/ulysses_sp.py:512: it needs num_key_value_heads and one head size",
        repairs=change(parallelism__cp=1),
    ),
    Rule(
        id="deepspeed.ulysses_attention",
        path="backend.deepspeed.attention",
        backends=DEEPSPEED,
        needs=("deepspeed.ulysses",),
        holds=lambda r: implies(r.cp > 1, attention(r.model, r.backend.deepspeed) != "eager"),
        message="cp = {cp}: Ulysses does not run with eager attention, the only one here",
        source="runtime/sequence_parallel/ulysses_sp.py:471",
        repairs=any_of(change(backend__deepspeed__attention="flash_attention_2"), change(parallelism__cp=1)),
    ),
    Rule(
        id="deepspeed.ulysses_window",
        path="backend.deepspeed.attention",
        backends=DEEPSPEED,
        needs=("deepspeed.ulysses_attention",),
        holds=lambda r: implies(
            (r.cp > 1) & ((r.model.sliding_window or r.training.sequence) < r.training.sequence),
            attention(r.model, r.backend.deepspeed).startswith("flash"),
        ),
        message="cp = {cp}: Ulysses drops the mask, and with it the sliding window of {model.sliding_window} tokens; "
        "only flash attention keeps it",
        source="runtime/sequence_parallel/ulysses_sp.py:546",
        repairs=any_of(change(backend__deepspeed__attention="flash_attention_2"), change(parallelism__cp=1)),
    ),
    Rule(
        id="deepspeed.sequence",
        path="training.sequence",
        backends=DEEPSPEED,
        holds=lambda r: r.training.sequence % r.cp == 0,
        message="{training.sequence} tokens do not divide by cp = {cp}",
        source="runtime/sequence_parallel/ulysses_sp.py:707",
        repairs=any_of(lambda r: ({"training.sequence": -(-r.training.sequence // r.cp) * r.cp},), _CP),
    ),
    Rule(
        id="deepspeed.sequence_heads",
        path="parallelism.cp",
        backends=DEEPSPEED,
        holds=lambda r: (r.model.heads % r.cp == 0) & ((r.model.kv_heads % r.cp == 0) | (r.cp % r.model.kv_heads == 0)),
        message="Ulysses deals {model.heads} heads and {model.kv_heads} key/value heads over cp = {cp} ranks, which "
        "does not divide",
        source="runtime/sequence_parallel/ulysses_sp.py:147-149",
        repairs=_CP,
    ),
)

RULES: tuple[Rule, ...] = _PIPELINE + _TENSOR + _EXPERTS + _SEQUENCE
