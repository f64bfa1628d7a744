"""Which tokens a step sees, at which rate: a matter of its number only."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from meshwright.train.samples import Indexed, Mixture, Mock
from meshwright.train.schedule import batches, learning_rate, rates

SCHEDULE = {
    **{"style": "cosine", "lr": 1.0, "min_lr": 0.1, "warmup_steps": 10, "decay_steps": None},
    **{"wsd_decay_steps": 20, "wsd_decay_style": "linear"},
}


def test_mock_tokens_follow_from_one_another() -> None:
    sample = Mock(vocab=97, sequence=8, seed=1).sample(5)
    assert sample.shape == (9,)
    assert all(after == (5 * before + 7) % 97 for before, after in itertools.pairwise(sample))


def test_indexed_samples_are_a_permutation_each_epoch(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    from meshwright.train.data import build

    tokens = build(tmp_path / "text", ["abcdefgh" * 20])
    data = Indexed(str(tmp_path / "text"), sequence=8, seed=3)
    assert data.samples == (tokens - 1) // 8
    stream = [*list(b"abcdefgh" * 20), 255]
    seen = sorted(tuple(data.sample(i)) for i in range(data.samples))
    assert seen == sorted(tuple(stream[i * 8 : i * 8 + 9]) for i in range(data.samples))
    assert [tuple(data.sample(i)) for i in range(data.samples)] != [
        tuple(data.sample(i + data.samples)) for i in range(data.samples)
    ] or data.samples < 3


def test_a_mixture_keeps_its_weights() -> None:
    parts = [Mock(vocab=2, sequence=1, seed=0), Mock(vocab=1000, sequence=1, seed=0)]
    drawn = [Mixture(parts, [1, 3]).sample(i)[1] > 1 for i in range(1000)]
    assert sum(drawn) == pytest.approx(750, abs=20)


def test_not_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "x.idx").write_bytes(b"nothing like it")
    (tmp_path / "x.bin").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="not the index of a Megatron dataset"):
        Indexed(str(tmp_path / "x"), 4, 0)


@pytest.mark.parametrize(
    ("style", "step", "rate"),
    [
        ("cosine", 0, 0.0),
        ("cosine", 5, 0.5),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.55),
        ("cosine", 100, 0.1),
        ("linear", 55, 0.55),
        ("constant", 90, 1.0),
        ("wsd", 80, 1.0),
        ("wsd", 90, 0.55),
        ("inverse_sqrt", 40, 0.5),
    ],
)
def test_learning_rates(style: str, step: int, rate: float) -> None:
    assert learning_rate(step, 100, {**SCHEDULE, "style": style}) == pytest.approx(rate)


def test_learning_rates_are_megatrons() -> None:
    scheduler = pytest.importorskip("megatron.core.optimizer_param_scheduler")
    for style, theirs in (
        ("cosine", "cosine"),
        ("linear", "linear"),
        ("wsd", "WSD"),
        ("inverse_sqrt", "inverse-square-root"),
    ):
        optimizer = type("Optimizer", (), {"param_groups": [{"max_lr": 1.0, "min_lr": 0.1}]})()
        ours = {**SCHEDULE, "style": style}
        made = scheduler.OptimizerParamScheduler(
            optimizer,
            0.0,
            1.0,
            0.1,
            10,
            100,
            theirs,
            0.0,
            0.0,
            0,
            "constant",
            wsd_decay_steps=20,
            lr_wsd_decay_style="linear",
        )
        for step in range(100):
            group = optimizer.param_groups[0]
            assert learning_rate(step, 100, ours) == pytest.approx(group["lr"]), (style, step)
            made.step(1)


RAMP = [{"from_tokens": 0, "global_batch": 4}, {"from_tokens": 2560, "global_batch": 16}]  # ten steps of four


def test_without_a_ramp_a_schedule_counts_steps() -> None:
    rate = rates(SCHEDULE, 100, 64, 16, [])
    assert [rate(step) for step in (5, 10, 55, 100)] == pytest.approx([0.5, 1.0, 0.55, 0.1])


def test_under_a_ramp_warm_up_and_decay_end_in_the_steps_that_were_said() -> None:
    """With the ramp over when the decay begins, every step has the rate that it has without one."""
    ramped, plain = rates(SCHEDULE, 40, 64, 16, RAMP), rates(SCHEDULE, 40, 64, 16, [])
    assert [ramped(step) for step in range(41)] == pytest.approx([plain(step) for step in range(41)])


def test_within_a_ramp_a_step_counts_by_its_batch() -> None:
    """20 steps of warm-up are 40 + 10·16 = 200 sequences, the first ten 40 of them."""
    rate = rates({**SCHEDULE, "warmup_steps": 20}, 40, 64, 16, RAMP)
    assert [rate(step) for step in (10, 15, 20, 40)] == pytest.approx([0.2, 0.6, 1.0, 0.1])


def test_the_last_phase_of_wsd_keeps_its_steps_under_a_ramp() -> None:
    rate = rates({**SCHEDULE, "style": "wsd", "decay_steps": 40}, 40, 64, 16, RAMP)
    assert [rate(step) for step in (10, 20, 30, 40)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_a_ramp_counts_tokens() -> None:
    ramp = [{"from_tokens": 0, "global_batch": 2}, {"from_tokens": 40, "global_batch": 4}]
    assert list(batches(4, 10, 4, ramp)) == [(0, 0, 2), (1, 2, 2), (2, 4, 4), (3, 8, 4)]
    assert [size for _, _, size in batches(2, 10, 8, [])] == [8, 8]
