"""``meshwright calibrate cluster=NAME rows=FILE.csv`` (or ``runs=[FOLDER,...]``): constants from one's own runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from meshwright.errors import ConfigError, Problem
from meshwright.spec import Cluster, Efficiency
from meshwright.spec.decode import decode
from meshwright.verbs import Words
from meshwright.verbs.validate import asked

if TYPE_CHECKING:
    from meshwright.measured.rows import Row

__all__ = ["run"]

_FEWEST = 3


def run(words: Words) -> int:
    """Fit, report the error with whole groups left out, and write ``<cluster>_calibrated.yaml`` here."""
    from meshwright.measured.calibrate import cluster_rows, fit, left_out
    from meshwright.report.print_json import print_json
    from meshwright.report.validation import calibration

    question = asked(words)
    name = _named(words.overrides)
    cluster = decode(Cluster, question.composed["cluster"], "cluster")
    rows, skipped = question.rows(cluster)
    rows, foreign = cluster_rows(rows, cluster)
    skipped += foreign
    _refuse_few(rows, len(rows) + len(skipped), [reason for _, _, reason in skipped])
    fitted = fit(rows, start=cluster.efficiency)
    kept_out = [float(e) for e in left_out(rows, start=cluster.efficiency)] if _groups(rows) > 1 else []
    efficiency = _with_spread(fitted.efficiency, kept_out, [float(e) for e in fitted.errors], cluster.efficiency.spread)
    alone = "" if kept_out else ", one group: the spread is no forecast's"
    source = f"fitted on {len(rows)} rows of {question.name}{alone}"
    efficiency = replace(efficiency, source=source)
    path = _write(name, efficiency)
    result = {
        "cluster": str(path),
        "efficiency": vars(efficiency),
        "rows": len(rows),
        "in_fit": [float(e) for e in fitted.errors],
        "left_out": kept_out,
        "skipped": [dict(zip(("row_id", "source", "reason"), skip, strict=True)) for skip in skipped],
    }
    if question.options.output == "json":
        print_json(result)
    else:
        print(f"{path}: put it in conf/cluster of a --config-dir and choose cluster={path.stem}")
        print(*calibration(result), sep="\n")
    return 0


def _named(overrides: Sequence[str]) -> str:
    name = next((word.partition("=")[2] for word in overrides if word.startswith("cluster=")), None)
    if name is None:
        missing = "not set; give cluster=NAME, whose constants are fitted"
        raise ConfigError([Problem("cluster", missing, "rows.cluster")])
    return name


def _refuse_few(rows: Sequence[Row], records: int, reasons: Sequence[str]) -> None:
    if len(rows) >= _FEWEST:
        return
    most = f"; most often: {max(reasons, key=reasons.count)}" if reasons else ""
    message = f"{len(rows)} of {records} rows can be fitted{most}; give at least {_FEWEST}"
    raise ConfigError([Problem("rows", message, "rows.few")])


def _groups(rows: Sequence[Row]) -> int:
    return len({row.group for row in rows})


def _with_spread(
    efficiency: Efficiency, kept_out: Sequence[float], in_fit: Sequence[float], former: float
) -> Efficiency:
    """The spread of groups that no fit saw; where there is but one group, its own rows cannot narrow the former."""
    from meshwright.measured.validate import spread

    return replace(efficiency, spread=spread(kept_out) if kept_out else max(former, spread(in_fit)))


def _write(name: str, efficiency: Efficiency) -> Path:
    from meshwright.measured.calibrate import as_yaml

    path = Path(f"{Path(name).name}_calibrated.yaml")
    text = f"defaults:\n  - {name}\n  - _self_\n\nname: {path.stem}\n{as_yaml(efficiency)}"
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(
            [Problem("cluster", f"cannot write {path}: {error}; run it elsewhere", "rows.write")]
        ) from None
    return path
