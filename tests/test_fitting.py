"""Whether a plan fits: a word from the memory's interval, in every verb."""

from __future__ import annotations

from math import exp

import pytest

from meshwright.cli import main
from meshwright.cost.fitting import fit_probability, fit_words, fits
from meshwright.cost.framework import SPREAD

LARGE = ["model=llama3_70b", "cluster=dgx_h100", "cluster.gpus=128", "training.global_batch=128", "training.steps=10"]
FITS = ["model=smollm2_135m", "cluster=dgx_h100", "cluster.gpus=8", "training.global_batch=8", "training.sequence=2048"]


def test_the_ends_of_the_interval_are_a_tenth_and_nine_tenths() -> None:
    assert fit_probability(1.0, exp(SPREAD), SPREAD) == pytest.approx(0.9, abs=1e-4)
    assert fit_probability(1.0, 1.0, SPREAD) == 0.5
    assert fit_probability(1.0, exp(-SPREAD), SPREAD) == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize(
    ("limit", "word"), [(1.2, "likely"), (1.05, "about even"), (0.95, "about even"), (0.8, "unlikely")]
)
def test_its_word(limit: float, word: str) -> None:
    assert fits(fit_probability(1.0, limit, SPREAD)) == word
    assert fit_words(fit_probability(1.0, limit, SPREAD)).startswith(word)


def test_a_layout_that_ran_a_few_percent_over_is_not_called_impossible(capsys: pytest.CaptureFixture[str]) -> None:
    """NVIDIA's own of Llama 3 70B in 8 bits: 4 GiB below 180.6 usable, with the loss that Megatron-LM does not take."""
    assert main(["plan", "recipe=nvidia_llama3_70b_gb200", "variant=fp8_cs_64gpus"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (ours,) = [line for line in lines if line.startswith("  memory")]
    (theirs,) = [line for line in lines if line.startswith("the authors' trainer")]
    assert "to fit: unlikely" in ours
    assert "to fit: about even" in theirs


def test_compile_says_it_and_launch_refuses(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    where = [f"runs={runs}", "verify=false"]
    assert main(["compile", *LARGE, *where]) == 0
    assert "to fit: unlikely" in capsys.readouterr().out
    dry = [*where, "launch=slurm", "launch.dry_run=true"]
    assert main(["launch", *LARGE, *dry]) == 2
    said = capsys.readouterr().err
    assert "GiB on a GPU that has 75.6 usable" in said
    assert "launch.force=true" in said
    assert main(["launch", *LARGE, *dry, "launch.force=true"]) == 0
    assert main(["launch", *FITS, *dry]) == 0
    assert "to fit: likely" in capsys.readouterr().out
