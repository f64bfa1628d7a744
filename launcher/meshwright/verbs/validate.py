"""``meshwright validate rows=FILE.csv``: our error on measured runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwright.compose import Options, compose
from meshwright.errors import ConfigError, Problem
from meshwright.spec.decode import decode
from meshwright.verbs import Words

__all__ = ["options_and_rows", "run"]


def run(words: Words) -> int:
    """Print errors by source, or with output=json every row."""
    from meshwright.measured.validate import document
    from meshwright.report.print_json import print_json
    from meshwright.report.validation import show

    options, records, _ = options_and_rows(words)
    result = document(records)
    if options.output == "json":
        print_json(result)
    else:
        show(result)
    return 0


def options_and_rows(words: Words) -> tuple[Options, list[dict[str, str]], Mapping[str, Any]]:
    """The options, the records of ``rows``, and all that Hydra composed.

    Raises:
        ConfigError: where ``rows`` names no readable CSV file with the columns that every row needs.

    """
    composed = compose(words.overrides, words.config_dir)
    names = Options.__dataclass_fields__
    options = decode(Options, {key: value for key, value in composed.items() if key in names})
    if options.rows is None:
        raise ConfigError([Problem("rows", "not set; give rows=FILE.csv, columns as in docs/cost.md", "rows.missing")])
    return options, _records(options.rows), composed


def _records(name: str) -> list[dict[str, str]]:
    from meshwright.measured.rows import read

    try:
        records = read(Path(name))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem("rows", f"cannot read {name}: {error}", "rows.file")]) from None
    if not records:
        empty = f"{name} has no rows; give a line of column names and below it one for each run"
        raise ConfigError([Problem("rows", empty, "rows.empty")])
    missing = {"gpu", "layers", "hidden", "seq", "mbs", "gbs"} - set(records[0])
    if missing:
        raise ConfigError([Problem("rows", f"{name} lacks {', '.join(sorted(missing))}", "rows.columns")])
    return records
