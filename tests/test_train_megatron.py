"""Real training with Megatron's own loop on CPU processes: layouts agree, faults are noticed, runs go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from builders import small_model, spec

pytest.importorskip("megatron.core")
pytest.importorskip("megatron.training")

import meshwright
from meshwright.emit.backends import trainer
from meshwright.jobs.profiles import profiles
from meshwright.jobs.run_folder import compile
from meshwright.jobs.status import status
from meshwright.rehearse import RankError, Rehearsal, miniature
from meshwright.rehearse.processes import train
from meshwright.rehearse.run import TOLERANCE, curve, prepare
from meshwright.resolver import override, resolve
from meshwright.spec import Evaluation, RampStep, Schedule
from meshwright.spec.model import Mla
from meshwright.train import machine
from meshwright.train.metrics import read
from meshwright.train.schedule import rates

STEPS = 6
SIGNALLED = 75  # EX_TEMPFAIL


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A run with pipeline, tensor and data parallelism: one miniature of two processes for each."""
    return prepare(minis(STEPS), tmp_path_factory.mktemp("scene"))


def minis(steps):
    original = spec(small_model(), 8, global_batch=8, tp=2, sp=True, pp=2, dp=2, zero=1)
    return miniature(original, ranks=2, steps=steps)


@pytest.fixture(scope="module")
def alone(scene):
    """The losses of one process."""
    return curve(scene, scene.alone)


def plan_with(scene, axis):
    return next(plan for plan in scene.plans if getattr(plan.grid, axis) == 2)


def sharded(scene):
    """By PyTorch's FSDP2, which CPUs run, too."""
    plan = resolve(override(plan_with(scene, "dp").spec, "parallelism.zero", 3))
    assert plan.spec.backend.megatron.fsdp == "torch"
    return plan


def rehearsal(alone, *others):
    return Rehearsal(
        name="run",
        model="small",
        backend="megatron",
        reference=alone,
        miniatures=others,
        tolerance=TOLERANCE,
        drop=0.1,
        substitutions=(),
    )


@pytest.mark.parametrize("axis", ["tp", "pp", "dp"])
def test_two_processes_train_as_one_does(scene, alone, axis):
    result = rehearsal(alone, curve(scene, plan_with(scene, axis)))
    assert result.problems == ()
    assert len(alone.losses) == STEPS


@pytest.mark.parametrize(
    ("fault", "axis"), [("unreduced_gradients", "dp"), ("perturbed_shard", "tp"), ("skipped_stage", "pp")]
)
def test_a_fault_is_noticed(scene, alone, fault, axis):
    result = rehearsal(alone, curve(scene, plan_with(scene, axis), program=f"faults.{fault}"))
    assert not result.passed
    assert "losses differ" in result.problems[0]


def test_a_wrong_gradient_of_a_few_weights_is_noticed(scene, tmp_path):
    """Norms' gradients that nobody sums change a loss by 7e-5 nats in 12 steps, as shared rotary keys' would."""
    here = replace(scene, folder=tmp_path)
    alone = curve(here, longer(scene.alone, 12))
    result = rehearsal(alone, curve(here, longer(plan_with(scene, "tp"), 12), program="faults.unsummed_gradient"))
    assert TOLERANCE < result.differences[0] < 1e-4
    assert not result.passed


def longer(plan, steps):
    return resolve(replace(plan.spec, training=replace(plan.spec.training, steps=steps)))


def test_a_slow_rank_is_named(scene, tmp_path):
    """In its own log, in the metrics and by status; the step's time alone is the same on both ranks."""
    folder = tmp_path / "run"
    compile(plan_with(scene, "dp"), folder, verify=False)
    train("faults.slow_rank", 2, [str(folder), *scene.words[:2]], tmp_path / "logs")
    (told,) = [line for line in read(folder / "metrics.jsonl") if "slow_rank" in line]
    assert (told["step"], told["slow_rank"]) == (6, 1)
    assert "rank 1 on " in (tmp_path / "logs" / "rank1.log").read_text()
    assert any(said.startswith("rank 1 is slow: its forward passes take") for said in status(folder).warnings)


def test_a_loss_that_jumps_and_one_that_is_no_number_are_said(scene, tmp_path):
    """Megatron ends the run in the step that has none, before it logs it."""
    base = plan_with(scene, "dp").spec
    plan = resolve(replace(base, training=replace(base.training, steps=30)))
    compile(plan, tmp_path / "run", verify=False)
    with pytest.raises(RankError, match="nan"):
        train("faults.no_number", 2, [str(tmp_path / "run"), *scene.words[:2]], tmp_path / "logs")
    broken, jumped = (said for said in status(tmp_path / "run").warnings if said.startswith("loss: "))
    assert broken.startswith("loss: no number in 1 steps, first in step 28")
    assert " in step 25, " in jumped


