"""`slm.scan` against GEMMA (tests/golden/make_gemma.py): re-estimated, at the null's variances, LOCO."""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

import sparselmm as slm
from tests import golden
from tests.golden.make_gemma import FAMILIES, KIN, MARKERS, SCANNED

PRINTED = 1e-6  # GEMMA prints seven digits
SEARCH = 2e-5  # GEMMA's search for the ratio of variances ends with a step of 1e-5 of it
REESTIMATED = 5e-6  # what that makes of effects, in standard errors, and of p-values, relatively
KINSHIP = 1e-9  # GEMMA prints ten digits of a kinship
MADE = json.loads(lzma.decompress((Path(golden.__file__).parent / "gemma.json.xz").read_bytes()))
CHROMOSOMES = {"1": slice(0, MARKERS // 2), "2": slice(MARKERS // 2, MARKERS)}


@dataclass(frozen=True)
class Made:
    genotypes: np.ndarray
    data: pd.DataFrame

    @property
    def options(self):
        markers = pd.DataFrame({"marker": SCANNED, "chromosome": np.repeat(list(CHROMOSOMES), len(SCANNED) // 2)})
        return {"genotypes": self.genotypes[:, SCANNED], "markers": markers}

    def kinship(self, without=None):
        """GEMMA's `-gk 1`: G G' / markers of centred genotypes."""
        G = np.delete(self.genotypes, CHROMOSOMES[without] if without else [], axis=1)
        G = np.where(np.isnan(G), np.nanmean(G, axis=0), G) - np.nanmean(G, axis=0)
        return G @ G.T / G.shape[1]


@pytest.fixture(scope="module")
def made():
    text, x, y = (MADE["data"][name] for name in ("genotypes", "x", "y"))
    G = np.array([[np.nan if c == "." else float(c) for c in row] for row in text])
    return Made(G, pd.DataFrame({"id": np.arange(len(y)), "x": x, "y": y}))


def by_reml(made, K):
    """Relationships of a constant, which go into the intercept, make the centred K definite."""
    return slm.lmm("y ~ x + known(1 | id, Q)", made.data, context={"Q": slm.Known(K + 1.0, kind="covariance")})


def by_ml(made, K, *more):
    """Effects of the eigenvectors of K, which is singular: ML sees constant relationships."""
    values, vectors = np.linalg.eigh(K)
    Z = vectors[:, values > 1e-9] * np.sqrt(values[values > 1e-9])
    X = np.column_stack([np.ones(len(K)), made.data.x, *more])
    return slm.LinearMixedModel.from_arrays(made.data.y, X, [slm.RandomTerm(sp.csr_array(Z))]).fit(reml=False)


def test_the_kinship_is_gemmas(made):
    np.testing.assert_allclose(made.kinship()[0], MADE["centred kinship's first row"], rtol=KINSHIP)


def gemma(kind, method):
    found = MADE["found"]
    if kind != "loco":
        return {name: np.array(values) for name, values in found[kind][method].items()}
    return {name: np.array(v + found["loco 2"][method][name]) for name, v in found["loco 1"][method].items()}


@pytest.mark.parametrize("kind", ["families", "centred", "loco"])
def test_reestimated_markers(made, kind):
    K = np.kron(np.eye(FAMILIES), KIN) if kind == "families" else made.kinship()
    null = {c: by_reml(made, made.kinship(c)) for c in CHROMOSOMES} if kind == "loco" else by_reml(made, K)
    table = slm.scan(null, **made.options, reestimate=1.0).table
    theirs = gemma(kind, "reml")
    assert len(table) == len(theirs["beta"]) == len(SCANNED)
    np.testing.assert_allclose((table.effect_lmm - theirs["beta"]) / theirs["se"], 0.0, atol=REESTIMATED)
    np.testing.assert_allclose(table.se_lmm, theirs["se"], rtol=REESTIMATED)
    np.testing.assert_allclose(table.p_lmm, theirs["p_wald"], rtol=REESTIMATED)


@pytest.mark.parametrize("kind", ["centred", "loco"])
def test_markers_at_the_null_models_variances(made, kind):
    """GEMMA's score test is ours but for its distribution, F for chi^2; its `-lmm 3` has our Wald test's effects."""
    null = {c: by_ml(made, made.kinship(c)) for c in CHROMOSOMES} if kind == "loco" else by_ml(made, made.kinship())
    theirs = gemma(kind, "ml")
    wald = slm.scan(null, **made.options).table
    np.testing.assert_allclose((wald.effect - theirs["beta"]) / theirs["se"], 0.0, atol=PRINTED)
    np.testing.assert_allclose(wald.se, theirs["se"], rtol=PRINTED)
    score = slm.scan(null, **made.options, test="score").table
    p = stats.f.sf(score.statistic**2, 1, len(made.data) - 3)
    np.testing.assert_allclose(p, theirs["p_score"], rtol=PRINTED)


def test_ratios_of_variances_and_likelihood_ratios(made):
    """Of models with each marker of chromosome 1, which have what `scan` re-estimates."""
    K = made.kinship("1")
    reml, ml, null = gemma("loco", "reml"), gemma("loco", "ml"), by_ml(made, K)
    Q = slm.Known(K + 1.0, kind="covariance")
    for k in range(0, 20, 3):
        g = made.genotypes[:, SCANNED[k]]
        data = made.data.assign(g=np.where(np.isnan(g), np.nanmean(g), g))
        fit = slm.lmm("y ~ x + g + known(1 | id, Q)", data, context={"Q": Q})
        assert (fit.varpar.iloc[0] / fit.sigma) ** 2 == pytest.approx(reml["l_remle"][k], rel=SEARCH)
        fit = by_ml(made, K, data.g)
        assert (fit.varpar.iloc[0] / fit.sigma) ** 2 == pytest.approx(ml["l_mle"][k], rel=SEARCH)
        assert stats.chi2.sf(2 * (fit.loglik - null.loglik), 1) == pytest.approx(ml["p_lrt"][k], rel=PRINTED)
