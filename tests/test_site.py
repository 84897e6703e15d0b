"""The site: every document is in its navigation, and it builds without a warning where mkdocs is installed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("mkdocs", "material", "mkdocstrings_handlers")
NAV_ENTRY = re.compile(r": ([\w/-]+\.md)$", re.MULTILINE)


def test_every_document_is_in_the_navigation_once():
    entries = NAV_ENTRY.findall((ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2])
    pages = [entry for entry in entries if not entry.startswith("project/")]
    documents = [p.relative_to(ROOT / "docs").as_posix() for p in ROOT.glob("docs/**/*.md")]
    assert sorted(pages) == sorted(documents)


@pytest.mark.skipif(not all(map(importlib.util.find_spec, TOOLS)), reason="pip install 'sparselmm[docs]'")
def test_site_builds_without_warnings(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "tutorials" / "sleepstudy.html").exists()
    structures = (tmp_path / "site" / "reference" / "structures.html").read_text(encoding="utf-8")
    assert 'id="sparselmm.structures.Precision"' in structures
