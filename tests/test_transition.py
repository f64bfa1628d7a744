"""Stages joined: what goes on, what begins anew, what cannot be carried; on paper, nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.errors import ConfigError
from meshwright.jobs.transition import alternatives, chain, joined
from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.resolver import override, resolve
from meshwright.spec import Backend, MegatronOptions, RampStep, Schedule, Spec

BASE = override(spec(small_model(), 8, global_batch=16, zero=1), "training.steps", 100)


def stages(*changes: dict[str, Any], base: Spec = BASE) -> list[Plan]:
    """One stage for each mapping of override paths to values."""
    plans = []
    for i, values in enumerate(changes):
        changed = replace(base, stage=f"s{i}")
        for path, value in values.items():
            changed = override(changed, path, value)
        plans.append(resolve(changed))
    return plans


def refused(*changes: dict[str, Any], base: Spec = BASE) -> str:
    with pytest.raises(ConfigError) as caught:
        chain(stages(*changes, base=base))
    return str(caught.value)


def test_a_stage_starts_from_the_folder_of_the_one_before() -> None:
    first, second = chain(stages({}, {})).plans
    assert first.spec.after is None
    assert second.spec.after is not None
    assert second.spec.after.checkpoints.startswith("../s0-")
    assert "--override-opt-param-scheduler" in second.spec.backend.megatron.extra


def test_schedule_and_data_go_on_where_they_are_the_same() -> None:
    _, second, third = chain(stages({}, {"training.global_batch": 32}, {})).plans
    assert second.spec.after is not None
    assert third.spec.after is not None
    assert (second.spec.after.step, second.spec.after.sample) == (100, 1600)
    assert (third.spec.after.step, third.spec.after.sample) == (200, 1600 + 3200)
    assert third.spec.training.schedule.decay_steps == 300  # one schedule over all three


def test_after_a_ramp_the_data_goes_on_at_the_sample_it_reached() -> None:
    """Ten steps of 8 sequences, then 90 of 16."""
    ramp = (RampStep(from_tokens=0, global_batch=8), RampStep(from_tokens=80 * 512, global_batch=16))
    links = chain(stages({"training.ramp": ramp}, {}))
    assert links.plans[1].spec.after is not None
    assert links.plans[1].spec.after.sample == 80 + 90 * 16
    assert f"{(80 + 90 * 16) * 512:,} tokens trained before" in links.transitions[0].lines[0]


def test_they_begin_anew_where_they_are_not() -> None:
    (_, second), (line,) = (
        chain(stages({}, {"training.sequence": 1024, "training.schedule": Schedule(style="linear")})).plans,
        chain(stages({}, {"training.sequence": 1024, "training.schedule": Schedule(style="linear")})).transitions,
    )
    assert second.spec.after is not None
    assert (second.spec.after.step, second.spec.after.sample) == (0, 0)
    assert "data: begins anew: sequences of 512 -> 1,024" in line.lines
    assert "learning rate: begins anew: linear, 0 steps of warm-up" in line.lines


def test_wsd_written_as_two_stages_is_one_schedule() -> None:
    plateau, decay = (
        Schedule(style="constant", warmup_steps=5),
        Schedule(style="wsd", warmup_steps=5, wsd_decay_steps=20),
    )
    _, second = chain(stages({"training.schedule": plateau}, {"training.schedule": decay})).plans
    assert second.spec.after is not None
    assert second.spec.after.step == 100
    assert second.spec.training.schedule.decay_steps == 200


def test_a_changed_layout_is_resharded() -> None:
    links = chain(stages({}, {"parallelism.tp": 2, "parallelism.sp": True, "parallelism.dp": 4}))
    assert "layout: tp 1 -> 2, dp 8 -> 4" in links.transitions[0].lines
    assert all(plan.spec.backend.megatron.checkpoint_reshardable for plan in links.plans)


def test_a_changed_layout_makes_deepspeeds_checkpoint_universal() -> None:
    base = replace(BASE, backend=Backend(name="deepspeed"))
    same, changed = (
        chain(stages({}, change, base=base)).plans[1].spec.after for change in ({}, {"parallelism.zero": 2})
    )
    assert same is not None
    assert changed is not None
    assert not same.universal
    assert changed.universal


def test_a_stage_of_unknown_length_is_left_out_and_says_so() -> None:
    links = chain(stages({}, {"training.steps": None}, {}))
    assert [plan.spec.stage for plan in links.plans] == ["s0", "s2"]
    assert links.left_out[0].startswith("s1: left out, its length is not stated")
    assert "inferred" in links.left_out[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.hidden": 256}, "model.hidden: 128 in stage s0, 256 in stage s1: it is another model"),
        ({"model.vocab": 2000}, "model.vocab: 1000 in stage s0, 2000"),
        ({"training.optimizer.name": "sgd"}, "training.optimizer.name: adamw in stage s0, sgd in stage s1"),
        ({"backend.name": "deepspeed"}, "backend.name: megatron in stage s0, deepspeed in stage s1"),
        ({"parallelism.zero": 0}, "parallelism.zero: the state of a sharded optimizer"),
        ({"parallelism.zero": 3}, "stage s0 saves torch_dist, stage s1 reads fsdp_dtensor"),
        ({"launch.entry": "/opt/pretrain_gpt.py"}, "launch.entry: /opt/pretrain_gpt.py cannot start from"),
    ],
)
def test_what_cannot_be_carried_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused({}, change)


def test_stages_may_not_save_into_one_folder() -> None:
    assert "training.logging.save: both stages" in refused({}, {}, base=override(BASE, "training.logging.save", "/ck"))


def test_the_old_format_is_bound_to_its_layout() -> None:
    old = replace(BASE, backend=Backend(megatron=MegatronOptions(checkpoint_format="torch")))
    assert "the format torch is bound to its layout" in refused({}, {"parallelism.dp": 4, "cluster.gpus": 4}, base=old)


def test_learned_positions_cannot_grow() -> None:
    learned = replace(BASE, model=small_model(positions="learned", max_positions=512))
    assert "learned positions are weights" in refused({}, {"model.max_positions": 1024}, base=learned)


def test_llama_405b_grows_and_lengthens_its_context() -> None:
    plans = [resolve(stage) for stage in library.run("llama3_405b").stages]
    links = chain(plans)
    assert [plan.spec.stage for plan in links.plans] == ["ramp_4m", "ramp_8m", "gpus_16384", "long_128k", "anneal"]
    said = {link.after: link.lines for link in links.transitions}
    assert "layout: cp 1 -> 16, dp 128 -> 8" in said["long_128k"]
    assert "learning rate: goes on at step 61 of its schedule" in said["ramp_8m"]
    assert links.left_out[0].startswith("gpus_8192: left out")


def test_every_recipe_joins_or_offers_alternatives() -> None:
    for name in library.names():
        plans = [resolve(stage) for stage in library.run(name).stages]
        assert len(joined(plans)) == len(plans)
        assert alternatives(plans) == (name == "mt_nlg_530b")


def test_a_single_stage_stays_as_it_is() -> None:
    assert chain(stages({})).plans == tuple(stages({}))
