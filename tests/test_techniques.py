"""What techniques cost and bring: memory on the GPU and the host, bytes between nodes, seconds."""

from __future__ import annotations

import pytest

from meshwright.cost import cost
from meshwright.cost.brought import brought
from meshwright.cost.collectives import group
from meshwright.cost.inputs import scene
from meshwright.cost.messages import between_nodes, expert, hidden
from meshwright.cost.products import peak
from meshwright.cost.techniques import TECHNIQUES, applied, used
from meshwright.errors import ConfigError
from meshwright.model.low_precision import low_bytes
from meshwright.resolver import layout
from meshwright.spec import Quantization
from techniques_planned import AWAY, DENSE, V3, B, planned

HOPPER = (*V3, "cluster=dgx_h100")
GRAPHS = (f"{B}cuda_graphs.kind=transformer_engine", f"{B}cuda_graphs.modules=[attn,moe_router,moe_preprocess]")
MXFP8 = (
    "training.precision=mxfp8",
    f"{B}quantization.param_gather=true",
    f"{B}quantization.reuse_gradient_buffer=true",
)
HYBRID = (f"{B}moe_dispatcher=flex", f"{B}moe_flex_backend=hybridep")
HOST = (f"{B}optimizer_offload.fraction=0.5", f"{B}precision_aware_optimizer=true")


@pytest.mark.parametrize(
    ("precision", "gathered", "reused", "extra", "sent"),
    [
        ("fp8_blockwise", False, False, 2.0, 2.0),  # 8 bits in both directions beside 16
        ("fp8_blockwise", True, False, 0.0, 1.0),  # instead of them
        ("mxfp8", True, False, 2.0, 2.0),  # a buffer of 16 bits to gather into
        ("mxfp8", True, True, 0.0, 2.0),  # which is the gradients'
        ("nvfp4", True, False, -0.875, 0.5625),
    ],
)
def test_bytes_of_weights_in_low_precision(
    precision: str, gathered: bool, reused: bool, extra: float, sent: float
) -> None:
    assert low_bytes(Quantization(param_gather=gathered, reuse_gradient_buffer=reused), precision) == (extra, sent)


def test_embedding_and_head_stay_in_sixteen_bits() -> None:
    words = (*DENSE, "parallelism=zero1", "training.precision=fp8_tensorwise")
    ends = 2 * 128_256 * 4096 + 4096
    for more, beyond in (((), 2), ((f"{B}quantization.param_gather=true", "cluster=dgx_b200"), -1)):
        plan = planned(*words, *more)
        everything = plan.stages[0].parameters
        assert cost(plan).stages[0].weights == 2 * everything + beyond * (everything - ends)


def test_one_scale_for_a_whole_weight_is_read_either_way_on_blackwell() -> None:
    alone = Quantization(param_gather=True)
    assert low_bytes(alone, "fp8_tensorwise", "9.0") == (0.0, 1.0)
    assert low_bytes(alone, "fp8_tensorwise", "10.0") == (-1.0, 1.0)
    assert low_bytes(alone, "mxfp8", "10.0") == low_bytes(alone, "mxfp8", "9.0")


def test_products_in_four_bits_keep_four_bits() -> None:
    eight, four = (cost(planned(*V3, f"training.precision={one}")).stages[0].activations for one in ("mxfp8", "nvfp4"))
    assert four < eight


def test_weights_without_a_16_bit_copy_are_half_as_large() -> None:
    copied, alone = cost(planned(*V3, "training.precision=mxfp8")), cost(planned(*V3, *MXFP8))
    words = 2 * 129_280 * 7168  # the embedding's, which have 16 bits alone
    assert alone.stages[0].weights - words == (copied.stages[0].weights - words) / 2


def test_four_bits_are_faster_than_eight_and_layers_kept_in_bf16_slower() -> None:
    eight, four, kept = (
        cost(planned(*V3, f"training.precision={precision}", *more)).step.compute
        for precision, more in (("mxfp8", ()), ("nvfp4", ()), ("nvfp4", (f"{B}quantization.last_layers_bf16=8",)))
    )
    assert four < kept < eight


def test_experts_one_after_the_other_keep_the_host_busy() -> None:
    """Two linears and an activation for each of 16 experts a layer instead of two products; none shares a workspace."""
    words = ("model=qwen3_30b_a3b", "cluster=dgx_h100", "cluster.gpus=64", "parallelism=zero1", "parallelism.ep=8")
    grouped, apart = (cost(planned(*words, *more)) for more in ((), (f"{B}moe_grouped_gemm=false",)))
    more = 48 * 16 * 2 * (1.5 + 1.7 - 1.6) * 17.1e-6
    assert apart.step.compute - grouped.step.compute >= 3 * 0.9 * more
    assert grouped.stages[0].framework - apart.stages[0].framework == 4 * 32 * 2**20


def test_half_of_the_optimizer_lives_on_the_host() -> None:
    here, half = cost(planned(*V3)), cost(planned(*V3, *HOST))
    assert half.stages[0].optimizer == here.stages[0].optimizer / 2
    assert half.host.states == pytest.approx(4 * 0.5 * 16 * 671_026_404_352 / 256)
    assert half.step.offload > cost(planned(*V3, *HOST, f"{B}optimizer_offload.overlap=true")).step.offload > 0


