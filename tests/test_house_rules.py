"""The rules that keep the package easy to read and safe to change, checked on its source text."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sparselmm

ROOT = Path(sparselmm.__file__).parent
LONGEST_FUNCTION, LONGEST_FILE = 80, 500
# DESIGN section 6: a module imports from its own row and from lower ones; rows of single modules by their name
LAYERS = {
    **dict.fromkeys(["_typing", "_errors", "_tables"], 0),
    **dict.fromkeys(["kernels"], 1),
    **dict.fromkeys(["structures", "engines", "closed_form", "datasets"], 2),
    **dict.fromkeys(["terms"], 3),
    **dict.fromkeys(["banded", "mapping"], 3),
    **dict.fromkeys(["fixed", "designs"], 3.5),
    **dict.fromkeys(["projected"], 3.75),
    **dict.fromkeys(["formula", "equations"], 4),
    **dict.fromkeys(["coefficients", "marginal", "parameters", "residual_score", "likelihood", "dense", "start"], 5),
    **dict.fromkeys(["optimize"], 6),
    **dict.fromkeys(["charts", "search", "turning", "fitting"], 6.5),
    **dict.fromkeys(["results"], 7),
    **dict.fromkeys(["many"], 7.5),
    **dict.fromkeys(["inference"], 8),
    **dict.fromkeys(["scanning"], 8.5),
    **dict.fromkeys(["report", "plots"], 9),
    **dict.fromkeys(["multi"], 9.5),
    **dict.fromkeys(["api", "cli", "__init__", "__main__"], 10),
}
ALONE = {"closed_form": {"_errors", "_typing"}, "datasets": {"_errors"}}
ALONE |= {name: set() for name in ("_errors", "_typing", "_tables")}
SIBLINGS = [("formula", "equations"), ("report", "plots")]
LATE = {"results": {"inference", "report"}}  # thin accessors: the import stands inside the method


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below `sparselmm`."""
    paths = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def layer(module: str) -> str:
    return module.split(".")[0]


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """What a module imports, dotted from the top, and whether inside a function or for type checkers only."""
    package = ["sparselmm", *module.split(".")[:-1]]
    for node, late in walk(sources()[module], False):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "sparselmm":
                yield from ((f"sparselmm.{alias.name}", late) for alias in node.names)
            else:
                yield name, late


def walk(node: ast.AST, late: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        )
        yield child, late
        yield from walk(child, late or deferred)


@pytest.mark.parametrize("module", sources())
def test_a_module_imports_only_from_its_row_and_lower_ones(module):
    own = layer(module)
    for name, late in imports(module):
        parts = name.split(".")
        if parts[0] != "sparselmm" or len(parts) < 2 or parts[1] not in LAYERS:
            continue
        other = parts[1]
        allowed = ALONE.get(own)
        if other == own or (late and other in LATE.get(own, ())):
            continue
        assert allowed is None or other in allowed, f"{module} imports {other}"
        assert LAYERS[other] <= LAYERS[own], f"{module} (row {LAYERS[own]}) imports {other} (row {LAYERS[other]})"
        assert (own, other) not in SIBLINGS and (other, own) not in SIBLINGS, f"{module} imports its sibling {other}"


def test_every_module_has_a_row():
    assert {layer(module) for module in sources()} <= set(LAYERS)


def test_the_check_of_imports_sees_what_it_should():
    """So that the tests above can fail."""
    found = dict(imports("results"))
    assert found["sparselmm.fitting"] is False and found["sparselmm.report"] is True
    assert dict(imports("inference.varpar"))["sparselmm.results"] is True
    assert dict(imports("engines.cholmod"))["sparselmm.kernels.selinv"] is False


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("sksparse", {"engines.cholmod"}),
        ("matplotlib", {"plots"}),
        ("typer", {"cli"}),
        ("formulaic", {"formula.design", "formula.names", "formula.portable"}),
        ("narwhals", {"formula.table"}),
    ],
)
def test_a_library_is_imported_in_one_place(library, modules):
    assert {m for m in sources() for name, _ in imports(m) if name.split(".")[0] == library} <= modules


def test_heavy_optional_libraries_are_imported_late():
    heavy = {"matplotlib", "rich", "polars", "pyarrow", "sksparse"}
    assert not {(m, name) for m in sources() for name, late in imports(m) if not late and name.split(".")[0] in heavy}


def test_sksparse_is_named_in_one_file():
    named = [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if "sksparse" in p.read_text(encoding="utf-8")]
    assert named == ["engines/cholmod.py"]


@pytest.mark.parametrize("module", sources())
def test_no_print_and_no_catch_all(module):
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{module}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            caught = [] if node.type is None else [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
            assert caught and not {"Exception", "BaseException"} & set(caught), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", sources())
def test_functions_and_files_are_short(module):
    tree = sources()[module]
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= LONGEST_FUNCTION}
    assert not long
    lines = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE


@pytest.mark.parametrize("module", sources())
def test_everything_public_has_a_docstring(module):
    """Modules, functions and classes; a method that is part of a protocol has it there."""
    tree = sources()[module]
    assert ast.get_docstring(tree), module
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name}"


def test_no_note_to_self_is_left():
    words = [a + b for a, b in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"))]
    files = [*ROOT.rglob("*.py"), *(ROOT.parent / "tests").rglob("*.py")]
    assert not [(p.name, word) for p in files for word in words if word in p.read_text(encoding="utf-8")]


def test_no_path_of_a_machine_is_left():
    starts = ["/" + name + "/" for name in ("work", "tmp", "home", "root")]
    assert not [(p.name, s) for p in ROOT.rglob("*.py") for s in starts if s in p.read_text(encoding="utf-8")]


def test_the_environment_is_read_in_one_place():
    readers = [n for n, tree in sources().items() if {"environ", "getenv", "__import__"} & _words(tree)]
    assert readers == ["engines.threads"]


def _words(tree: ast.Module) -> set[str]:
    """Names and attributes of a module."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
