"""Validation: when, on what, with which flags; its losses in metrics and status, its time in the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import small_model, spec
from meshwright.corpus.checks import data_problems
from meshwright.corpus.indexed import write_index
from meshwright.cost import cost
from meshwright.cost.duration import duration
from meshwright.emit.deepspeed import program
from meshwright.emit.megatron import flags
from meshwright.emit.torchrun import script
from meshwright.jobs.run_folder import compile
from meshwright.jobs.status import status
from meshwright.layout.length import evaluations
from meshwright.resolver import refusals, resolve
from meshwright.spec import Data, Evaluation, Launch, RampStep, Spec
from meshwright.train import metrics
from meshwright.train.samples import dataset


def run(evaluation: Evaluation, **training: Any) -> Spec:
    base = spec(small_model(), 8, global_batch=16)
    return replace(base, training=replace(base.training, evaluation=evaluation, **{"steps": 100, **training}))


def flag(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.mark.parametrize(
    ("evaluation", "times"),
    [
        (Evaluation(), 0),
        (Evaluation(at_end=True), 1),
        (Evaluation(interval=25), 4),
        (Evaluation(interval=25, at_end=True), 4),
        (Evaluation(interval=30), 3),
        (Evaluation(interval=30, at_end=True), 4),
    ],
)
def test_how_often(evaluation: Evaluation, times: int) -> None:
    assert evaluations(evaluation, 100) == times


def test_megatron_is_told_by_its_own_flags() -> None:
    words = flags(resolve(run(Evaluation(interval=25, steps=3))))
    assert (flag(words, "--eval-interval"), flag(words, "--eval-iters")) == ("25", "3")
    assert "--eval-interval" not in flags(resolve(run(Evaluation())))
    ramp = (RampStep(from_tokens=0, global_batch=8), RampStep(from_tokens=512 * 80, global_batch=16))
    words = flags(resolve(run(Evaluation(interval=25), ramp=ramp)))
    assert flag(words, "--eval-global-batch-size") == "16"


def test_megatron_lms_own_program_evaluates_only_where_it_is_asked_to() -> None:
    entry = Launch(entry="/lm/pretrain_gpt.py")
    assert "--eval-iters 0" in script(resolve(replace(run(Evaluation()), launch=entry)))
    assert "--eval-iters 0" not in script(resolve(replace(run(Evaluation(interval=25)), launch=entry)))


def test_deepspeeds_program_is_told() -> None:
    asked = replace(run(Evaluation(interval=25)), backend=replace(spec(small_model(), 8).backend, name="deepspeed"))
    asked = replace(asked, parallelism=replace(asked.parallelism, zero=1))
    assert program(resolve(asked))["evaluation"] == {"interval": 25, "steps": 10, "at_end": False}


def test_without_a_share_of_the_data_there_is_nothing_to_validate_on() -> None:
    data = Data(paths=("/data/a",), split="100,0,0")
    (problem,) = refusals(run(Evaluation(interval=25), data=data), "megatron")
    assert str(problem) == (
        "training.data.split: '100,0,0' leaves nothing to validate on, which training.evaluation asks for; give "
        "the second a share; set training.data.split=99,1,0"
    )
    assert not refusals(run(Evaluation(), data=data), "megatron")


def test_validation_reads_what_training_does_not(tmp_path: Path) -> None:
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "text.bin")
    write_index(tmp_path / "text", [1000], 1000)
    data = {"paths": [str(tmp_path / "text")], "weights": [], "split": "8,1,1"}
    trained, validated = (dataset(data, 1000, 10, 7, validation=kind) for kind in (False, True))
    first = [{int(part.sample(index)[0]) for index in range(200)} for part in (trained, validated)]
    assert max(first[0]) < 790 <= min(first[1])
    assert max(first[1]) < 890


def test_too_few_documents_to_validate_on_are_said_before_a_launch(tmp_path: Path) -> None:
    """Megatron would look for a sequence among none of them for ever."""
    np.zeros(600 * 40, dtype=np.uint16).tofile(tmp_path / "text.bin")
    write_index(tmp_path / "text", [600] * 40, 1000)
    data = Data(paths=(str(tmp_path / "text"),), split="99,1,0", epochs=1000)
    (problem,) = data_problems(resolve(run(Evaluation(at_end=True), data=data)))
    assert problem.message.startswith("of 40 documents 0 are to validate on, with 0 tokens; a sequence has 512")
    assert not data_problems(resolve(run(Evaluation(), data=data)))
    assert not data_problems(resolve(run(Evaluation(at_end=True), data=replace(data, split="90,10,0"))))


def test_its_time_is_in_the_plan() -> None:
    plain, often = (resolve(run(Evaluation(interval=interval, steps=4))) for interval in (None, 10))
    without, with_it = duration(plain, cost(plain)), duration(often, cost(often))
    assert without is not None
    assert with_it is not None
    assert without.validation_seconds == 0
    assert with_it.seconds == pytest.approx(without.seconds + with_it.validation_seconds)
    forward = with_it.validation_seconds / (10 * 4)
    assert 0.2 < forward / cost(plain).step_time < 0.5


def test_status_says_the_last_validation(tmp_path: Path) -> None:
    folder = compile(resolve(run(Evaluation(interval=2))), tmp_path / "run", verify=False).folder
    for step in (1, 2, 3):
        metrics.write(folder / "metrics.jsonl", step=step, loss=3.0 - step)
    metrics.write(folder / "metrics.jsonl", step=2, valid_loss=1.5)
    metrics.write(folder / "metrics.jsonl", step=4, valid_loss=1.25)  # its log line is not due
    one = status(folder)
    assert (one.step, one.loss) == (3, 0.0)
    assert (one.valid_step, one.valid_loss) == (4, 1.25)
