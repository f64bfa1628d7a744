"""MkDocs' hooks: each recipe's page gets a picture, drawn while the site is built, so that none lies in the repository.

The variable ``PICTURES`` names the recipes that get one, with commas between; as it stands, all do.
"""

from __future__ import annotations

import os
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from meshwright.documents.pictures import pictures
from meshwright.library import files as library

FIRST = re.compile(r"^## ", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Draw them."""
    asked = os.environ.get("PICTURES")
    for name, text in pictures(library.names() if asked is None else asked.split(",")).items():
        files.append(File.generated(config, f"recipes/{name}.svg", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Show a recipe's before the first heading."""
    name = page.file.src_uri.removeprefix("recipes/").removesuffix(".md")
    if files.get_file_from_path(f"recipes/{name}.svg") is None:
        return markdown
    return FIRST.sub(f"![What fills the memory of each pipeline stage of {name}]({name}.svg)\n\n## ", markdown, count=1)
