"""What README.md says that commands print, they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshwright.cli import main

README = Path(__file__).parents[1] / "README.md"


def shown() -> Iterator[tuple[str, list[str]]]:
    """Commands with the lines below them; ``...`` stands for what is left out."""
    for block in re.findall(r"^    \$ (.+\n(?:    .*\n)*)", README.read_text(), re.MULTILINE):
        command, *lines = block.splitlines()
        yield command.strip(), [line.strip() for line in lines]


@pytest.mark.parametrize(("command", "lines"), shown(), ids=lambda value: value if isinstance(value, str) else "")
def test_it_prints_what_is_shown(command: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = command.split()
    assert program == "meshwright"
    main(words)
    out, err = capsys.readouterr()
    printed = [line.strip() for line in (out + err).splitlines()]
    said = [line.removesuffix("...").rstrip() for line in lines if line != "..."]
    at = -1
    for line in said:
        at = next((n for n in range(at + 1, len(printed)) if printed[n].startswith(line)), len(printed))
        assert at < len(printed), line


def test_something_is_shown() -> None:
    assert len([*shown()]) >= 2
