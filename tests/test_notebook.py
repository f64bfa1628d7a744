"""What objects show of themselves: one short line in a session, a small table in a notebook, names as text."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from builders import llama_405b, renamed, small_model, spec
from meshwright import ConfigError, load, resolve
from meshwright.cost import cost
from meshwright.search import search

TINY = ["model=tiny", "cluster.gpus=8", "training.global_batch=32"]


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    plan = resolve(llama_405b())
    run = load(["recipe=llama3_405b"])
    return {"run": run, "plan": plan, "cost": cost(plan), "result": search(TINY)[0]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run", "<Run llama3_405b: ramp_4m, "),
        ("plan", "<Plan llama3_405b: 16,384 GPUs = tp 8 · cp 1 · pp 16 · dp 128, 2,048 sequences in 16 micro-batches"),
        ("cost", "tokens/s, MFU "),
        ("result", "<Result tiny: "),
    ],
)
def test_a_session_shows_one_short_line(name: str, said: str, shown: dict[str, Any]) -> None:
    assert said in repr(shown[name])
    assert len(repr(shown[name])) < 250


@pytest.mark.parametrize(("name", "rows"), [("run", 6), ("plan", 16), ("cost", 6), ("result", 5)])
def test_a_notebook_shows_a_small_table(name: str, rows: int, shown: dict[str, Any]) -> None:
    table = shown[name]._repr_html_()
    assert table.count("<tr>") == rows + 1
    assert len(table) < 10_000


def test_names_are_text() -> None:
    plan = renamed(resolve(spec(small_model(), 8, global_batch=8)), "<script>alert(1)</script>")
    assert "<script>" not in plan._repr_html_()


def test_a_search_ranks_and_refuses_as_the_command_line_does() -> None:
    (result,) = search([*TINY, "search.top=2"])
    assert [c.step_time for c in result.ranking.best] == sorted(c.step_time for c in result.ranking.best)
    assert len(result.ranking.best) == 2
    with pytest.raises(ConfigError, match=r"no layout|GiB"):
        search(["model=llama3_405b", "cluster.gpus=8", "training.global_batch=8"])


def test_the_tutorial_runs_and_its_cells_have_something_to_show() -> None:
    names: dict[str, Any] = {}
    cells = json.loads((Path(__file__).parents[1] / "docs" / "tutorial.ipynb").read_text("utf-8"))["cells"]
    shown = [last("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert [type(value).__name__ for value in shown] == [
        "Run",
        "Plan",
        "dict",
        "Cost",
        "list",
        "Cost",
        "Result",
        "Cost",
    ]
    assert names["result"].ranking.fitting > 0


def last(code: str, names: dict[str, Any]) -> Any:
    """Run a cell: the value of its last expression, which a notebook shows."""
    *statements, shown = ast.parse(code).body
    assert isinstance(shown, ast.Expr)
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(shown.value), "cell", "eval"), names)
