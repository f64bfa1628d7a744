"""The architecture of a decoder-only language model, enough of it to count, cost and build it exactly."""

from __future__ import annotations

from typing import Literal

from meshwright.spec.frozen import dataclass
from meshwright.spec.measured import Measured
from meshwright.spec.mixers import DeltaNet, Indexer, Mamba, Mla, Multipliers, ShortConvolution

__all__ = [
    "Activation",
    "DeltaNet",
    "Indexer",
    "Mamba",
    "Mla",
    "Model",
    "Moe",
    "Multipliers",
    "Rope",
    "RopeScaling",
    "ShortConvolution",
]

Activation = Literal[
    "swiglu", "geglu", "geglu_tanh", "quick_geglu", "gelu", "gelu_tanh", "relu", "squared_relu", "xielu"
]
Positions = Literal["rope", "learned", "alibi", "none", "sinusoidal", "sinusoidal_table", "sinusoidal_t2t"]
Placement = Literal["pre", "sandwich", "output", "post", "carried", "deepnorm"]

Balancing = Literal["aux_loss", "seq_aux_loss", "global_aux_loss", "quantile_balancing", "sinkhorn", "none"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Stretching rotary positions beyond the length they were trained on."""

    kind: Literal["linear", "llama3", "yarn"]  # which formula
    factor: float  # how many times longer
    original_positions: int  # tokens that the positions were trained on
    low_freq_factor: float = 1.0  # llama3: of rotations within original_positions, fewer are stretched in full
    high_freq_factor: float = 4.0  # llama3: and more are left as they are
    beta_fast: float = 32.0  # yarn: likewise, more than these are left as they are
    beta_slow: float = 1.0  # yarn: and fewer are stretched in full
    mscale: float = 1.0  # yarn: growth of the attention's scale with the factor's logarithm
    mscale_all_dim: float = 0.0  # yarn: the same on all channels, those without positions among them
    truncate: bool = True  # yarn: the channels between which it blends are whole numbers


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding. ``fraction`` of each head is rotated; ``skip_every`` n: layer n, 2n, ... has none."""

    base: float = 10000.0
    fraction: float = 1.0
    scaling: RopeScaling | None = None
    local_base: float | None = None  # base of the sliding-window layers, which are then not stretched (Gemma 3)
    skip_every: int = 0
    skip_full: bool = False  # layers that see everything, beside such with a window, have no positions


@dataclass(frozen=True, kw_only=True)
class Moe:
    """Mixture of experts. Layers ``first_dense .. layers`` are MoE, every ``every``-th of them.

    ``ffn`` is the intermediate size of one routed expert, ``shared_ffn`` of all shared experts together.
    """

    experts: int  # routed ones
    topk: int  # experts that each token is sent to
    ffn: int  # intermediate size of one routed expert
    shared_ffn: int = 0  # of all shared experts together; 0: none is shared
    shared_gate: bool = False  # the shared experts' output is gated (Qwen2-MoE)
    first_dense: int = 0  # layers before the first with experts
    every: int = 1  # n: of the layers behind these, each n-th has experts
    score: Literal["softmax", "sigmoid", "sqrtsoftplus"] = "softmax"  # of the router's logits
    score_before_topk: bool = False  # softmax over all experts first, then top-k
    normalize_topk: bool = True  # the chosen experts' weights sum to 1
    router_bias: bool = False  # auxiliary-loss-free balancing (DeepSeek-V3, section 2.1.2)
    bias_on: Literal["scores", "logits"] = "scores"  # what that bias is added to, to choose experts (logits: Kolibri)
    bias_parameter: bool = False  # that bias is a parameter, which no gradient reaches (AFMoE); else a buffer
    bias_update_rate: float = 1.0e-3  # of that bias, a step
    groups: int = 1  # of experts, for device- or node-limited routing
    group_topk: int = 1  # groups that a token's experts are chosen from
    scaling: float = 1.0  # factor on the routed experts' output (routed_scaling_factor)
    balancing: Balancing = "aux_loss"  # what evens the experts' load
    quantile_ema: float = 0.0  # part of quantile_balancing's bias that a step keeps
    aux_loss: float = 0.0  # its coefficient
    z_loss: float = 0.0  # coefficient of the loss on the router's logits
    capacity_factor: float | None = None  # of an even share, what an expert takes at most; None: dropless
    drop_policy: Literal["probs", "position"] = "probs"  # beyond it go the least probable tokens, or the last ones
    latent: int | None = None  # channels that routed experts see; None: all of the model's (Nemotron 3 Super)
    output_norm: bool = False  # a norm behind the experts, before the residual (A.X K1)
    weights_on_input: bool = False  # a token is multiplied by its weight before the expert, not behind it (Llama 4)

    @property
    def has_auxiliary_loss(self) -> bool:
        """Whether a loss evens the experts' load."""
        return self.aux_loss > 0 and self.balancing not in ("none", "quantile_balancing", "sinkhorn")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder-only transformer. Attention is MHA, GQA or MQA by ``kv_heads``, or MLA where ``mla`` is set.

    ``ffn`` is the intermediate size of ONE projection: papers that fuse gate and up publish twice this number.
    """

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    activation: Activation
    norm: Literal["rmsnorm", "layernorm", "layernorm_without_bias", "layernorm_nonparametric", "rmsnorm_nonparametric"]
    positions: Positions
    position_offset: int = 0  # rows of the table of positions before the first one (OPT)
    norm_eps: float = 1.0e-5
    norm_zero_centered: bool = False  # weight is 1 + gamma
    norm_placement: Placement = "pre"
    tied_embeddings: bool = False
    linear_bias: bool = False  # every linear layer of attention and MLP
    attention_bias: Literal["all", "output", "none"] = "all"  # which of attention's linear layers have linear_bias
    qkv_bias: bool = False  # only the query, key and value projections
    qk_norm: Literal["none", "head", "rotated", "full", "l2"] = "none"  # rotated: as head, behind rotary positions
    parallel_residual: bool = False  # attention and MLP read the same residual
    shared_parallel_norm: bool = False  # parallel residual with one norm for both branches
    embedding_norm: bool = False
    norm_before_positions: bool = False  # that norm is of words, to which positions are then added (BlenderbotSmall)
    embedding_scale: float | None = None  # factor on the embedding output
    attention_scale: float | None = None  # softmax scale where it is not 1/sqrt(head_dim)
    attention_softcap: float | None = None
    attention_sinks: bool = False  # each head learns a score that attends to nothing (gpt-oss)
    attention_gate: bool = False  # attention's output is multiplied by a sigmoid of a projection of its input
    attention_chunk: int | None = None  # layers with positions see the tokens of their own chunk (Llama 4)
    query_growth: float | None = None  # queries grow with the logarithm of their place (Llama 4, Ministral 3) ...
    query_growth_from: int | None = None  # ... in sequences of more tokens than this
    activation_clamp: float | None = None  # bound of what enters a gated activation (gpt-oss)
    activation_offset: float = 0.0  # added to what the gate multiplies (gpt-oss)
    residual_scale: float | None = None  # factor on the outputs of attention and MLP (Granite)
    residual_weight: float | None = None  # factor on what these outputs are added to (MiniMax)
    logit_scale: float | None = None  # factor on the logits
    output_bias: bool = False  # the output layer has a bias
    cross_attention: bool = False  # layers hold one that is idle without an encoder (BART's decoder alone)
    final_softcap: float | None = None
    sliding_window: int | None = None  # tokens each one sees, itself and those before it
    pattern: str | None = None  # the kind of every layer in symbols, where the short forms cannot say it
    full_attention_every: int = 0  # with a window: layer n, 2n, ... sees everything; 0: none does
    qkv_clip: float | None = None
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    init_std: float = 0.02
    rope: Rope = Rope()
    mla: Mla | None = None
    indexer: Indexer | None = None
    delta_net: DeltaNet | None = None
    mamba: Mamba | None = None
    short_convolution: ShortConvolution | None = None
    multipliers: Multipliers | None = None
    moe: Moe | None = None
    mtp: int = 0  # multi-token-prediction layers
    mtp_loss_weight: float = 0.1
    mtp_repeated: bool = False  # one such layer runs mtp times
    mtp_detached: bool = False  # their loss teaches them alone, no gradient reaches the model
    transformers: str | None = None  # its model_type in Hugging Face transformers, where it has one
    measured: Measured | None = None  # layers that were looked at, where the fields above cannot say them

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies a gate and an up projection."""
        return self.activation in ("swiglu", "geglu", "geglu_tanh", "quick_geglu")

    @property
    def routed(self) -> bool:
        """Whether tokens are sent to experts."""
        return self.moe is not None or (
            self.measured is not None and any(kind.experts > 1 for kind in self.measured.kinds)
        )

    @property
    def looks_up_positions(self) -> bool:
        """Whether a position is a row of a table, learned or of sines, that is added to the embedding."""
        return self.positions == "learned" or self.positions.startswith("sinusoidal")

    @property
    def position_rows(self) -> int:
        """Rows of the table of learned positions."""
        return self.max_positions + self.position_offset

    @property
    def attention(self) -> Literal["mha", "gqa", "mqa", "mla"]:
        """The kind of attention, from the number of key/value heads."""
        if self.mla is not None:
            return "mla"
        return "mha" if self.kv_heads == self.heads else "mqa" if self.kv_heads == 1 else "gqa"
