"""What activations on the host bring, a module of a layer at a time, and what sending them there costs."""

from __future__ import annotations

import pytest

from meshwright.cost import cost
from techniques_planned import AWAY, DENSE, V3, B, planned


def test_activations_on_the_host_leave_the_gpu_but_for_the_layers_under_way() -> None:
    here, away = cost(planned(*V3)), cost(planned(*V3, AWAY))
    assert here.host.activations == 0
    one_gpu = away.host.activations / 4
    freed = here.stages[0].activations - away.stages[0].activations
    assert 0.95 * one_gpu < freed < one_gpu
    assert cost(planned(*V3, AWAY, f"{B}activation_offload.fraction=0.5")).host.activations == away.host.activations / 2


def activations(*words: str) -> float:
    kept: float = cost(planned(*V3, *words)).stages[0].activations
    return kept


def offloaded(*modules: str) -> str:
    return f"{B}activation_offload.modules=[{','.join(modules)}]"


@pytest.mark.parametrize(
    ("module", "recomputed"), [("core_attn", "mla_up_proj"), ("moe_act", "moe_act"), ("attn_norm", "layernorm")]
)
def test_what_is_computed_again_does_not_leave_a_second_time(module: str, recomputed: str) -> None:
    """Latent attention's up-projection makes queries, keys and values; activations and norms what is read behind."""
    again = ("parallelism.recompute=selective", f"parallelism.recompute_modules=[{recomputed}]")
    both, alone = activations(*again, offloaded(module)), activations(offloaded(module))
    saved = activations() - activations(*again)
    assert 0 < both <= min(alone, activations(*again))
    # all but what is under way in two layers of 61
    assert alone - both == pytest.approx(0 if module == "core_attn" else saved, abs=0.03 * saved)


def test_a_module_sends_what_it_reads_and_not_what_it_gives() -> None:
    """Bytes of a token and layer: a norm's 7168 channels, experts' gate and up, queries, keys and values."""
    sent = {
        "attn_norm": 2 * 7168,
        "qkv_linear": 2 * 7168 + 4 * (1536 + 512),
        "core_attn": 128 * 2 * (192 + 192 + 128),  # four bytes a head and token are half a million elements: they stay
    }
    norms = cost(planned(*V3, offloaded("attn_norm"))).host.activations
    for module, each in sent.items():
        assert cost(planned(*V3, offloaded(module))).host.activations == pytest.approx(norms * each / 14336)
    experts = [cost(planned(*V3, offloaded(module))).host.activations for module in ("expert_fc1", "moe_act")]
    assert experts[1] / experts[0] == pytest.approx(2 * 2048 / 7168)


def test_a_tensor_of_fewer_elements_than_asked_stays() -> None:
    """Elements of one tensor on one rank: gate and up are one, of experts' tokens that 4,096 are sent as 8 each."""
    both, one = 4096 * 8 * 2 * 2048, 4096 * 8 * 7168

    def away(module: str, least: int, *more: str) -> float:
        words = (offloaded(module), f"{B}activation_offload.min_elements={least}", *more)
        found: float = cost(planned(*V3, f"{B}experts.balanced=true", *words)).host.activations
        return found

    assert 0 < away("moe_act", both) == away("moe_act", 0)
    assert away("expert_fc1", one + 1) == 0 < away("expert_fc1", one)
    assert away("moe_act", both + 1) == 0
    assert 0 < away("core_attn", 4096 * 128 * 192) < away("core_attn", 4096 * 128 * 128) < away("core_attn", 0)


def test_elements_are_counted_and_not_bytes() -> None:
    """Of 8 bits as many as of 16, but two of 4 bits are one."""
    least = f"{B}activation_offload.min_elements={4096 * 8 * 7168}"
    sent = {
        precision: cost(
            planned(*V3, f"{B}experts.balanced=true", f"training.precision={precision}", offloaded("expert_fc1"), least)
        ).host.activations
        for precision in ("bf16", "mxfp8", "nvfp4")
    }
    assert sent["bf16"] > sent["mxfp8"] > 0 == sent["nvfp4"]


def test_attentions_output_leaves_when_its_projection_lets_it_go() -> None:
    one, both = activations(offloaded("core_attn")), activations(offloaded("core_attn", "attn_proj"))
    output = 128 * 128 / 7168 * (activations() - activations(offloaded("attn_norm")))
    assert one - both == pytest.approx(output)


def test_a_norm_inside_the_linear_behind_it_is_the_linears() -> None:
    here, norm, linear = (
        cost(planned(*DENSE, *more)).stages[0].activations
        for more in ((), (offloaded("attn_norm", "mlp_norm"),), (offloaded("qkv_linear"),))
    )
    assert here == norm
    assert here - linear == pytest.approx(30 * 2 * 2 * 4096 * 8192)  # 32 layers, two of them under way


def test_whole_layers_on_the_host_are_not_under_way_at_the_loss() -> None:
    here, away = (cost(planned(*DENSE, *more)).stages[0] for more in ((), (f"{B}activation_offload.layers=16",)))
    layers = here.activations - 8 * 8192  # beside them, the words that the embedding was given
    assert here.activations - away.activations == pytest.approx(layers / 2)
    assert here.logits > layers / 32
    assert away.workspace == 0


def test_keys_that_go_round_a_ring_leave_attentions_output_where_it_is() -> None:
    """What goes to other heads and comes back is kept on both sides."""
    words = (*DENSE, "parallelism.cp=2")
    ring, heads = (
        cost(planned(*words, f"parallelism.cp_comm={comm}")).stages[0].activations for comm in ("p2p", "a2a")
    )
    assert heads - ring == 32 * 2 * 4096 * 8192 / 2


def test_a_slow_link_shows_what_it_costs_to_offload_activations() -> None:
    fast, slow = (cost(planned(*V3, AWAY, f"cluster.host_link_gb_s={rate}")).step.offload for rate in (2000, 30))
    assert fast == 0 < slow
