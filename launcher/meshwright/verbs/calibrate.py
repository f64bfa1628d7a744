"""``meshwright calibrate rows=FILE.csv cluster=NAME``: a cluster's constants from one's own runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.verbs import Words
from meshwright.verbs.validate import options_and_rows

__all__ = ["run"]

_FEWEST = 3


def run(words: Words) -> int:
    """Fit, report the error with whole groups left out, and write ``<cluster>_calibrated.yaml`` here."""
    from meshwright.cost.calibrate import as_yaml, cluster_rows, fit, left_out
    from meshwright.cost.validate import spread
    from meshwright.report.summary import print_json
    from meshwright.report.validation import statistics_line

    options, records = options_and_rows(words)
    name = next((o.partition("=")[2] for o in words.overrides if o.startswith("cluster=")), None)
    if name is None:
        raise ConfigError(
            [Problem("cluster", "not set; give cluster=NAME, whose constants are fitted", "rows.cluster")]
        )
    rows = cluster_rows(records, name)
    if len(rows) < _FEWEST:
        message = f"{len(rows)} of {len(records)} rows have a step time and can be expressed; give at least {_FEWEST}"
        raise ConfigError([Problem("rows", message, "rows.few")])
    fitted = fit(rows, start=rows[0].spec.cluster.efficiency)
    kept_out = left_out(rows, start=rows[0].spec.cluster.efficiency)
    known = [float(e) for e in (kept_out if kept_out[0] == kept_out[0] else fitted.errors)]
    source = f"fitted on {len(rows)} rows of {Path(str(options.rows)).name}"
    efficiency = replace(fitted.efficiency, spread=spread(known), source=source)
    path = Path(f"{name}_calibrated.yaml")
    path.write_text(f"defaults:\n  - {name}\n  - _self_\n\nname: {name}_calibrated\n{as_yaml(efficiency)}")
    if options.output == "json":
        print_json({"cluster": str(path), "efficiency": vars(efficiency), "rows": len(rows), "left_out": known})
    else:
        print(f"{path}: put it in conf/cluster of a --config-dir and choose cluster={path.stem}")
        print(statistics_line("in the fit", [float(e) for e in fitted.errors]))
        if len({row.group for row in rows}) > 1:
            print(statistics_line("each group left out", known))
    return 0
