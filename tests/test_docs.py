"""The documents run: blocks of Python and of the command line are executed, outputs compared, links followed.

In a file all ```python blocks share one namespace and run in order, in an empty folder; "```python no-run" is skipped.
A ```text block right after one is what it prints. In ```sh blocks the lines that begin with `sparselmm` run.
"""

import re
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest
from typer.testing import CliRunner

import sparselmm as slm
from sparselmm.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
ROUNDING = 1.01  # units of the last printed digit: rounding may fall either way


@dataclass(frozen=True)
class Block:
    kind: str
    body: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(m["kind"].strip(), m["body"], text.count("\n", 0, m.start()) + 2) for m in BLOCK.finditer(text)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def runnable(path: Path) -> bool:
    return any(b.kind == "python" or commands(b) for b in blocks(path))


def commands(block: Block) -> list[str]:
    lines = block.body.splitlines() if block.kind == "sh" else []
    return [line for line in lines if line.startswith("sparselmm ")]


def printed_by(block: Block, path: Path, namespace: dict) -> str:
    code = compile("\n" * (block.line - 1) + block.body, name(path), "exec")
    out = StringIO()
    with redirect_stdout(out):
        exec(code, namespace)
    return out.getvalue()


def tokens(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("Seconds")]
    return "\n".join(lines).split()


def same(expected: str, found: str) -> bool:
    """Equal, or numbers that agree to the digits that `expected` shows."""
    if expected == found:
        return True
    if not (NUMBER.fullmatch(expected) and NUMBER.fullmatch(found)):
        return False
    mantissa, _, exponent = expected.replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(expected.replace(",", "")) - float(found.replace(",", ""))) <= ROUNDING * unit


def assert_prints(expected: str, found: str, where: str) -> None:
    wanted, got = tokens(expected), tokens(found)
    agree = len(wanted) == len(got) and all(same(a, b) for a, b in zip(wanted, got, strict=True))
    assert agree, f"{where} prints\n{found}\nand not\n{expected}"


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if runnable(p)], ids=name)
def test_code_of_document(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    document = ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", document)  # so that its classes can be pickled
    printed = None
    for block in blocks(path):
        where = f"{name(path)}:{block.line}"
        if block.kind == "text" and printed is not None:
            assert_prints(block.body, printed, where)
        printed = printed_by(block, path, vars(document)) if block.kind == "python" else None
        for command in commands(block):
            result = CliRunner().invoke(app, shlex.split(command)[1:])
            assert result.exit_code == 0, f"{where}: {command}\n{result.output}"
            printed = result.output


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links(path):
    for target in LINK.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{name(path)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{name(path)} links to {target}: no such heading"


def anchors(path: Path) -> set[str]:
    headings = HEADING.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_document_is_on_the_map():
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / t.partition("#")[0]).resolve() for t in LINK.findall(index.read_text())}
    missing = [name(p) for p in DOCUMENTS if p.is_relative_to(index.parent) and p != index and p not in linked]
    assert missing == []


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    public = [n for n in [*slm.__all__, *vars(slm.Fit), *vars(slm.LinearMixedModel)] if not n.startswith("_")]
    assert [n for n in public if not re.search(rf"\b{n}\b", text)] == []


@pytest.mark.parametrize(
    ("expected", "found", "equal"),
    [("1.50", "1.5049", True), ("1.50", "1.52", False), ("1,743.6", "1743.63", True), ("a", "b", False)],
)
def test_printed_numbers_agree_to_their_digits(expected, found, equal):
    assert same(expected, found) is equal
