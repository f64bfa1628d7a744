"""``meshwright validate rows=FILE.csv``: our error on measured runs."""

from __future__ import annotations

from pathlib import Path

from meshwright.compose import Options, compose
from meshwright.decode import decode
from meshwright.errors import ConfigError, Problem
from meshwright.verbs import Words

__all__ = ["options_and_rows", "run"]


def run(words: Words) -> int:
    """Print errors by source, or with output=json every row."""
    from meshwright.cost.validate import document
    from meshwright.report.summary import print_json
    from meshwright.report.validation import show

    options, records = options_and_rows(words)
    result = document(records)
    if options.output == "json":
        print_json(result)
    else:
        show(result)
    return 0


def options_and_rows(words: Words) -> tuple[Options, list[dict[str, str]]]:
    """The options, and the records of ``rows``.

    Raises:
        ConfigError: where ``rows`` names no readable CSV file with the columns that every row needs.

    """
    from meshwright.cost.rows import read

    composed = compose(words.overrides, words.config_dir)
    names = Options.__dataclass_fields__
    options = decode(Options, {key: value for key, value in composed.items() if key in names})
    if options.rows is None:
        raise ConfigError([Problem("rows", "not set; give rows=FILE.csv, columns as in docs/cost.md", "rows.missing")])
    try:
        records = read(Path(options.rows))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("rows", f"cannot read {options.rows}: {error}", "rows.file")]) from None
    missing = {"gpu", "layers", "hidden", "seq", "mbs", "gbs"} - set(records[0] if records else ())
    if missing:
        raise ConfigError([Problem("rows", f"{options.rows} lacks {', '.join(sorted(missing))}", "rows.columns")])
    return options, records
