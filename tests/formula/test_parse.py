"""lme4's grammar: what each formula means, and the place each error underlines."""

import pytest

from sparselmm import _errors
from sparselmm.formula import FUNCTIONS, parse
from sparselmm.formula.names import known_names

KNOWN = known_names(FUNCTIONS)


def bars(formula: str) -> list[tuple]:
    return [(b.word, b.left.text, b.uncorrelated, b.groups) for b in parse(formula, KNOWN).bars]


@pytest.mark.parametrize(
    ("formula", "fixed"),
    [
        ("y ~ x*z + (1 | g)", "x*z"),
        ("y~(1|g)", "1"),
        ("y ~ 0 + (1 | g)", "0"),
        ("y ~ (1 | g) - 1", "- 1"),
        ("y ~ x - 1 + (1|g)", "x - 1"),
        ("y ~ (1|g) + x + (1|h) - z", "x - z"),
        ("y ~ ((1|g)) + z", "z"),
        ("y ~ z + (x + (1|g)) - w", "z + x - w"),
        ("y ~ cs(x, df=3) + cs(0 + f | g)", "cs(x, df=3)"),
        ("y ~ I(a | b) + (1|g)", "I(a | b)"),
        ("y ~ I(log(a || b))", "I(log(a || b))"),
        ("y ~ `a | b` + C(f, levels=['u|v', 'w'])", "`a | b` + C(f, levels=['u|v', 'w'])"),
        ("y ~ np.where(a | b, 1, 0)", "np.where(a | b, 1, 0)"),
        ("y ~ {a | b}", "{a | b}"),
        ("y ~ I(x^2) + (a + b)^2 + C(f, levels=['^'])", "I(x**2) + (a + b)**2 + C(f, levels=['^'])"),
        ("y ~ yield + log(yield) + (1|g)", "yield + log(Q('yield'))"),
        ("y ~ x + offset(log(t)) + z", "x + z"),
        ("y ~\n  x +\n  (1 | g)", "x"),
    ],
)
def test_fixed_part_is_what_the_bars_and_offsets_leave(formula, fixed):
    assert parse(formula, KNOWN).fixed.text == fixed


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("y ~ (1 | g)", [("", "1", False, (("g",),))]),
        ("y ~ (1 + x | g) + (0 + x | g)", [("", "1 + x", False, (("g",),)), ("", "0 + x", False, (("g",),))]),
        ("y ~ (1 + x || g)", [("", "1 + x", True, (("g",),))]),
        ("y ~ (x^2 | g)", [("", "x**2", False, (("g",),))]),
        ("y ~ us(x | g) + diag(x | g)", [("us", "x", False, (("g",),)), ("diag", "x", False, (("g",),))]),
        ("y ~ cs(0 + f | g)+hcs(0+f|h)", [("cs", "0 + f", False, (("g",),)), ("hcs", "0+f", False, (("h",),))]),
        ("y ~ (1 | `my g`)", [("", "1", False, (("my g",),))]),
        ("y ~ (1 | Block.1)", [("", "1", False, (("Block.1",),))]),
        ("y ~ (I(a | b) | g)", [("", "I(a | b)", False, (("g",),))]),
        ("y ~ x + (z + ((1 | g)))", [("", "1", False, (("g",),))]),
    ],
)
def test_bars(formula, expected):
    assert bars(formula) == expected


@pytest.mark.parametrize(
    ("right", "groups"),
    [
        ("a:b", [("a", "b")]),
        ("a/b", [("a",), ("a", "b")]),
        ("a/b/c", [("a",), ("a", "b"), ("a", "b", "c")]),
        ("a/(b + c)", [("a",), ("a", "b"), ("a", "c")]),
        ("(a + b)/c", [("a",), ("b",), ("a", "b", "c")]),
        ("a/b:c", [("a",), ("a", "b", "c")]),
        ("a + b", [("a",), ("b",)]),
        ("(a + b):c", [("a", "c"), ("b", "c")]),
        ("factor(a):C(b)", [("a", "b")]),
        ("a:a", [("a",)]),
    ],
)
def test_grouping_side_follows_the_algebra_of_r(right, groups):
    assert bars(f"y ~ (1 | {right})")[0][3] == tuple(groups)


@pytest.mark.parametrize("response", ["y", "`my y`", "log(y)", "I(y^2)", "y / 2", "np.log(y + 1)"])
def test_response_is_any_expression(response):
    parsed = parse(f"{response} ~ x", KNOWN).response
    assert parsed.text == response.replace("^", "**")
    assert (parsed.start, parsed.end) == (0, len(response))


