"""``meshwright check FILE...``: what a file that you have would do; 0 fine, 1 warnings (``strict=true``), 2 refused."""

from __future__ import annotations

from meshwright.imports.check import checked
from meshwright.verbs import Words
from meshwright.verbs.foreign import foreign

__all__ = ["run"]

OPTIONS = {"output": ("text", "json", "markdown", "github"), "strict": ("true", "false")}


def run(words: Words) -> int:
    """Import, rules, cost and advice; nothing is executed or written."""
    from meshwright.report import imports
    from meshwright.report.print_json import print_json

    asked = foreign(words, "check", OPTIONS)
    strict, output = asked.options.get("strict") == "true", asked.options.get("output", "text")
    result = checked(asked.imported, asked.overrides, words.config_dir)
    if output == "json":
        print_json(imports.document(result, strict))
    elif output == "text":
        imports.show(result)
    else:
        print(*(imports.markdown(result) if output == "markdown" else imports.github(result.said)), sep="\n")
    return result.code(strict)
