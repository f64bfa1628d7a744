"""``meshwright data``: text -> indexed dataset, with a progress bar; what was cut off goes on."""

from __future__ import annotations

from meshwright.corpus.tokenize import job, tokenize
from meshwright.loading import load
from meshwright.verbs import Words

__all__ = ["run"]


def run(words: Words) -> int:
    """Tokenize ``data.input`` into ``data.prefix``."""
    from rich.console import Console
    from rich.progress import Progress

    asked = load(words.overrides, words.config_dir)
    options, tokenizer = asked.options, asked.stages[0].training.data.tokenizer
    work = job(options.data, tokenizer)
    with Progress(console=Console(stderr=True), transient=options.output == "json") as bar:
        task = bar.add_task("tokenizing", total=len(work.parts))
        tokens = tokenize(work, lambda done, total: bar.update(task, completed=done, total=total))
    if options.output == "json":
        from meshwright.report.print_json import print_json

        print_json({"prefix": str(work.prefix), "tokens": tokens})
    else:
        print(f"{work.prefix}.bin and .idx: {tokens:,} tokens; use them with training.data.paths=[{work.prefix}]")
    return 0
