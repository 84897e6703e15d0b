"""What a user types by mistake after a fit: an error of the package that says so."""

from dataclasses import FrozenInstanceError

import matplotlib as mpl
import pytest

import sparselmm as slm
from sparselmm import plots
from sparselmm._tables import WIDTH, Table

mpl.use("Agg")

PARAMS = {"Intercept": 1.0, "temp": 1.0, "sd_Intercept|replicate": 1.0, "sigma": 1.0}
MISTAKES = {
    "a seed with a fraction": (lambda f: f.simulate(1, seed=1.5), r"seed=1.5: a whole number from 0 on"),
    "a seed below zero": (lambda f: f.simulate(1, seed=-1), "seed=-1"),
    "a seed in words": (lambda f: f.predict(f.table, new_levels="sample", seed="a"), "seed='a'"),
    "the seed of a design": (lambda f: slm.simulate(DESIGN, f.table, PARAMS, seed="x"), "seed='x'"),
    "no names of parameters": (lambda f: slm.simulate(DESIGN, f.table, [1, 2]), "a mapping from Intercept, temp, "),
    "true for a number": (lambda f: f.simulate(True), "n = True"),
    "a yes": (lambda f: f.predict(f.table, se="yes"), "se='yes': True or False"),
    "a yes when saving": (lambda f: f.save("x.json", se="yes"), "se='yes': True or False"),
    "no place to save": (lambda f: f.save("/nonexistent/x.json"), "cannot be written to '/nonexistent/x.json'"),
    "a number for a file": (lambda f: f.save(3), "cannot be written to 3"),
    "nothing to load": (lambda f: slm.load("/nonexistent/x.json"), "there is no file /nonexistent/x.json"),
    "a number to load": (lambda f: slm.load(3), "3 cannot be read"),
    "a folder to load": (lambda f: slm.load("."), "'.' cannot be read"),
    "no place for replicates": (lambda f: f.bootstrap(2, file="/nonexistent/x"), "cannot be written to /nonexistent/x"),
    "a number for their file": (lambda f: f.bootstrap(2, file=3), "file=3: a path, or None"),
    "a number for names": (lambda f: f.confint(which=3), "which=3: names of parameters"),
    "per cent": (lambda f: f.emmeans("recipe", level=95), "level=95: a number between 0 and 1"),
    "a value without its column": (lambda f: f.emmeans("recipe", at=175), "at=175: a mapping column -> value"),
    "weights without a name": (lambda f: f.emmeans("recipe").contrast([1, -1, 0]), "a mapping name -> weights"),
    "no groups": (lambda f: plots.fitted(f, "temp", groups=0), "groups = 0: a whole number from 1 on"),
    "groups in words": (lambda f: plots.fitted(f, "temp", groups="a"), "groups = 'a'"),
    "a fit for a profile": (lambda f: plots.zeta(f), r"such as fit.profile\(\), not <sparselmm fit"),
}  # fmt: skip
DESIGN = "~ temp + (1 | replicate)"


class Given:
    """A fit and its table."""

    def __init__(self):
        self.table = slm.load_dataset("cake")
        self.fit = slm.lmm("angle ~ recipe * temp + (1 | replicate)", self.table)

    def __getattr__(self, name):
        return getattr(self.fit, name)


@pytest.fixture(scope="module")
def given():
    return Given()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_an_error_that_says_so(given, mistake):
    call, match = MISTAKES[mistake]
    if mistake == "a fit for a profile":
        given = given.fit
    with pytest.raises(slm.SparselmmError, match=match):
        call(given)


@pytest.mark.parametrize("name", ["mine", "sigma", "spec"])
def test_nothing_can_be_set_on_a_fit(given, name):
    with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(given.fit, name, 1)


def test_marginal_means_show_themselves(given):
    means = given.emmeans("recipe")
    assert repr(means) == str(means) and "emmean" in repr(means)


@pytest.mark.parametrize("make", ["anova", "coef_table", "tidy", "glance"])
def test_tables_show_every_column(given, make):
    table = getattr(given, make)()
    names = {f"{name} of a long and telling kind": name for name in table.index}
    for shown in (table, table.round(3), table.rename(index={old: new for new, old in names.items()})):
        text = repr(shown)
        assert "..." not in text and all(str(column) in text for column in table.columns)
        assert max(map(len, text.splitlines())) <= WIDTH
    assert isinstance(given.emmeans("recipe").pairs(), Table)
