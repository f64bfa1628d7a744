"""What every recipe compiles to, in its first variant, held in tests/golden.

``pytest tests/test_golden.py --regenerate`` writes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.jobs.run_folder import files
from meshwright.library import files as library
from meshwright.resolver import resolve
from samples import sample

GOLDEN = Path(__file__).parent / "golden"
HELD = ("plan.json", "megatron/", "deepspeed/")  # scripts and READMEs have tests of their own
STAGES = [(name, spec.stage) for name in library.names() for spec in library.run(name).stages]


def golden(name: str, stage: str | None) -> Path:
    return GOLDEN / (f"{name}.{stage}.txt" if stage else f"{name}.txt")


def compiled(name: str, stage: str | None) -> str:
    """The generated files of one stage, one after the other."""
    (spec,) = [spec for spec in library.run(name).stages if spec.stage == stage]
    written = sorted((path, text) for path, text in files(resolve(spec)).items() if path.startswith(HELD))
    return "".join(f"== {path}\n{without_cost(path, text).rstrip()}\n" for path, text in written)


def without_cost(path: str, text: str) -> str:
    """A plan without its predictions: they change with every calibration and have bars of their own."""
    if path != "plan.json":
        return text
    plan = json.loads(text)
    plan.pop("cost", None)
    return json.dumps(plan, indent=2)


def compiles_the_same(name: str, stage: str | None, regenerate: bool) -> None:
    path, text = golden(name, stage), compiled(name, stage)
    if regenerate:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text, "changed on purpose? run pytest tests/test_golden.py --regenerate"


@pytest.mark.parametrize(("name", "stage"), sample(STAGES, 150))
def test_a_recipe_compiles_to_what_it_did(name: str, stage: str | None, request: pytest.FixtureRequest) -> None:
    compiles_the_same(name, stage, request.config.getoption("--regenerate"))


@pytest.mark.slow  # the rest of the library
@pytest.mark.parametrize(("name", "stage"), sorted({*STAGES} - {*sample(STAGES, 150)}, key=str))
def test_every_recipe_compiles_to_what_it_did(name: str, stage: str | None, request: pytest.FixtureRequest) -> None:
    compiles_the_same(name, stage, request.config.getoption("--regenerate"))


def test_no_golden_file_outlives_its_recipe(request: pytest.FixtureRequest) -> None:
    expected = {golden(name, stage) for name, stage in STAGES}
    stale = set(GOLDEN.glob("*.txt")) - expected
    if request.config.getoption("--regenerate"):
        for path in stale:
            path.unlink()
        stale = set()
    assert not stale
