"""The generated pages are what the library and the rules say now."""

from __future__ import annotations

import json
from pathlib import Path

from meshwright.documents import PROOFS, recipes_page, rules_page
from meshwright.library import files as library
from meshwright.rules import RULES

DOCS = Path(__file__).parents[1] / "docs"


def test_the_pages_are_up_to_date() -> None:
    proofs = json.loads((DOCS / PROOFS).read_text("utf-8"))["recipes"]
    assert (DOCS / "recipes.md").read_text("utf-8") == recipes_page(proofs), "run make docs"
    assert (DOCS / "rules.md").read_text("utf-8") == rules_page(), "run make docs"


def test_every_recipe_and_every_rule_has_its_line() -> None:
    page, rules = recipes_page({"llama3_405b": {"parsed": ["M"], "run": ["M"]}}), rules_page()
    assert all(f"| `{name}` |" in page for name in library.names())
    assert all(f"| `{rule.id}` |" in rules for rule in RULES)
    (line,) = [line for line in page.splitlines() if line.startswith("| `llama3_405b` |")]
    assert line.endswith("| M | - | - | M |")
