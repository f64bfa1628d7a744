"""What Megatron-Bridge's GPTModelProvider cannot say, beside all that Megatron refuses. Places: Megatron-Bridge 0.6."""

from __future__ import annotations

from meshwright.model.megatron_classes import is_hybrid
from meshwright.model.megatron_parts import spec_name
from meshwright.rules._forms import no_ramp, only, stated_length
from meshwright.rules._repairs import change
from meshwright.rules._rule import Layout, Rule

__all__ = ["RULES"]

BRIDGE = ("bridge",)


def _known_rope(r: Layout) -> bool:
    scaling = r.model.rope.scaling
    return scaling is None or scaling.kind == "linear" or (scaling.kind == "llama3" and _llama31(r))


def _llama31(r: Layout) -> bool:
    """Whether all but the factor is what Megatron builds in (core/models/common/embeddings/rotary_pos_embedding.py)."""
    scaling = r.model.rope.scaling
    assert scaling is not None
    return (scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_positions) == (1.0, 4.0, 8192)


RULES: tuple[Rule, ...] = (
    Rule(
        id="bridge.model",
        path="model",
        backends=BRIDGE,
        holds=lambda r: (
            r.model.mla is None
            and r.model.mtp == 0
            and r.model.delta_net is None
            and not is_hybrid(r.model, r.backend.megatron)
            and spec_name(r.model) is None
            and r.model.positions in ("rope", "learned", "none")
            and r.model.activation != "geglu_tanh"
        ),
        message="latent attention, multi-token prediction, delta nets, Mamba and layers that stock Megatron lacks have "
        "providers of their own in Bridge, which are not exported",
        source="models/gpt_provider.py; models/mla_provider.py",
    ),
    Rule(
        id="bridge.rope",
        path="model.rope.scaling",
        backends=BRIDGE,
        holds=_known_rope,
        message="rope is stretched linearly, or as Llama 3.1's is (factors 1 and 4, from 8,192 tokens)",
        source="models/gpt_provider.py: rope_scaling, rope_scaling_factor, seq_len_interpolation_factor",
        repairs=change(model__rope__scaling=None),
    ),
    Rule(
        id="bridge.positions",
        path="model.max_positions",
        backends=BRIDGE,
        holds=lambda r: (
            r.model.positions != "learned"
            or (r.model.max_positions, r.model.position_offset) == (r.training.sequence, 0)
        ),
        message="{model.max_positions} learned positions, {model.position_offset} rows before them: Bridge makes one "
        "for each of the {training.sequence} tokens of a sequence",
        source="models/gpt_provider.py: max_sequence_length=self.seq_length",
        repairs=lambda r: ({"model.max_positions": r.training.sequence, "model.position_offset": 0},),
    ),
    stated_length("bridge", BRIDGE, "Bridge asks for train_iters", "training/config.py: TrainingConfig.finalize"),
    no_ramp(
        "bridge",
        BRIDGE,
        "a growing batch counts the schedule in samples, which Bridge's TrainingConfig does not allow beside it",
        "training/config.py: rampup_batch_size, train_samples",
    ),
    only(
        "bridge.extra",
        BRIDGE,
        "backend.megatron.extra",
        (),
        "{backend.megatron.extra} are flags of Megatron-LM's command line, which Bridge has not",
    ),
)
