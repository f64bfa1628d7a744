"""The file itself: templates filled, style and scripts inlined, and a policy under which nothing else runs or loads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from meshwright.cost.memory import GIB
from meshwright.report.cost import PARTS
from meshwright.report.page.charts import data
from meshwright.report.page.compare import differences, parts, short_titles
from meshwright.report.page.rows import ROWS, points
from meshwright.report.page.subject import Subject
from meshwright.report.page.verdict import verdict
from meshwright.report.page.words import FILTERS, MEMORY
from meshwright.spec.frozen import dataclass

__all__ = ["Page", "asset", "html", "packed", "templates"]

VENDOR = ("vendor/d3-7.9.2.min.js", "vendor/plot-0.6.17.min.js")
OURS = ("theme.js", "ranks.js", "schedule.js", "charts.js", "tables.js", "main.js")


@dataclass(frozen=True)
class Page:
    """One or several subjects; the answers of a search (``report.search.document``), where it was one."""

    subjects: Sequence[Subject]
    searches: Sequence[Mapping[str, Any]] = ()
    title: str = "meshwright"
    notes: Sequence[str] = ()


def html(page: Page) -> str:
    """The whole page. The same page gives the same text."""
    scripts = [asset(name) for name in VENDOR] + [_ours()]
    return (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            version=version("meshwright"),
            policy=_policy(scripts),
            style=Markup(asset("page.css")),
            scripts=[Markup(text) for text in scripts],
            data=packed(_drawn(page)),
            differences=differences(page.subjects) if len(page.subjects) > 1 else [],
            titles=short_titles(page.subjects),
            words=PARTS,
            memory=MEMORY,
        )
    )


def _drawn(page: Page) -> dict[str, Any]:
    return {
        "subjects": data(page.subjects),
        "parts": list(parts(page.subjects)) if len(page.subjects) > 1 else [],
        "searches": [
            {"points": points(search), "limit": one.cost.memory_limit / GIB}
            for search, one in zip(page.searches, page.subjects, strict=False)
        ],
        "words": PARTS,
        "memory": MEMORY,
    }


def _policy(scripts: Sequence[str]) -> str:
    """Our own scripts by their digests, our own style, nothing from anywhere else."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    refused = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:"
    return f"{refused}; script-src {allowed}; style-src 'unsafe-inline'"


def packed(value: object) -> str:
    """JSON, compressed (RFC 1950) and in base64: passes of a schedule repeat, and no name can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


@cache
def templates() -> Environment:
    """Ours, everything escaped that is not ours."""
    environment = Environment(
        loader=FunctionLoader(lambda name: re.sub("^ +", "", asset(name), flags=re.MULTILINE)),  # pages are smaller so
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**FILTERS, **ROWS, "verdict": verdict}
    return environment


@cache
def _ours() -> str:
    """Our scripts as one, whose names nothing else sees."""
    return "(() => {\n'use strict';\n" + "\n".join(asset(name) for name in OURS) + "\n})();"


@cache
def asset(name: str) -> str:
    """The text of a file in assets/."""
    return files("meshwright.report.page").joinpath("assets", *name.split("/")).read_text("utf-8")
