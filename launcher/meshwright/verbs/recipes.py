"""``meshwright recipes``: the library, each value with its source, and the audit."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from meshwright.compose import Listing, Run
from meshwright.library import files as library
from meshwright.library.audit import audit
from meshwright.library.finding import Finding, compare
from meshwright.library.recipe import Recipe
from meshwright.library.traits import listed, traits
from meshwright.loading import load
from meshwright.model.count import total_parameters
from meshwright.report.recipe_summary import summary
from meshwright.spec import Model
from meshwright.verbs import Words

__all__ = ["run"]


def run(words: Words) -> int:
    """List the library, or show one recipe (``recipe=NAME``) value by value; contradictions are no failure."""
    name = _chosen(words)
    asked = load(words.overrides, words.config_dir)
    if name is None:
        return _all(asked.options.output, asked.options.recipes)
    recipe = library.recipe(name, words.config_dir)
    runs = _variants(recipe, asked, words)
    findings = [finding for one in runs for finding in audit(recipe, one)]
    findings += _against_transformers(asked.stages[0].model) if asked.options.verify else ()
    if asked.options.output == "json":
        from meshwright.report.print_json import print_json

        print_json(summary(recipe, runs, findings, values=True))
    else:
        from meshwright.report.recipes import show_one

        show_one(recipe, library.unstated(recipe, asked), tuple(dict.fromkeys(findings)))
    return 0


def _variants(recipe: Recipe, asked: Run, words: Words) -> list[Run]:
    """The run of each variant, or of the one that is chosen."""
    if asked.options.variant is not None or len(recipe.variants) == 1:
        return [asked]
    return [load([*words.overrides, f"variant={name}"], words.config_dir) for name in recipe.variants]


def _against_transformers(model: Model) -> tuple[Finding, ...]:
    """Our count of parameters against the model that transformers builds, where both are there."""
    from meshwright.emit.huggingface import config, mismatches

    if find_spec("transformers") is None or mismatches(model):
        return ()
    from meshwright.verify.transformers import count

    theirs = count(config(model))
    return (compare("transformers", float(theirs), float(total_parameters(model)), "every weight, tied ones once"),)


def _chosen(words: Words) -> str | None:
    """The recipe that the words choose last."""
    chosen = [word.partition("=")[2] for word in words.overrides if word.startswith("recipe=")]
    return chosen[-1] if chosen else None


def _all(output: str, wanted: Listing) -> int:
    runs: Mapping[str, tuple[Run, ...]] = {name: library.runs(name) for name in library.names()}
    recipes = {name: library.recipe(name) for name in runs}
    names = listed({name: traits(recipe, runs[name]) for name, recipe in recipes.items()}, wanted)
    rows = []
    for name in names:
        findings = [finding for one in runs[name] for finding in audit(recipes[name], one)]
        rows.append(summary(recipes[name], runs[name], findings))
    if output == "json":
        from meshwright.report.print_json import print_json

        print_json({"recipes": rows})
    else:
        from meshwright.report.recipes import show_all

        show_all(rows)
    return 0
