"""Hooks of mkdocs: the documents of the top level are pages of the site too, and links to and from them hold."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP_LEVEL = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")
FOLDER = "project"
TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")
OUT_OF_DOCS = re.compile(rf"\]\(\.\./((?:\.\./)*)({'|'.join(map(re.escape, TOP_LEVEL))})")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents of the top level as pages in `project/`."""
    for name in TOP_LEVEL:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"{FOLDER}/{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """What a code host reads otherwise: links out of docs/, `python no-run` blocks, escaped bars in code in tables."""
    markdown = markdown.replace("```python no-run", "```python")
    markdown = TABLE_ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), markdown)
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return markdown.replace("](docs/", "](../")
    return OUT_OF_DOCS.sub(rf"](\1{FOLDER}/\2", markdown)
