"""What our mixers compute, by blocks, scans and kernels, is what their definitions give, written out."""

from __future__ import annotations

import pytest

from meshwright.model.layers.lightning import BLOCK


def test_alibi_slopes_are_bloom_s() -> None:
    pytest.importorskip("megatron.core")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    torch = pytest.importorskip("torch")
    from meshwright.train.attention import alibi_slopes

    for heads in (8, 16, 112):
        theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
        assert torch.allclose(alibi_slopes(heads), theirs)


@pytest.mark.parametrize("back", [None, 7])
def test_attention_with_a_soft_cap_is_the_same_on_a_gpu(back: int | None) -> None:
    """Flex attention, which a GPU runs, against what is written out for a CPU."""
    pytest.importorskip("megatron.core")
    torch = pytest.importorskip("torch")
    from meshwright.train.attention import flexible, written_out

    query, key, value = (torch.randn(2, heads, 128, 16) * 8 for heads in (4, 2, 2))
    with torch.no_grad():
        assert torch.allclose(
            flexible(query, key, value, 0.5, back, 50.0), written_out(query, key, value, 0.5, back, 50.0), atol=1e-4
        )


def test_lightning_attention_in_blocks_is_the_recurrence() -> None:
    """A length that is no multiple of a block, in which states fade from token to token."""
    pytest.importorskip("megatron.core")
    torch = pytest.importorskip("torch")
    from meshwright.train.lightning import attend, rates

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 2 * BLOCK + 44, 6)
    fading = rates(4, 1, 3)
    state, found = torch.zeros(2, 4, 6, 6), []
    for q, k, v in zip(query.unbind(2), key.unbind(2), value.unbind(2), strict=True):
        state = state * torch.exp(-fading).view(4, 1, 1) + k.unsqueeze(-1) * v.unsqueeze(-2)
        found.append((q.unsqueeze(-2) @ state).squeeze(-2))
    torch.testing.assert_close(attend(query, key, value, fading), torch.stack(found, 2), rtol=1e-4, atol=1e-4)


def test_the_quadratic_scan_is_the_recurrence() -> None:
    torch = pytest.importorskip("torch")
    from meshwright.train.local_scans import scan

    torch.manual_seed(0)
    batch, tokens, heads, channels, groups, state = 2, 9, 4, 3, 2, 5
    x, step = torch.randn(batch, tokens, heads, channels), torch.rand(batch, tokens, heads)
    decay, (written, read) = -torch.rand(heads), torch.randn(2, batch, tokens, groups, state)
    here = torch.zeros(batch, heads, channels, state)
    found = []
    for t in range(tokens):
        into, out = (part[:, t].repeat_interleave(heads // groups, 1) for part in (written, read))
        here = here * (step[:, t] * decay).exp()[..., None, None]
        here = here + (step[:, t, :, None] * x[:, t])[..., None] * into[:, :, None]
        found.append((here * out[:, :, None]).sum(-1))
    torch.testing.assert_close(scan(x, step, decay, written, read), torch.stack(found, 1))
