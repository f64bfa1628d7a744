"""``meshwright recipes``: the library, each value with its source, and the audit."""

from __future__ import annotations

from importlib.util import find_spec

from meshwright.library import files as library
from meshwright.library.audit import audit
from meshwright.library.finding import Finding, compare
from meshwright.loading import load
from meshwright.model.count import total_parameters
from meshwright.report.recipe_summary import summary
from meshwright.spec import Model
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
    findings = (*audit(recipe, asked), *(_against_transformers(asked.stages[0].model) if asked.options.verify else ()))
    if output == "json":
        from meshwright.report.print_json import print_json

        print_json(summary(recipe, asked, findings, values=True))
    else:
        from meshwright.report.recipes import show_one

        show_one(recipe, library.unstated(recipe, asked), findings)
    return 0


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


def _all(output: str) -> int:
    rows = []
    for name in library.names():
        recipe, asked = library.recipe(name), library.run(name)
        rows.append(summary(recipe, asked, audit(recipe, asked)))
    if output == "json":
        from meshwright.report.print_json import print_json

        print_json({"recipes": rows})
    else:
        from meshwright.report.recipes import show_all

        show_all(rows)
    return 0
