"""``meshwright recipes``: the library, each value with its source, and the audit."""

from __future__ import annotations

from meshwright import library
from meshwright.audit import audit
from meshwright.compose import load
from meshwright.report.recipe_summary import summary
from meshwright.verbs import Words

__all__ = ["run"]


def run(words: Words) -> int:
    """List the library, or show one recipe (``recipe=NAME``) value by value; contradictions are no failure."""
    name = _chosen(words)
    if name is None:
        return _all(load(words.overrides, words.config_dir).options.output)
    asked = load(words.overrides, words.config_dir)
    output = asked.options.output
    recipe = library.recipe(name, words.config_dir)
    findings = audit(recipe, asked)
    if output == "json":
        from meshwright.report.summary import print_json

        print_json(summary(recipe, asked, findings, values=True))
    else:
        from meshwright.report.recipes import show_one

        show_one(recipe, findings)
    return 0


def _chosen(words: Words) -> str | None:
    """The recipe that the words choose last."""
    chosen = [word.partition("=")[2] for word in words.overrides if word.startswith("recipe=")]
    return chosen[-1] if chosen else None


def _all(output: str) -> int:
    rows = []
    for name in library.names():
        recipe, asked = library.recipe(name), library.run(name)
        rows.append(summary(recipe, asked, audit(recipe, asked)))
    if output == "json":
        from meshwright.report.summary import print_json

        print_json({"recipes": rows})
    else:
        from meshwright.report.recipes import show_all

        show_all(rows)
    return 0
