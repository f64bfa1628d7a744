"""``meshwright calibrate cluster=NAME rows=FILE.csv`` (or ``runs=[FOLDER,...]``): constants from one's own runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Fit, report the error with whole groups left out, and write ``cluster/NAME_calibrated.yaml``.

    It lies in the folder of ``--config-dir``, else here.
    """
    from meshwright.measured.calibrate import cluster_rows

    question = asked(words)
    name = _named(words.overrides)
    cluster = decode(Cluster, question.composed["cluster"], "cluster")
    rows, skipped = question.rows(cluster)
    rows, foreign = cluster_rows(rows, cluster)
    skipped += foreign
    _refuse_few(rows, len(rows) + len(skipped), [reason for _, _, reason in skipped])
    efficiency, errors = _fitted(rows, cluster.efficiency, question.name)
    folder = Path(words.config_dir or ".")
    path = _write(name, efficiency, folder)
    result = {
        "cluster": str(path),
        "choose": f"--config-dir {shlex.quote(str(folder))} cluster={path.stem}",
        "warnings": list(_warnings(len(rows))),
        "efficiency": vars(efficiency),
        "rows": len(rows),
        **errors,
        "skipped": [dict(zip(("row_id", "source", "reason"), skip, strict=True)) for skip in skipped],
    }
    _show(result, question.options.output)
    return 0


def _fitted(rows: Sequence[Row], former: Efficiency, name: str) -> tuple[Efficiency, dict[str, list[float]]]:
    """The constants, and the rows' errors in the fit and with their whole group left out."""
    from meshwright.measured.calibrate import fit, left_out

    fitted = fit(rows, start=former)
    kept_out = [float(e) for e in left_out(rows, start=former)] if _groups(rows) > 1 else []
    in_fit = [float(e) for e in fitted.errors]
    efficiency = _with_spread(fitted.efficiency, kept_out, in_fit, former.spread)
    alone = "" if kept_out else ", one group: the spread is no forecast's"
    efficiency = replace(efficiency, source=f"fitted on {len(rows)} rows of {name}{alone}")
    return efficiency, {"in_fit": in_fit, "left_out": kept_out}


def _show(result: Mapping[str, Any], output: str) -> None:
    from meshwright.report.print_json import print_json
    from meshwright.report.validation import calibration

    if output == "json":
        print_json(result)
        return
    print(f"wrote {result['cluster']}; use it with {result['choose']}")
    print(*calibration(result), sep="\n")


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


def _warnings(rows: int) -> Iterator[str]:
    from meshwright.measured.calibrate import BOUNDS

    if rows < len(BOUNDS):
        yield f"{rows} rows for {len(BOUNDS)} constants: what they do not tell stays near the cluster's own"


def _write(name: str, efficiency: Efficiency, folder: Path) -> Path:
    """Raises ConfigError where the file cannot be written, or was changed by hand since it was."""
    from meshwright.measured.calibrate import as_yaml

    path = folder / "cluster" / f"{Path(name).name}_calibrated.yaml"
    text = f"defaults:\n  - {name}\n  - _self_\n\nname: {path.stem}\n{as_yaml(efficiency)}"
    try:
        if path.exists() and not _ours(path.read_text(errors="replace")):
            message = f"{path} was changed since calibrate wrote it; move it away, it would be lost"
            raise ConfigError([Problem("cluster", message, "rows.edited")])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_mark(text)}{text}")
    except OSError as error:
        raise ConfigError(
            [Problem("cluster", f"cannot write {path}: {error}; run it elsewhere", "rows.write")]
        ) from None
    return path


def _mark(text: str) -> str:
    return f"# Written by meshwright calibrate: {sha256(text.encode()).hexdigest()[:12]}\n"


def _ours(text: str) -> bool:
    """Whether the first line still speaks of the rest."""
    mark, _, rest = text.partition("\n")
    return f"{mark}\n" == _mark(rest)
