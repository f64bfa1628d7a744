"""``meshwright validate``: our error on measured runs, ``rows=FILE.csv`` or ``runs=[FOLDER,...]``."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.compose import Options, compose
from meshwright.errors import ConfigError, Problem
from meshwright.spec import Cluster
from meshwright.spec.decode import decode
from meshwright.spec.frozen import dataclass
from meshwright.verbs import Words

if TYPE_CHECKING:
    from meshwright.measured.rows import Row

__all__ = ["Asked", "asked", "run"]

MISSING = "not set; give rows=FILE.csv, columns as in docs/cost.md, or runs=[FOLDER,...] of runs that trained"


@dataclass(frozen=True)
class Asked:
    """What the words name: measurements, as records of a CSV file or as run folders."""

    options: Options
    records: tuple[Mapping[str, str], ...]
    folders: tuple[Path, ...]
    composed: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Where the measurements are, for people."""
        files = [Path(self.options.rows).name] if self.options.rows else []
        return " and ".join([*files, *[f"{len(self.folders)} run folders"] * bool(self.folders)])

    def rows(self, cluster: Cluster | None = None) -> tuple[list[Row], list[tuple[str, str, str]]]:
        """The rows that can be expressed, on ``cluster`` where given; (row, source, reason) of the others."""
        from meshwright.measured.rows import usable
        from meshwright.measured.runs import rows_of

        rows, skipped = usable(self.records, cluster)
        ran, silent = rows_of(self.folders, cluster)
        return [*rows, *ran], [*skipped, *silent]


def run(words: Words) -> int:
    """Print errors by source, or with output=json every row."""
    from meshwright.measured.validate import document
    from meshwright.report.print_json import print_json
    from meshwright.report.validation import show

    question = asked(words)
    result = document(*question.rows())
    if question.options.output == "json":
        print_json(result)
    else:
        show(result)
    return 0 if result["rows"] else 1  # nothing was judged


def asked(words: Words) -> Asked:
    """The measurements that ``words`` name.

    Raises:
        ConfigError: where ``rows`` names no readable CSV file with the columns that every row needs, ``runs`` no
            run folder, or the words neither.

    """
    composed = compose(words.overrides, words.config_dir)
    given = _folders(composed["runs"]) if any(word.startswith("runs=") for word in words.overrides) else ()
    names = set(Options.__dataclass_fields__) - {"runs"}  # here it lists folders
    options = decode(Options, {key: value for key, value in composed.items() if key in names})
    if options.rows is None and not given:
        raise ConfigError([Problem("rows", MISSING, "rows.missing")])
    records = _records(options.rows) if options.rows is not None else []
    return Asked(options, tuple(records), _runs(given), composed)


def _folders(given: object) -> tuple[Path, ...]:
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(Path(str(folder)) for folder in listed)


def _runs(given: Sequence[Path]) -> tuple[Path, ...]:
    if not given:
        return ()
    from meshwright.measured.runs import folders_in

    return tuple(folders_in(given))


def _records(name: str) -> list[dict[str, str]]:
    from meshwright.measured.rows import read

    try:
        records = read(Path(name))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            [Problem("rows", f"cannot read {name}: {getattr(error, 'strerror', None) or error}", "rows.file")]
        ) from None
    if not records:
        empty = f"{name} has no rows; give a line of column names and below it one for each run"
        raise ConfigError([Problem("rows", empty, "rows.empty")])
    sizes = set() if "model" in records[0] else {"layers", "hidden"}  # which a model known by name has
    missing = {"gpu", "seq", "mbs", "gbs"} | sizes
    missing -= set(records[0])
    if missing:
        raise ConfigError([Problem("rows", f"{name} lacks {', '.join(sorted(missing))}", "rows.columns")])
    return records
