"""What mixes tokens in a layer where plain attention does not: latent and sparse attention, states, convolutions."""

from __future__ import annotations

from meshwright.spec.frozen import dataclass

__all__ = ["DeltaNet", "Indexer", "Mamba", "Mla", "Multipliers", "ShortConvolution"]


@dataclass(frozen=True, kw_only=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, section 2.1). ``q_lora_rank`` None: queries are not compressed."""

    kv_lora_rank: int  # channels of the compressed keys and values
    qk_nope_dim: int  # of a head's query and key, channels without positions
    qk_rope_dim: int  # and channels with them
    v_dim: int  # channels of a head's value
    q_lora_rank: int | None = None  # channels of the compressed queries; None: not compressed


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """What makes latent attention sparse, layers D of a pattern (DeepSeek-V3.2, section 2.1).

    Heads of its own score every token before; attention reads the ``topk`` highest alone.
    """

    heads: int  # of the indexer, which score every token before
    head_dim: int  # channels of one, positions among them
    topk: int  # tokens that each one attends to
    interleaved: bool = False  # its rotary positions turn neighbours (GLM-5), not halves
    loss: float = 0.001  # coefficient of the loss that teaches it attention's own weights; 0: it is not trained
    sparse_loss: bool = True  # which looks at the chosen tokens alone


@dataclass(frozen=True, kw_only=True)
class DeltaNet:
    """Gated delta nets (arXiv:2412.06464), layers G of a pattern. Each head of keys serves as many heads of values."""

    key_heads: int  # of queries and keys
    value_heads: int  # of values: a multiple of these
    key_dim: int  # channels of one head's query and key
    value_dim: int  # channels of a head's value
    kernel: int = 4  # tokens that the convolution over queries, keys and values sees


@dataclass(frozen=True, kw_only=True)
class Mamba:
    """Mamba-2 (arXiv:2405.21060), layers M of a pattern. The heads of a group share what goes in and out of a state."""

    heads: int  # of the scan, each with a state of its own
    head_dim: int  # channels of one
    groups: int  # of heads that share what goes in and out of a state
    state: int  # channels of a state
    kernel: int = 4  # tokens that the convolution before the scan sees
    norm: bool = True  # a norm of groups of heads stands behind the scan (Falcon-H1 has none)


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Fixed factors inside the layers of Falcon-H1 (arXiv:2507.22448), beside those on embedding and logits."""

    attention_in: float = 1.0  # on what attention reads
    attention_out: float = 1.0  # and on what it gives
    mamba_in: float = 1.0  # on what Mamba reads
    mamba_out: float = 1.0  # and on what it gives
    mamba_gate: float = 1.0  # on its projection that gates the scan's output
    mamba_x: float = 1.0  # on the one that is scanned
    mamba_write: float = 1.0  # on what goes into a state
    mamba_read: float = 1.0  # on what is read from it
    mamba_step: float = 1.0  # on how far a token moves it
    mlp_gate: float = 1.0  # on the MLP's gate, before its activation
    mlp_down: float = 1.0  # on what the MLP gives


@dataclass(frozen=True, kw_only=True)
class ShortConvolution:
    """Doubly gated convolutions over a few tokens (LFM2), layers C of a pattern; as many channels as the model."""

    kernel: int = 3  # tokens that it sees, itself and those before it
