"""The benchmark of scans runs, both paths agree on its problem, and only the first is one of families."""

import numpy as np

from benchmarks import scan
from sparselmm import lmm
from sparselmm.scanning.projection import NullModel, PeopleProducts


def test_it_runs(capsys):
    rates = scan.main(["--people", "1000", "--markers", "40", "--repeats", "1"])
    assert [r.name for r in rates] == ["families", "general"]
    assert capsys.readouterr().out.count("markers a second and core") == 2


def test_centres_join_everybody():
    data, kinship, _ = scan.problem(500, 1)
    for formula, joined in (("y ~ age + known(1 | id, Q)", False), ("y ~ age + known(1 | id, Q) + (1 | centre)", True)):
        null = NullModel(lmm(formula, data, context={"Q": kinship}))
        people = PeopleProducts(null, np.arange(500), np.arange(500), np.ones((500, 1)))
        assert (people.families is None) == joined
