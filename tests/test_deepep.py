"""What DeepEP sends, and how fast, against its own README; what a benchmark's gate spares of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.cost import messages
from meshwright.cost.collectives import group
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.layer_time import _exchange
from meshwright.library.files import option
from meshwright.measured.rows import cluster_named, layout_of
from meshwright.resolver import normalise
from meshwright.spec import Backend, Launch, MegatronOptions, Model, Parallelism, Spec, Training
from meshwright.spec.decode import decode

TOKENS, WIDTH = 8192, 7168


def deepseek(ep: int, dealt: bool = False):
    model = decode(Model, option("model", "deepseek_v3"))
    assert model.moe is not None
    free = replace(model, moe=replace(model.moe, groups=1, group_topk=1))
    spec = Spec(
        name="deepep",
        model=free,
        cluster=replace(cluster_named("dgx_h100"), gpus=ep),
        parallelism=Parallelism(dp=ep, ep=ep),
        training=Training(sequence=4096, micro_batch=2, global_batch=2 * ep),
        backend=Backend(name="megatron", megatron=MegatronOptions(moe_dispatcher="flex", moe_flex_backend="deepep")),
        launch=Launch(),
    )
    layout = layout_of(normalise(spec))
    return scene(layout, replace(framework_of(layout), deals_tokens=dealt))


def test_between_nodes_it_reaches_nine_tenths_of_the_link() -> None:
    """README: EP 8 x 4, 61 GB/s by what a rank's tokens take, those that stay on the node among them."""
    s = deepseek(32)
    g = group(s, 32, 1)
    logical = 4 * (1 - (3 / 4) ** 8) * TOKENS * WIDTH * 2  # bytes, once for each of four nodes
    assert 2 * logical / float(_exchange(s, g, messages.expert(s))) == pytest.approx(61e9, rel=0.05)


def test_on_a_node_a_token_goes_once_to_each_rank_with_experts_of_it() -> None:
    s = deepseek(8)
    assert float(messages.copies(s, group(s, 8, 1))) == pytest.approx(8 * (1 - (7 / 8) ** 8) * TOKENS * WIDTH * 2)


def test_tokens_dealt_to_the_next_experts_go_to_as_few_ranks_as_hold_them() -> None:
    """Of 256 experts a rank of 64 holds four: eight neighbours are on two ranks, and on one node."""
    chosen, dealt = deepseek(64), deepseek(64, dealt=True)
    g = group(dealt, 64, 1)
    assert float(messages.copies(dealt, g)) == pytest.approx(2 * TOKENS * WIDTH * 2)
    sent = messages.between_nodes(dealt, g)
    assert sent is not None
    assert float(sent) == pytest.approx(7 / 8 * TOKENS * WIDTH * 2)
    assert float(_exchange(dealt, g, messages.expert(dealt))) < 0.3 * float(
        _exchange(chosen, g, messages.expert(chosen))
    )