def test_a_host_too_small_for_megatrons_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="a node's memory"):
        planned(*V3, *HOST, "cluster.host_memory_gib=10")


def test_a_token_crosses_to_a_node_once_with_deepep() -> None:
    plain, deep = (scene(layout(planned(*HOPPER, f"{B}moe_dispatcher={kind}").spec)) for kind in ("alltoall", "flex"))
    eight_nodes = group(deep, 64, 1)
    assert between_nodes(plain, eight_nodes) is None
    assert between_nodes(deep, eight_nodes) == pytest.approx(4 * 7 / 8 * hidden(deep))  # routed to 4 of 8 groups
    assert expert(deep) * 56 / 64 == 8 * 7 / 8 * hidden(deep)  # eight experts, a copy each


@pytest.mark.parametrize(("ranks", "domains"), [(16, 2 * (1 - 1 / 70)), (32, 4 * (1 - 15 / 70)), (64, 4), (128, 8)])
def test_groups_of_experts_lie_on_as_many_nodes_as_hold_them(ranks: int, domains: float) -> None:
    """4 of 8 groups: all on one of two nodes in one draw of 70; of sixteen nodes, each group on two."""
    deep = scene(layout(planned(*HOPPER, f"{B}moe_dispatcher=flex").spec))
    nodes = ranks / 8
    drawn = min(domains, nodes * (1 - (1 - 1 / nodes) ** 8))
    assert between_nodes(deep, group(deep, ranks, 1)) == pytest.approx(drawn * (nodes - 1) / nodes * hidden(deep))


def test_fewer_bytes_between_nodes_take_less_time() -> None:
    plain, deep = (cost(planned(*HOPPER, f"{B}moe_dispatcher={kind}")).step.expert for kind in ("alltoall", "flex"))
    assert deep < 0.7 * plain


def test_hidden_all_to_alls_and_delayed_gradients_each_shorten_the_step() -> None:
    hide, delay = "parallelism.overlap_ep=true", f"{B}delay_wgrad=true"
    bare, hidden_, delayed = (cost(planned(*HOPPER, *words)).step.expert for words in ((), (hide,), (hide, delay)))
    assert delayed < hidden_ < bare
    assert cost(planned(*HOPPER, f"{B}moe_shared_expert_overlap=true")).step.expert < bare


def test_an_early_release_frees_attention_and_exposes_half_of_what_was_hidden() -> None:
    hide, early = "parallelism.overlap_ep=true", f"{B}experts.early_release=true"
    bare, hidden_, released = (cost(planned(*HOPPER, *words)) for words in ((), (hide,), (hide, early)))
    assert released.step.expert == pytest.approx((bare.step.expert + hidden_.step.expert) / 2)
    assert released.stages[0].workspace == bare.stages[0].workspace < hidden_.stages[0].workspace


def test_experts_weight_gradients_hide_at_most_half_of_the_backwards_exchange() -> None:
    sharded = (*HOPPER, "parallelism=zero3", "parallelism.pp=1", "parallelism.ep=64", "parallelism.vpp=1")
    words = tuple(word for word in sharded if "layout" not in word and "pp=4" not in word)
    bare, beside = (
        cost(planned(*words, f"{B}experts.wgrad_beside_dispatch={on}")).step.expert for on in ("false", "true")
    )
    assert 0.75 * bare <= beside < bare


def test_the_host_starts_no_kernels_of_a_graph() -> None:
    small = ("model=llama3_8b", "model.hidden=512", "model.ffn=512", "model.layers=4", "cluster.gpus=8")
    batch = ("training.global_batch=8", "training.sequence=512")
    bare, parts, whole = (
        cost(planned(*small, *batch, *words)).step.compute
        for words in ((), (GRAPHS[0], f"{B}cuda_graphs.modules=[attn]"), (f"{B}cuda_graphs.kind=full_iteration",))
    )
    assert whole < parts < bare


def test_graphs_and_dispatchers_take_buffers() -> None:
    bare, graphs, hybrid = (
        cost(planned(*V3, *words)).stages[0].framework
        for words in ((), GRAPHS, (f"{B}moe_dispatcher=flex", f"{B}moe_flex_backend=hybridep"))
    )
    assert graphs > bare
    assert hybrid - bare == 2 * 2 * 7168 * 4096 * 64  # sent and received, of every rank of the domain


def test_a_plan_says_what_each_technique_brings() -> None:
    plan = planned(*V3, *MXFP8, *GRAPHS, AWAY, "software.components.transformer_engine=2.14.0")
    assert [one.name for one in used(plan.spec)] == ["cuda_graphs", "low_precision_weights", "activation_offload"]
    said = dict(line.split(" ", 1) for line in brought(plan.spec))
    assert said["low_precision_weights"].endswith("frees 13.2 GiB of a GPU")
    assert set(said.values()) <= {note.split(" ", 1)[1] for note in cost(plan).notes}


