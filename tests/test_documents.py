"""The generated pages are what the library and the rules say now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.documents import MODELS, PROOFS, REHEARSALS, pages
from meshwright.documents.options import options, options_page
from meshwright.documents.parts import parts
from meshwright.library import files as library
from meshwright.rules import every_rule
from samples import sample

DOCS = Path(__file__).parents[1] / "docs"
FOUND = json.loads((DOCS / MODELS).read_text("utf-8"))
REHEARSED = json.loads((DOCS / REHEARSALS).read_text("utf-8"))


OF_ALL_RECIPES = ("recipes.md", "recipes/index.md")


def generated(names: list[str]) -> dict[str, str]:
    proofs = json.loads((DOCS / PROOFS).read_text("utf-8"))["recipes"]
    return pages(proofs, FOUND, REHEARSED, names)


def test_the_pages_are_up_to_date() -> None:
    """Those of a part of the recipes, with their lines in the tables of all, and every other page."""
    names = sample(library.names(), 24)
    found = generated(names)
    for path in OF_ALL_RECIPES:
        ours = {entry for entry in entries(found.pop(path)) if any(name in entry[-1] for name in names)}
        assert len(ours) >= 2 * len(names)
        assert ours - entries((DOCS / path).read_text("utf-8")) == set(), "run make docs"
    assert [path for path, text in found.items() if not current(DOCS / path, text)] == [], "run make docs"
    assert {page.stem for page in DOCS.glob("recipes/*.md")} == {*library.names(), "index"}


def entries(page: str) -> set[tuple[str, ...]]:
    """Its lines; of a line that gathers recipes under a word, the word with each of them."""
    parted = [line.partition("**: ") for line in page.splitlines()]
    gathered = {(word, link) for word, colon, links in parted if colon for link in links.split(", ")}
    return gathered | {(line,) for line, colon, _ in parted if not colon}


@pytest.mark.slow  # the same of every recipe, of which the library has more each month
def test_all_pages_are_up_to_date() -> None:
    stale = [path for path, text in generated(list(library.names())).items() if not current(DOCS / path, text)]
    assert not stale, "run make docs"


def current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


def test_every_recipe_rule_and_cluster_has_its_line() -> None:
    written = {name: (DOCS / name).read_text("utf-8") for name in ("recipes.md", "rules.md", "clusters.md")}
    page, index = written["recipes.md"], (DOCS / "recipes" / "index.md").read_text("utf-8")
    assert all(f"| [`{name}`](recipes/{name}.md) |" in page and f"({name}.md)" in index for name in library.names())
    assert all(f"| `{rule.id}` |" in written["rules.md"] for rule in every_rule())
    assert all(f"| `{name}` |" in written["clusters.md"] for name in library.options("cluster"))
    (line,) = [line for line in page.splitlines() if line.startswith("| [`llama3_405b`]")]
    assert line.endswith("| M | M | S | M |")


def test_a_recipe_s_page_has_its_story_in_numbers() -> None:
    page = (DOCS / "recipes" / "nvidia_deepseek_v3_gb200.md").read_text("utf-8")  # which the first test keeps
    assert "meshwright launch recipe=nvidia_deepseek_v3_gb200 variant=" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| fp8_mx |") and "4,912" in line]
    assert len(line.split("|")) == 10
    assert "| parallelism.tp | 1 | published | code, deepseek_v3_pretrain_256gpu_gb200_bf16_config, line 36" in page
    assert "* fp8_mx: causal_tflops_per_gpu: claimed" in page


def test_nearly_every_model_of_transformers_is_read_exactly() -> None:
    """Of those that transformers' own defaults build; what is refused is refused for a value that is missing."""
    rows = [row for row in FOUND.values() if "unbuilt" not in row]
    exact = [row for row in rows if row.get("ours") == row["total"]]
    assert len(exact) >= 0.95 * len(rows)
    assert all(row["how"] == "refused" for row in rows if row not in exact)


def test_an_option_is_its_key_its_default_and_the_comment_above_it() -> None:
    text = (
        "# About the file.\n\n# What it is.\n# And more.\nkey: [1, 2]\ninner:\n  # Deep.\n  one: null\n  two: 'a: b'\n"
    )
    found = list(options(text, "group"))
    assert [(one.path, one.default, one.about) for one in found] == [
        ("group.key", "[1, 2]", "What it is. And more."),
        ("group.inner.one", "null", "Deep."),
        ("group.inner.two", "'a: b'", ""),
    ]


def test_every_option_of_a_plan_is_explained() -> None:
    rows = [line for line in options_page().splitlines() if line.startswith(("| `parallelism.", "| `training."))]
    assert len(rows) > 60
    assert not [row for row in rows if row.rstrip(" |").endswith("`")]


def test_keys_of_parts_that_most_runs_lack_are_explained_too() -> None:
    page = options_page()
    for key in ("model.moe.topk", "model.mla.v_dim", "model.rope.scaling.factor", "cluster.accelerator.capability"):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        assert line.split("|")[2].strip() == "`???`"
        assert line.split("|")[4].strip()
    assert "| `model.moe.score` | `softmax` | softmax, sigmoid, sqrtsoftplus | Of the router's logits. |" in page
    assert not list(parts("recipe", ()))


def test_every_option_has_a_meaning() -> None:
    rows = [
        line.split(" | ") for line in options_page().splitlines() if line.startswith("| `") and line.count(" | ") > 2
    ]
    assert len(rows) > 300
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


def test_each_question_of_the_architecture_stands_once() -> None:
    rows = [line.split("|")[1] for line in (DOCS / "architecture.md").read_text("utf-8").splitlines() if "? |" in line]
    assert len(rows) > 30
    assert sorted(set(rows)) == sorted(rows)
