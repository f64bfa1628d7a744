"""How long a run is under a ramp: Megatron's own calculator counts the same steps, batches and sequences."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import small_model, spec
from meshwright.errors import ConfigError
from meshwright.jobs.run_folder import files
from meshwright.layout.length import decay_steps, sequences, steps, steps_of_tokens
from meshwright.resolver import override, refusals, resolve
from meshwright.rules import EVERY
from meshwright.spec import RampStep, Schedule, Training
from meshwright.verbs import Words, rehearse

RAMP = (RampStep(from_tokens=0, global_batch=4), RampStep(from_tokens=2560, global_batch=16))
RAMPED = Training(sequence=64, global_batch=16, ramp=RAMP)


def test_a_ramp_of_ten_small_steps() -> None:
    """2,560 tokens are 40 sequences of 64, trained in ten steps of four."""
    assert [sequences(RAMP, 64, 16, step) for step in (0, 1, 10, 11, 40)] == [0, 4, 40, 56, 520]


def test_tokens_take_more_steps_under_a_ramp() -> None:
    tokens = 520 * 64
    assert steps_of_tokens(Training(sequence=64, tokens=tokens), 16) == 33
    assert steps_of_tokens(Training(sequence=64, tokens=tokens, ramp=RAMP), 16) == 40
    assert steps_of_tokens(Training(sequence=64, tokens=tokens + 1, ramp=RAMP), 16) == 41


def test_a_run_may_end_within_its_ramp() -> None:
    assert steps_of_tokens(Training(sequence=64, tokens=640, ramp=RAMP), 16) == 3


def test_the_decay_ends_with_the_run_where_nothing_else_is_said() -> None:
    assert steps(RAMPED, 16) is None
    assert decay_steps(RAMPED, 16) == 1000
    assert decay_steps(Training(sequence=64, steps=40), 16) == 40
    assert decay_steps(Training(sequence=64, steps=40, schedule=Schedule(decay_steps=30)), 16) == 30


def test_a_length_that_is_not_stated_is_said_in_every_file_people_read() -> None:
    texts = files(resolve(spec(small_model(), 8, zero=1)))
    for name in ("plan.json", "README.md"):
        assert "training.steps: neither they nor training.tokens are stated: Megatron trains 1,000" in texts[name]


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["steps", "tokens"])
@pytest.mark.parametrize("count", [0, -3])
def test_a_run_without_a_step_is_refused(backend: str, name: str, count: int) -> None:
    (problem,) = refusals(override(spec(small_model(), 8, zero=1), f"training.{name}", count), backend)
    assert problem.path == f"training.{name}"


def test_so_is_a_rehearsal() -> None:
    with pytest.raises(ConfigError, match=r"rehearse\.steps: 0 train nothing"):
        rehearse.run(Words(("model=tiny", "cluster=local_cpu", "rehearse.steps=0")))


@st.composite
def ramps(draw: st.DrawFn) -> tuple[RampStep, ...]:
    """Up to four batches that grow; their thresholds are often no whole number of sequences."""
    gaps = draw(st.lists(st.integers(10, 2000), max_size=3))
    batches = accumulate(draw(st.lists(st.integers(1, 9), min_size=len(gaps) + 1, max_size=len(gaps) + 1)))
    return tuple(RampStep(from_tokens=t, global_batch=b) for t, b in zip(accumulate([0, *gaps]), batches, strict=True))


@settings(max_examples=60, deadline=None)
@given(ramps(), st.integers(1, 4000))
def test_megatron_counts_the_same(ramp: tuple[RampStep, ...], tokens: int) -> None:
    calculator = pytest.importorskip("megatron.core.num_microbatches_calculator")
    schedule = " ".join(f"{part.from_tokens}:{part.global_batch}" for part in ramp)
    theirs = calculator.StepBatchsizeNumMicroBatchesCalculator(1, 1, False, 1, schedule, 10)
    training = Training(sequence=10, tokens=tokens, ramp=ramp)
    done, last = 0, steps_of_tokens(training, ramp[-1].global_batch)
    for step in range(last):
        assert done < -(-tokens // 10)
        assert sequences(ramp, 10, ramp[-1].global_batch, step) == done
        theirs.update(done, consistency_check=True)
        done += theirs.get_current_global_batch_size()
    assert done >= -(-tokens // 10)