def test_what_needs_a_technique_is_left_out_with_it_and_said() -> None:
    """A stream for what is hidden; a dispatcher that static shapes stand on has no plan without it."""
    overlap = ("parallelism.overlap_ep=true", f"{B}experts.priority_stream=true")
    words = (*HYBRID, f"{B}moe_rank_capacity=1.5", f"{B}op_fuser=true", f"{B}cuda_graphs.kind=full_iteration")
    said = dict(line.split(" ", 1) for line in brought(planned(*V3, *MXFP8, *overlap, *words).spec))
    assert said["expert_overlap"].endswith(f"; left out with it: {B}experts.priority_stream")
    assert said["dispatcher"] == f"has no plan without it to compare with: {B}moe_rank_capacity would be refused"


def test_a_dispatcher_that_sends_once_sends_less_between_nodes() -> None:
    """Of 8 experts in 8 groups of one node each, 4 groups: at most 4 of 8 nodes, 7 of which are others."""
    once, each = (cost(planned(*HOPPER, *words)).traffic.expert for words in (HYBRID, ()))
    assert each.size == once.size
    assert each.outside == pytest.approx(each.size * 56 / 63)
    assert once.outside == pytest.approx(each.outside * 4 / 8)
    assert once.told.endswith(f"{once.outside / 1e9:,.1f} of them between nodes")
    assert cost(planned(*V3)).traffic.expert.link == "within NVLink domains"


def test_techniques_that_hold_are_applied_and_others_are_not() -> None:
    spec = planned(*V3).spec
    taken = [one.name for one in TECHNIQUES if one.on(spec) and applied(spec, one.on(spec))]
    assert {"cuda_graphs", "dispatcher", "router_fusion", "expert_overlap", "optimizer_offload"} <= set(taken)
    assert "low_precision_weights" not in taken  # in bf16 there are none


def test_the_precision_aware_adam_keeps_what_a_bf16_weight_lacks() -> None:
    """Two bytes of a master copy, or the whole of it in fp16; of weights in 8 bits all four."""
    aware = f"{B}precision_aware_optimizer=true"
    words = ("model=llama3_8b", "parallelism=zero1", "cluster.gpus=8", "training.global_batch=8")

    def states(*more: str) -> float:
        plan = planned(*words, *more)
        return float(cost(plan).stages[0].optimizer) * 8 / plan.total_parameters

    assert states() == pytest.approx(12, rel=0.001)
    assert states(aware) == pytest.approx(10, rel=0.001)
    assert states(aware, f"{B}optimizer_moments=bf16") == pytest.approx(6, rel=0.001)
    assert states(aware, "training.precision=fp8_blockwise", f"{B}quantization.param_gather=true") > states(aware)


def test_double_buffers_take_memory_and_an_outer_level_gives_it_back() -> None:
    words = ("model=llama3_8b", "parallelism=zero3", "cluster.gpus=16", "training.global_batch=16")
    fsdp, replicas = f"{B}megatron_fsdp.", "parallelism.optimizer_instances=2"
    bare, twice = (cost(planned(*words, *more)).stages[0] for more in ((), (f"{fsdp}double_buffer=true",)))
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert twice.communication - bare.communication == 4 * layer
    low = (*words, "training.grad_reduce=bf16")  # buffers are of the type that is reduced
    bare, twice = (cost(planned(*low, *more)).stages[0] for more in ((), (f"{fsdp}double_buffer=true",)))
    assert twice.communication - bare.communication == 2 * layer
    outer = (cost(planned(*words, replicas, *more)).stages[0] for more in ((), (f"{fsdp}outer_optimizer=true",)))
    assert next(outer).optimizer == 2 * next(outer).optimizer


def test_amd_takes_four_bits_and_multiplies_them_in_sixteen() -> None:
    words = (*DENSE, "cluster=mi355x", "backend.megatron.transformer=transformer_engine")
    four, sixteen = (cost(planned(*words, f"training.precision={one}")).step.compute for one in ("nvfp4", "bf16"))
    assert four >= sixteen
    with pytest.raises(ConfigError, match="gfx942"):
        planned(*DENSE, "cluster=mi250x_lumi", "training.precision=nvfp4")


@pytest.mark.parametrize(
    ("words", "rate"),
    [(("backend.megatron.transformer=transformer_engine",), 494.7), (("backend.megatron.transformer=local",), 66.9)],
)
def test_transformer_engine_alone_multiplies_fp32_in_tf32(words: tuple[str, ...], rate: float) -> None:
    plan = planned(*DENSE, "cluster=dgx_h100", "training.precision=fp32", *words)
    s = scene(layout(plan.spec))
    assert peak(s, s.layers[0][0]) == pytest.approx(rate * 1e12)


def test_deepspeed_multiplies_fp32_in_full() -> None:
    plan = planned(*DENSE, "cluster=dgx_h100", "training.precision=fp32", "backend=deepspeed")
    s = scene(layout(plan.spec))
    assert peak(s, s.layers[0][0]) == pytest.approx(66.9e12)
