"""What a capacity costs: experts that are padded to it take all of it, others what an even router sends, at most."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.compute import layer
from meshwright.cost.inputs import Scene, scene
from meshwright.cost.launches import is_captured
from meshwright.cost.messages import expert
from meshwright.cost.saved import saved
from meshwright.cost.techniques import TECHNIQUES
from meshwright.resolver import layout, normalise, override, refusals, resolve
from meshwright.rules.megatron_experts import experts_load
from meshwright.spec import Spec
from meshwright.spec.model import Moe

EVEN = Moe(experts=8, topk=2, ffn=4096)
FED = "backend.megatron.experts."


def described(factor: float | None, padded: bool = False, **degrees: Any) -> Spec:
    """Sequences of 512 tokens on eight GPUs, whose host is so fast that the device never waits for it."""
    model = small_model(moe=replace(EVEN, capacity_factor=factor))
    made = spec(model, 8, global_batch=64, zero=1, **{"ep": 4, **degrees})
    made = override(override(made, "training.micro_batch", 8), "cluster.efficiency.launch_us", 0.01)
    return override(made, f"{FED}padded_to_capacity", padded)


def of(factor: float | None, padded: bool = False, **degrees: Any) -> Scene:
    return scene(layout(normalise(described(factor, padded, **degrees))))


@pytest.mark.parametrize(
    ("factor", "padded", "load"),
    [(None, False, 1), (1.0, True, 1), (1.5, True, 1.5), (0.5, True, 0.5), (1.5, False, 1), (0.5, False, 0.5)],
)
def test_an_expert_takes_its_capacity_where_it_is_padded_and_an_even_share_at_most_where_not(
    factor: float | None, padded: bool, load: float
) -> None:
    assert experts_load(layout(normalise(described(factor, padded)))) == load


def test_a_capacity_is_a_whole_number_of_tokens() -> None:
    """Of 1.1 times 512 or 128 that one rank sends to each: 563.2 and 140.8 are 564 and 141."""
    numbers = layout(normalise(described(1.1, True, tp=2, sp=True)))
    assert experts_load(numbers) == 564 / 512
    many = replace(numbers, micro_batch=np.array([8, 1]), sp=np.array([True, False]))
    assert experts_load(many) == pytest.approx([564 / 512, 141 / 128])


def test_work_memory_and_bytes_of_experts_grow_with_the_capacity_and_nothing_else() -> None:
    even, more = of(1.0, True), of(1.5, True)
    (e,), (m,) = even.layers, more.layers
    assert expert(more) == 1.5 * expert(even)
    routed = ("experts.", "dispatch", "combine")
    for a, b in zip(e, m, strict=True):
        once, again = (layer(one, (o,)).forward - layer(one, (o,)).idle[0] for one, o in ((even, a), (more, b)))
        kernels = a.kernels * even.layout.cluster.efficiency.kernel_us * 1e-6
        read = sum(w.on_rank(1, 1, 4) for w in a.weights) * 2 / _rate(even)
        grown = 1.5 if a.name.startswith(routed) else 1
        assert again - kernels - read == pytest.approx(grown * (once - kernels - read)), a.name
    kept = sum(t.on_rank(even.degrees) for o in e for t in o.saved if t.cut in ("routed", "expert"))
    assert saved(more, m) - saved(even, e) == pytest.approx(0.5 * even.tokens * kept)


def _rate(s: Scene) -> float:
    return s.layout.cluster.accelerator.memory_bandwidth_gb_s * 1e9 * float(s.layout.cluster.efficiency.memory)


def test_a_plan_with_more_capacity_takes_longer_sends_more_and_keeps_more() -> None:
    even, more = (cost(resolve(described(factor, True))) for factor in (1.0, 2.0))
    assert more.step_time > even.step_time
    assert more.peak_memory > even.peak_memory
    assert more.traffic.expert.size == pytest.approx(2 * even.traffic.expert.size)
    assert more.stages[0].weights == even.stages[0].weights


@pytest.mark.parametrize(("dispatcher", "waits"), [("alltoall", False), ("allgather", True)])
def test_the_host_waits_for_no_counts_of_padded_experts(dispatcher: str, waits: bool) -> None:
    numbers = layout(normalise(override(described(1.0, True), "backend.megatron.moe_dispatcher", dispatcher)))
    assert scene(numbers).framework.reads_counts == waits
    assert of(1.0).framework.reads_counts


def test_padded_experts_are_inside_a_graph_of_theirs() -> None:
    made = override(described(1.0, True), "backend.megatron.cuda_graphs.kind", "transformer_engine")
    s = scene(layout(normalise(override(made, "backend.megatron.cuda_graphs.modules", ("attn", "moe")))))
    started = [o.name for o in s.layers[0] if not is_captured(s, o)]
    assert started == ["residual"]


def test_a_plan_says_what_padding_brings() -> None:
    said = [note for factor in (1.0, 2.0) for note in cost(resolve(described(factor, True))).notes]
    assert [re.sub(r"[0-9.]+", "N", note) for note in said if note.startswith("expert_padding")] == [
        "expert_padding saves N% of the step, frees N GiB of a GPU",  # nothing of either
        "expert_padding costs N% of the step, takes N GiB of a GPU",
    ]


def test_a_search_pads_where_a_capacity_is_said_and_no_bias_learns_from_counts() -> None:
    (one,) = (one for one in TECHNIQUES if one.name == "expert_padding")
    biased = replace(EVEN, capacity_factor=1.0, score="sigmoid", router_bias=True)
    assert one.on(described(1.0)) == {f"{FED}padded_to_capacity": True}
    assert one.on(described(None)) == {}
    assert one.on(override(described(1.0), "model.moe", biased)) == {}


@pytest.mark.parametrize("padded", [False, True])
def test_what_nccl_ep_sends_knows_no_capacity(padded: bool) -> None:
    """By Megatron's own router and dispatchers: of 8 tokens that all choose expert 0, which may take 2."""
    pytest.importorskip("megatron.core")
    import torch
    from megatron.core.transformer.moe.moe_utils import apply_router_token_dropping
    from megatron.core.transformer.moe.token_dispatcher import _DeepepManager, _NCCLEPManager

    chosen = torch.zeros(8, 4, dtype=torch.bool)
    chosen[:, 0] = True
    probs, routing = apply_router_token_dropping(
        chosen * torch.arange(1, 9)[:, None] / 10, chosen, 1, 1.0, pad_to_capacity=padded
    )
    assert routing.sum(0).tolist() == ([2] * 4 if padded else [2, 0, 0, 0])
    sent = {}
    for kind in (_DeepepManager, _NCCLEPManager):
        manager = object.__new__(kind)
        manager.router_topk, manager.num_experts, manager.capacity_factor = 1, 4, 1.0
        manager.setup_metadata(routing, probs)
        sent[kind] = int((manager.token_indices >= 0).sum())
    assert sent == {_DeepepManager: 2, _NCCLEPManager: 8}
    capped = override(described(1.0, padded), "backend.megatron.moe_dispatcher", "flex")
    capped = override(capped, "backend.megatron.moe_flex_backend", "ncclep")
    assert "megatron.ncclep_capacity" in {problem.rule for problem in refusals(capped, "megatron")}
