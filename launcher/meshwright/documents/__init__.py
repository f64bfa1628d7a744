"""The generated pages of docs/: what the library, the rules and the clusters say now."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from meshwright.documents.clusters import clusters_page
from meshwright.documents.index import index_page
from meshwright.documents.models import Models, models_page
from meshwright.documents.options import options_page
from meshwright.documents.recipe import recipe_page
from meshwright.documents.recipes import Proofs, recipes_page
from meshwright.documents.rehearsals import Rehearsals, rehearsals_page
from meshwright.documents.rules import rules_page
from meshwright.library import files as library
from meshwright.library.audit import audit
from meshwright.library.traits import traits
from meshwright.report.recipe_summary import summary

__all__ = ["MODELS", "PROOFS", "REHEARSALS", "pages", "write"]

PROOFS = "proofs.json"
"""Beside the pages: which proofs each recipe has passed, written by ``pytest tests/test_proofs.py --regenerate``."""


MODELS = "models.json"
"""Likewise: what was found of each model of transformers, written by benchmarks/models_table.py."""


REHEARSALS = "rehearsals.json"
"""Likewise: what was trained in miniature, written by benchmarks/rehearsals.py."""


def pages(proofs: Proofs, models: Models, rehearsals: Rehearsals, names: Iterable[str] | None = None) -> dict[str, str]:
    """Every generated page by its path in docs/; with ``names``, as if these were all recipes."""
    recipes = {name: library.recipe(name) for name in (library.names() if names is None else names)}
    runs = {name: library.runs(name) for name in recipes}
    found = {name: [one for run in runs[name] for one in audit(recipe, run)] for name, recipe in recipes.items()}
    rows = [summary(recipe, runs[name], found[name]) for name, recipe in recipes.items()]
    whole = {name: summary(recipe, runs[name], found[name], values=True) for name, recipe in recipes.items()}
    return {
        "recipes.md": recipes_page(rows, proofs),
        "rules.md": rules_page(),
        "clusters.md": clusters_page(),
        "models.md": models_page(models),
        "rehearsals.md": rehearsals_page(rehearsals),
        "options.md": options_page(),
        "recipes/index.md": index_page({name: traits(recipe, runs[name]) for name, recipe in recipes.items()}),
        **{
            f"recipes/{name}.md": recipe_page(recipe, runs[name], whole[name], proofs.get(name, {}))
            for name, recipe in recipes.items()
        },
    }


def write(folder: Path) -> None:
    """Write every generated page into ``folder``, and remove those whose recipe is gone."""
    files = (json.loads((folder / name).read_text("utf-8")) for name in (PROOFS, MODELS, REHEARSALS))
    proofs, models, rehearsals = files
    written = pages(proofs["recipes"], models, rehearsals)
    (folder / "recipes").mkdir(exist_ok=True)
    for path, text in written.items():
        (folder / path).write_text(text, "utf-8")
    for page in (folder / "recipes").glob("*.md"):
        if f"recipes/{page.name}" not in written:
            page.unlink()
