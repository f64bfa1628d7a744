"""The documentation as a site: whole, from our files alone, and its commands are ones that meshwright takes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from browser import CHROMIUM, browser
from meshwright.compose import load
from meshwright.errors import ConfigError, Problem
from meshwright.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MISTAKES = ("decode.unknown", "compose.key", "compose.option", "compose.grammar")
"""The rules that a command breaks which was written down wrongly, or for another version."""

WITH_WORDS = ("plan", "compile", "export", "rehearse", "launch", "search", "report", "recipes", "validate", "calibrate")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it, with the picture of one recipe for the time that all take."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PICTURES": "smollm2_135m"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_and_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|link)[^>]*(?:src|href)="?(?:https?:)?//(?!squidfunk)[^>]*>""")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    assert not [found for page in pages for found in loads.findall(page.read_text())]


def test_a_recipe_has_its_picture(site: Path) -> None:
    assert 'src="smollm2_135m.svg"' in (site / "recipes" / "smollm2_135m.html").read_text()
    picture = (site / "recipes" / "smollm2_135m.svg").read_text()
    assert "GiB usable" in picture
    assert len(picture) < 40_000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is chromium")
def test_the_search_works_from_a_disk(site: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as tab:
        tab.send("Page.navigate", url=(site / "index.html").as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelector('.md-search__input')")
        tab.run("document.querySelector('.md-search__input').focus()")
        tab.send("Input.insertText", text="roofline")
        tab.wait("document.querySelector('.md-search-result__item')")
        assert tab.text(".md-search-result__item h1") == "The page"
        assert tab.errors == []
        assert not [url for url in tab.requests if not url.startswith(("file:", "data:"))]


def commands() -> list[list[str]]:
    """Every command in the pages, its words split; continued lines are joined, remarks left out."""
    text = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    found = re.findall(r"^ +(?:\$ )?meshwright +(.+)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in dict.fromkeys(found)]


def test_every_command_of_the_pages_begins_with_a_verb() -> None:
    assert len(commands()) > 30
    assert {words[0] for words in commands()} <= {*VERBS, "VERB"}


@pytest.mark.parametrize("words", [c for c in commands() if c[0] in WITH_WORDS], ids=" ".join)
def test_keys_and_options_of_the_pages_exist(words: list[str]) -> None:
    """Values that stand for a user's own (a folder, NAME) may be missing here; a key or an option may not."""
    keys = [re.sub(r"^\[(.*)\]$", r"\1", word) for word in words[1:] if "=" in word and " " not in word]
    plain = [word for word in keys if not re.search(r"NAME|\.\.\.|=[^\[{]*,", word)]
    assert not [str(problem) for problem in problems(plain) if problem.rule in MISTAKES]


def problems(words: list[str]) -> tuple[Problem, ...]:
    """What is wrong with them."""
    try:
        load(words, search=True)
    except ConfigError as error:
        return error.problems
    return ()