@pytest.mark.parametrize("axis", ["tp", "dp", "fsdp2"])  # dp: with the sharded optimizer
def test_a_run_goes_on_from_its_checkpoint(scene, alone, tmp_path, axis):
    plan = sharded(scene) if axis == "fsdp2" else plan_with(scene, axis)
    compile(plan, tmp_path / "run", verify=False)
    start = scene.words[:2]  # the same initial weights, but checkpoints in the run folder
    words = [str(tmp_path / "run"), *start]
    with pytest.raises(RankError):  # broken off half-way, which is no success
        train(trainer("megatron"), 2, [*words, "--exit-interval", str(STEPS // 2)], tmp_path / "first")
    train(trainer("megatron"), 2, words, tmp_path / "second")
    assert f"at iteration {STEPS // 2}" in (tmp_path / "second" / "rank0.log").read_text()
    lines = read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in lines] == pytest.approx(alone.losses, abs=1e-5)
    assert all(line["tokens_per_s"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert machine.read(tmp_path / "run")["world"] == 2


def test_old_checkpoints_go_while_it_trains(scene, tmp_path):
    """The last two stay, and of the others each third; none is written for the last step where it is not due.

    One step is profiled, on one rank of the stage.
    """
    base = plan_with(scene, "dp").spec
    logging = replace(base.training.logging, save_interval=1, keep_last=2, keep_every=3)
    runs = {
        "kept": resolve(replace(base, training=replace(base.training, logging=logging))),
        "no end": resolve(
            replace(
                base,
                training=replace(
                    base.training,
                    steps=3,
                    logging=replace(base.training.logging, save_interval=2, save_at_end=False, profile=2),
                ),
            )
        ),
    }
    found = {}
    for name, plan in runs.items():
        compile(plan, tmp_path / name, verify=False)
        train(trainer("megatron"), 2, [str(tmp_path / name), *scene.words[:2]], tmp_path / "logs")
        found[name] = sorted(path.name for path in (tmp_path / name / "checkpoints").glob("iter_*"))
    assert found == {"kept": ["iter_0000003", "iter_0000005", "iter_0000006"], "no end": ["iter_0000002"]}
    (profile,) = profiles(tmp_path / "no end")  # two ranks of one stage
    assert (profile.rank, "step 2" in {event["name"] for event in profile.events}) == (0, True)


def test_validation_losses_are_those_of_a_run_that_was_never_broken_off(scene, tmp_path):
    """Every other step and after the last, which is one of them: once there, and never on the test set."""
    base = plan_with(scene, "dp").spec
    asked = Evaluation(interval=2, steps=1, at_end=True)
    data = replace(base.training.data, split="8,3,0.1")  # of 11 documents none is left to test on
    plan = resolve(replace(base, training=replace(base.training, evaluation=asked, data=data, steps=5)))
    words = {name: [str(tmp_path / name), *scene.words[:2]] for name in ("whole", "broken")}
    for name in words:
        compile(plan, tmp_path / name, verify=False)
    train(trainer("megatron"), 2, words["whole"], tmp_path / "logs")
    with pytest.raises(RankError):
        train(trainer("megatron"), 2, [*words["broken"], "--exit-interval", "3"], tmp_path / "logs")
    train(trainer("megatron"), 2, words["broken"], tmp_path / "logs")
    whole, broken = (
        {line["step"]: line["valid_loss"] for line in read(tmp_path / name / "metrics.jsonl") if "valid_loss" in line}
        for name in words
    )
    assert list(whole) == [2, 4, 5]
    assert broken == pytest.approx(whole, abs=1e-6)
    log = (tmp_path / "logs" / "rank1.log").read_text()
    assert "validation loss at iteration 5 on validation set" in log
    assert "on test set" not in log


def test_a_ramp_trains_at_the_rates_of_the_plan_and_goes_on(scene, tmp_path):
    """Two steps of two sequences, then of eight; the second start is in the middle of the decay."""
    base = plan_with(scene, "dp").spec
    sequence = base.training.sequence
    ramp = (RampStep(from_tokens=0, global_batch=2), RampStep(from_tokens=4 * sequence, global_batch=8))
    schedule = Schedule(style="cosine", warmup_steps=1)
    training = replace(base.training, micro_batch=1, global_batch=8, ramp=ramp, steps=STEPS, schedule=schedule)
    plan = resolve(replace(base, training=training))
    compile(plan, tmp_path / "run", verify=False)
    words = [str(tmp_path / "run"), *scene.words[:2]]
    with pytest.raises(RankError):
        train(trainer("megatron"), 2, [*words, "--exit-interval", "4"], tmp_path / "first")
    train(trainer("megatron"), 2, words, tmp_path / "second")
    lines = read(tmp_path / "run" / "metrics.jsonl")
    rate = rates({**vars(schedule), "lr": training.optimizer.lr}, STEPS, sequence, 8, [vars(part) for part in ramp])
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["lr"] for line in lines] == pytest.approx([rate(step + 1) for step in range(STEPS)])


def test_a_rank_that_fails_shows_the_end_of_its_log(scene, tmp_path):
    with pytest.raises(RankError, match="No such file or directory"):
        train(trainer("megatron"), 2, [str(tmp_path / "no run here")], tmp_path / "logs")


MODELS = {
    "grouped queries, swiglu, interleaved uneven stages": (
        {},
        {"tp": 2, "sp": True, "pp": 4, "vpp": 2, "embedding": True, "loss": True},
    ),
    "context parallelism": ({}, {"tp": 2, "sp": True, "cp": 2}),
    "learned positions, tied, layernorm, biases": (
        {
            "positions": "learned",
            "tied_embeddings": True,
            "norm": "layernorm",
            "linear_bias": True,
            "activation": "gelu_tanh",
            "kv_heads": 8,
        },
        {"pp": 2, "dp": 2, "zero": 1},
    ),
}


@pytest.mark.slow  # each trains up to three times four processes
@pytest.mark.parametrize("kind", MODELS)
def test_kinds_of_models_and_layouts_agree_with_one_process(kind, tmp_path):
    from meshwright.rehearse import rehearse
    from meshwright.spec import PipelineSplit

    model, degrees = MODELS[kind]
    degrees = dict(degrees)
    split = PipelineSplit(embedding=bool(degrees.pop("embedding", 0)), loss=bool(degrees.pop("loss", 0)))
    layers = 14 if split.embedding else 8
    original = spec(small_model(layers=layers, **model), 16, global_batch=32, pipeline_split=split, **degrees)
    assert rehearse(original, tmp_path).problems == ()


RECIPES = {
    "deepseek_v3": "pretrain",  # MLA, experts, interleaving, multi-token prediction
    "folding_mixtral_8x22b_mcore": None,  # ep and etp
    "torchtitan_llama3_8b": None,  # FSDP2
    "yi_lightning": "long_context",  # sliding window, experts, cp
}


@pytest.mark.slow  # each trains up to three times four processes
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_rehearse(recipe, tmp_path):
    from meshwright.compose import load
    from meshwright.rehearse import rehearse

    stage = [f"stage={RECIPES[recipe]}"] if RECIPES[recipe] else []
    (original,) = load([f"recipe={recipe}", *stage]).stages
    assert rehearse(original, tmp_path).problems == ()


def test_a_signal_saves_a_checkpoint_and_asks_to_be_started_again(scene, tmp_path):
    folder = tmp_path / "run"
    compile(replace(scene.alone, steps=10_000), folder, verify=False)
    path = os.pathsep.join([str(Path(meshwright.__file__).parents[1]), *sys.path])
    world = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    command = [sys.executable, "-m", "meshwright.train.megatron", str(folder)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, env={**os.environ, **world, "PYTHONPATH": path}, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.2)
        run.send_signal(signal.SIGUSR1)
        assert run.wait(120) == SIGNALLED, (tmp_path / "log").read_text()[-2000:]
    saved = int((folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
    assert saved == read(folder / "metrics.jsonl")[-1]["step"]


def test_every_rank_s_heads_teach_the_positions_of_latent_attention_s_keys(tmp_path):
    """Split, as Megatron's plain layers have it, what compresses would learn them from its own rank's heads alone."""
    mla = Mla(kv_lora_rank=32, q_lora_rank=32, qk_nope_dim=16, qk_rope_dim=8, v_dim=16)
    heads = {"heads": 4, "kv_heads": 4, "head_dim": 24}
    original = spec(small_model(mla=mla, **heads), 2, global_batch=8, tp=2, sp=True)
    scene = prepare(miniature(original, ranks=2, steps=4), tmp_path)
    result = rehearsal(curve(scene, scene.alone), *(curve(scene, plan) for plan in scene.plans))
    assert max(result.differences) < 2e-6  # nats; split, they differ by 2e-5
