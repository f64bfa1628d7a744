"""Where Megatron's models would touch a GPU while they are built, they touch nothing."""

from __future__ import annotations

from meshwright.verify.megatron_stand_ins import Replicated

__all__ = ["no_device", "no_kernels"]


def no_device() -> None:
    """Buffers go to the meta device, streams nowhere."""
    import megatron.core.models.common.embeddings.yarn_rotary_pos_embedding as yarn
    import megatron.core.transformer.experimental_attention_variant.absorbed_mla as absorbed
    import megatron.core.transformer.moe.moe_layer as experts
    import megatron.core.transformer.multi_latent_attention as latent
    import torch

    yarn.get_pos_emb_on_this_cp_rank = lambda positions, *_: positions  # would copy to a GPU

    torch.cuda.current_device = lambda: torch.device("meta")  # type: ignore[assignment,return-value]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.cuda.Stream = type("Stream", (), {"__init__": lambda self, *_, **__: None})  # type: ignore[assignment,misc]
    latent.HAVE_TE = False
    latent.TELinear = absorbed.TELinear = Replicated
    absorbed.HAVE_TE = False
    experts.HAVE_TE, experts.TELinear = True, Replicated


def no_kernels() -> None:
    """Mamba and delta nets are refused without theirs; short convolutions draw weights by a GPU's random state."""
    from meshwright.train import local_scans

    local_scans.install()
    local_scans.without_random_state()
