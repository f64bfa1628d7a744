"""``meshwright plan``: resolve and explain; writes nothing."""

from __future__ import annotations

from meshwright.compose import load
from meshwright.resolver import resolve
from meshwright.verbs import Words

__all__ = ["run"]


def run(words: Words) -> int:
    """Print each stage's plan."""
    asked = load(words.overrides, words.config_dir)
    plans = [resolve(spec) for spec in asked.stages]
    if asked.options.output == "json":
        from meshwright.report.summary import print_json, run_summary

        print_json(run_summary(asked.name, plans))
    else:
        from meshwright.cost import cost
        from meshwright.report.cost import show_cost
        from meshwright.report.plan import show

        for plan in plans:
            show(plan)
            show_cost(cost(plan))
    return 0
