"""The README of a run folder says how this run is started and how it goes on."""

from __future__ import annotations

from builders import small_model, spec
from meshwright.jobs.run_folder import files
from meshwright.resolver import override, resolve
from meshwright.spec import Spec


def readme(told: Spec) -> str:
    return files(resolve(told))["README.md"]


def test_one_node_runs_launch_sh() -> None:
    said = readme(spec(small_model(), 8))
    assert "Run it with `bash launch.sh`." in said
    assert "NODE_RANK" not in said


def test_several_nodes_need_a_number_and_an_address() -> None:
    said = readme(spec(small_model(), 32))
    assert "`NODE_RANK=0 MASTER_ADDR=NAME bash launch.sh`: NODE_RANK counts the nodes from 0 to 3" in said


def test_on_slurm_it_is_submitted() -> None:
    said = readme(override(spec(small_model(), 32), "launch.kind", "slurm"))
    assert "Submit it from this folder with `sbatch job.sbatch`" in said
    assert "Run it with `bash launch.sh`" not in said


def test_it_says_where_and_how_often_it_saves_and_that_it_goes_on() -> None:
    told = override(spec(small_model(), 8), "training.logging.save_interval", 500)
    assert "It saves to `checkpoints` every 500 steps, at the end and when it gets SIGTERM or SIGUSR1." in readme(told)
    assert "The same command again goes on from the last checkpoint." in readme(told)
    without = override(spec(small_model(), 8), "training.logging.checkpoints", False)
    assert "a run that stops begins again" in readme(without)
