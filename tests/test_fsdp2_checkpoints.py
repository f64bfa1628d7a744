"""Parts of models that Megatron's checkpoints take for whole where torch's FSDP2 cuts them: refused, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.resolver import override, refusals, resolve
from meshwright.spec import Model, Spec
from meshwright.spec.model import DeltaNet, Mamba, Moe, ShortConvolution

PARTS: dict[str, tuple[Model, str]] = {
    "experts": (small_model(moe=Moe(experts=8, topk=2, ffn=64)), "Invalid access pattern"),
    "mamba": (
        small_model(pattern="M*M*M*M*", mamba=Mamba(heads=8, head_dim=16, groups=4, state=16)),
        "AssertionError: (392, ShardedTensor(key='decoder.layers.0.mixer.in_proj.weight'",
    ),
    "delta_net": (
        small_model(pattern="G*G*G*G*", delta_net=DeltaNet(key_heads=4, value_heads=8, key_dim=16, value_dim=16)),
        "AssertionError: (400, ShardedTensor(key='decoder.layers.0.self_attention.in_proj.weight'",
    ),
    "short_convolution": (
        small_model(pattern="4x(C- *-)", short_convolution=ShortConvolution()),
        "Split sections must cover the whole dimension size",
    ),
}
"""By part: a model with it, and the beginning of what Megatron says."""


def sharded(model: Model, gpus: int = 2, **changes: object) -> Spec:
    made = override(spec(model, gpus, global_batch=8, zero=3), "backend.megatron.fsdp", "torch")
    made = override(made, "backend.megatron.gradient_accumulation_fusion", False)
    for path, value in changes.items():
        made = override(made, path.replace("__", "."), value)
    return made


def found(candidate: Spec) -> set[str]:
    return {problem.rule for problem in refusals(candidate, "megatron")}


@pytest.mark.parametrize("part", PARTS)
def test_what_is_cut_and_saved_is_refused_with_repairs(part: str) -> None:
    model, _ = PARTS[part]
    (problem,) = refusals(sharded(model), "megatron")
    assert problem.rule == f"megatron.fsdp2_{part}_checkpoint"
    assert "dp·cp = 2·1" in problem.message
    assert problem.repairs == ({"backend.megatron.fsdp": "megatron"}, {"parallelism.zero": 1})


@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_cut_or_not_saved_holds(part: str) -> None:
    model, _ = PARTS[part]
    never = {"training__logging__checkpoints": False}
    assert found(sharded(model, gpus=1)) == set()
    assert found(sharded(model, **never)) == set()
    assert found(sharded(model, **never, training__logging__load="there")) == {f"megatron.fsdp2_{part}_checkpoint"}


def test_other_parts_hold() -> None:
    assert found(sharded(small_model())) == set()


@pytest.mark.slow  # two processes each, for one alone holds every weight whole, and one before that saves weights
@pytest.mark.parametrize("part", PARTS)
def test_megatron_stops_when_it_loads_what_was_cut(part: str, tmp_path: Path) -> None:
    """The same miniature loads and trains under ZeRO 1, and under FSDP2 trains where it is given no weights."""
    pytest.importorskip("megatron.training")
    from meshwright.rehearse import RankError, miniature
    from meshwright.rehearse.run import curve, prepare

    model, said = PARTS[part]
    scene = prepare(miniature(spec(model, 2, global_batch=8, zero=1), ranks=2, steps=2), tmp_path)
    (plan,) = scene.plans
    assert plan.spec.backend.megatron.fsdp == "torch"
    assert len(curve(scene, plan).losses) == 2
    alone = override(override(plan.spec, "parallelism.zero", 3), "training.logging.checkpoints", False)
    with pytest.raises(RankError):
        curve(scene, resolve(alone))
    assert said in "".join(log.read_text() for log in (tmp_path / "dp2-zero3" / "logs").glob("rank*.log"))
    assert len(curve(replace(scene, folder=tmp_path / "unloaded", words=()), resolve(alone)).losses) == 2
