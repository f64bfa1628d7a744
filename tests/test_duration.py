"""How long a run takes: days, GPU hours, money and jobs, of one stage and of a chain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.duration import Duration, duration, together
from meshwright.layout.plan import Plan
from meshwright.library.published import departures
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.spec import Launch, Spec
from meshwright.spec.launch import Slurm


def of(asked: Spec) -> tuple[Plan, Duration | None]:
    plan = resolve(asked)
    return plan, duration(plan, cost(plan))


def run(**cluster: float) -> Spec:
    base = spec(small_model(), 8)
    priced = replace(base.cluster, **cluster)  # type: ignore[arg-type]
    return replace(base, cluster=priced, training=replace(base.training, steps=1000, tokens=None))


def test_a_run_lasts_its_steps() -> None:
    plan, length = of(run())
    assert length is not None
    assert length.seconds == pytest.approx(1000 * cost(plan).step_time)
    assert length.gpu_hours == pytest.approx(length.seconds * 8 / 3600)
    assert length.price is None
    assert length.slices is None


def test_a_price_is_of_every_gpu() -> None:
    _, length = of(run(price_per_gpu_hour=3.0))
    assert length is not None
    assert length.price == pytest.approx(3 * length.gpu_hours)


def test_a_job_stops_before_its_limit_to_save() -> None:
    _, length = of(run())
    assert length is not None
    limit = int(length.seconds / 3) + 60
    slurm = Slurm(time=f"{limit // 3600:02}:{limit // 60 % 60:02}:{limit % 60:02}", signal_seconds=60)
    _, sliced = of(replace(run(), launch=Launch(kind="slurm", slurm=slurm)))
    assert sliced is not None
    assert sliced.slices == -(-length.seconds // int(length.seconds / 3))


def test_a_chain_is_the_sum_of_its_stages() -> None:
    _, length = of(run(price_per_gpu_hour=1.0))
    assert length is not None
    both = together([length, length])
    assert both is not None
    assert (both.tokens, both.seconds, both.price) == (2 * length.tokens, 2 * length.seconds, 2 * length.gpu_hours)
    assert together([length, None]) is None


def test_a_run_of_no_stated_length_has_none() -> None:
    base = run()
    _, length = of(replace(base, training=replace(base.training, steps=None, tokens=None)))
    assert length is None


def test_what_could_not_be_taken_as_it_was_published_is_said() -> None:
    said = list(departures(load(["recipe=llama3_405b"])))
    assert any(one.startswith("parallelism.zero, published as 2: ") and "ZeRO-1" in one for one in said)
    assert list(departures(load(["model=llama3_8b", "cluster.gpus=8"]))) == []