def test_offsets_are_taken_out():
    parsed = parse("y ~ offset(log(t)) + x + offset(o)", KNOWN)
    assert [o.text for o in parsed.offsets] == ["log(t)", "o"]
    assert parsed.fixed.text == "x"


def test_names_are_told_from_functions_keywords_and_attributes():
    names = parse("y ~ f(x, df=k) + `a b`:np.pi + x.abs() + I(x if z else None).real + Q('q r')", KNOWN).fixed.names
    assert [n.text for n in names if n.is_call] == ["f", "x.abs", "I", "Q"]
    assert [n.text for n in names if not n.is_call] == ["x", "k", "a b", "np.pi", "x", "z", "q r"]


ERRORS = [  # formula, the part that is underlined, what the message says
    ("y", "y", "needs a '~'"),
    ("y ~ x ~ z", "~", "one '~' only"),
    ("y ~ I(x ~ z)", "~", "one '~' only"),
    ("I(y ~ x)", "~", "inside brackets"),
    ("~ x", "~", "response is missing"),
    ("y ~", "~", "nothing follows"),
    ("y ~ x +", "+", "nothing follows"),
    ("y ~ x | g", "|", "stands alone"),
    ("y ~ x*(1 | g)", "|", "stands alone"),
    ("y ~ (1 | g):x", "|", "stands alone"),
    ("y ~ (x*(1 | g) + z)", "|", "stands alone"),
    ("(1 | g) ~ x", "|", "stands alone"),
    ("y ~ ((1 | g) | h)", "|", "stands alone"),
    ("y ~ x*diag(1 | g)", "diag(1 | g)", "stands alone"),
    ("y ~ x - (1 | g)", "- (1 | g)", "cannot be taken away"),
    ("y ~ -(1 | g)", "-(1 | g)", "cannot be taken away"),
    ("y ~ x - offset(z)", "- offset(z)", "cannot be taken away"),
    ("y ~ x*offset(z)", "offset(z)", "stands alone"),
    ("y ~ offset()", "offset()", "empty"),
    ("y ~ (| g)", "|", "left side of the bar is empty"),
    ("y ~ (1 |)", "|", "grouping factor is missing"),
    ("y ~ (1 | g | h)", "|", "one bar only"),
    ("y ~ cs(0 + f || g)", "||", "inside cs()"),
    (
        "y ~ x + arma(0 + t | g)",
        "arma",
        "unknown structure 'arma': known are ar1, cs, diag, hcs, known, ou, ped, rw1, rw2, us",
    ),
    ("y ~ (1 | a*b)", "*", "(1 | a) + (1 | b) + (1 | a:b)"),
    ("y ~ (1 | log(g))", "log(g)", "make it a column first"),
    ("y ~ (1 | a b)", "b", "not understood"),
    ("y ~ (1 | 1)", "1", "not understood"),
    ("y ~ (1 | a/)", "/", "missing here"),
    ("y ~ diag(1 | g, h)", ",", "not understood"),
    ("y ~ x + (1 | g", "(", "never closed"),
    ("y ~ x] + (1 | g)", "]", "closes no bracket"),
    ("y ~ (x] + z", "]", "closes no bracket"),
    ("y ~ I('a) + z", "'a) + z", "never closed"),
    ("y ~ `a + z", "`a + z", "never closed"),
]


@pytest.mark.parametrize(("formula", "place", "message"), ERRORS)
def test_errors_underline_the_place(formula, place, message):
    with pytest.raises(_errors.FormulaError) as caught:
        parse(formula, KNOWN)
    shown, marks = str(caught.value).splitlines()[-2:]
    start = len(marks) - len(marks.lstrip())
    assert message in str(caught.value)
    assert shown.strip() == formula
    assert shown[start : len(marks)] == place


def test_the_later_of_two_equal_tokens_is_underlined():
    with pytest.raises(_errors.FormulaError) as caught:
        parse("y ~ (1 | g | h)", KNOWN)
    assert (caught.value.start, caught.value.end) == (11, 12)


def test_a_formula_over_several_lines_is_underlined_on_one():
    with pytest.raises(_errors.FormulaError) as caught:
        parse("y ~ x +\n(1 | a\nb)", KNOWN)
    *_, shown, marks = str(caught.value).splitlines()
    assert shown[marks.index("^")] == "b"


@pytest.mark.parametrize("formula", ["", "   "])
def test_empty_formula(formula):
    with pytest.raises(_errors.FormulaError, match="needs a '~'"):
        parse(formula)


def test_not_a_string():
    with pytest.raises(_errors.FormulaError, match="not int"):
        parse(3)
