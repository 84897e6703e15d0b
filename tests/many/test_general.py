"""Several variance ratios: against lme4, single fits with the dense engine, and finite differences."""

import numpy as np
import pytest

import sparselmm as slm
from sparselmm.formula import build_spec
from sparselmm.many.design import Design, residualise
from sparselmm.many.general import Chunk, General
from sparselmm.many.newton import minimise_many
from tests import naive
from tests.many.references import ONE, SHARED, everything, reference, responses, samples
from tests.many.test_spectral import FIXEF_RTOL, SD_RTOL, assert_agrees
from tests.problems import PROBLEMS

GRADIENT_ATOL = 1e-5  # central differences of a criterion of order 1e3
VALUE_RTOL = 1e-9  # two algorithms for one criterion
LOGLIK_ATOL = 1e-7  # two searches for one optimum
LME4_ZERO = 1e-8  # of the total: lme4 leaves a variance of zero at 1e-10 to 3e-9
ZERO = 1e-5  # lme4 leaves standard deviations and 1 - |correlation| of this size where the optimum is at the edge

CROSSED = "~ age + sex + trt + (1 | donor) + (1 | batch)"
SLOPE = "~ age + sex + trt + (1 + age | donor)"


@pytest.mark.parametrize(
    ("name", "formula", "reml"), [("crossed", CROSSED, True), ("slope", SLOPE, True), ("slope_ml", SLOPE, False)]
)
def test_every_response_is_lme4s_fit(name, formula, reml):
    expected = reference(name)
    fits = slm.lmm_many(formula, samples(), responses()[:, : len(expected["loglik"])], reml=reml)
    assert_agrees(fits, expected)
    np.testing.assert_allclose(fits.varpar, expected["sdcor"][:, :-1], rtol=SD_RTOL, atol=ZERO)


def test_where_lme4_is_singular_a_variance_is_exactly_zero():
    expected = reference("crossed")["sdcor"]
    fits = slm.lmm_many(CROSSED, samples(), responses()[:, : len(expected)])
    assert ((fits.varpar == 0.0) == (expected[:, :-1] < ZERO)).all()
    assert (fits.is_singular == (expected[:, :-1] < ZERO).any(axis=1)).all() and fits.is_singular.any()


@pytest.mark.skipif(not SHARED.exists(), reason="the shared references are not here")
def test_all_60_responses_with_two_factors():
    data, Y, _, ref = everything()
    fits = slm.lmm_many(CROSSED, data, Y.iloc[:, : len(ref)])
    total = ref[:, :3].sum(axis=1)
    ours = np.column_stack([fits.varpar**2, fits.sigma**2])
    close = np.abs(ours - ref[:, :3]) <= 1e-3 * ref[:, :3]
    close |= (ours < 1e-4 * total[:, None]) & (ref[:, :3] < 1e-4 * total[:, None])
    short = ~close.all(axis=1)  # lme4 stopped short of the optimum: its criterion is higher
    assert short.sum() <= 1 and (-2.0 * fits.loglik[short] < ref[short, 3]).all()
    singular = (ref[:, :2] < LME4_ZERO * total[:, None]).any(axis=1)
    assert (fits.is_singular == singular).all() and (fits.varpar[:, 1][ref[:, 1] == 0.0] == 0.0).all()
    assert (-2.0 * fits.loglik <= ref[:, 3] * (1.0 + 1e-6)).all() and fits.converged.all()


def chunk(name, reml, weights=False, v=3, n=144):
    """A chunk of responses of one of the named problems; each with weights of its own if asked for."""
    problem = PROBLEMS[name]
    spec = problem.spec(n)
    design = Design(spec)
    rng = np.random.default_rng(2)
    Y = spec.y[:, None] + rng.normal(size=(spec.n, v))
    W = np.exp(rng.normal(size=(v, spec.n), scale=0.5)) if weights else None
    model = General(design, reml)
    return Chunk(model, residualise(design, Y.copy()).residual.T, W), Y, design, W


CASES = ["slope", "crossed_slope", "slope_diag", "several_bars", "three_effects", "cs", "nested"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weights", [False, True])
def test_the_criterion_against_dense_algebra_and_its_gradient(name, reml, weights):
    part, Y, design, W = chunk(name, reml, weights)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(part.v, part.factors.count), scale=0.6)
    points = part.at(np.arange(part.v), x)
    theta, spec = part.factors.theta(x), design.spec
    X = spec.X[:, design.fixed.kept]
    for j in range(part.v):
        Z = [_dense(t) for t in spec.terms]
        T = [
            t.covariance.factor(theta[j, part_]) for t, part_ in zip(spec.terms, design.parameters.slices, strict=True)
        ]
        psi = [np.kron(np.eye(t.n_levels), Tk @ Tk.T) for t, Tk in zip(spec.terms, T, strict=True)]
        V = naive.marginal_cov(Z, psi, spec.n, None if W is None else W[j])
        expected = naive.profile_deviance(Y[:, j], X, V, reml)
        constant = np.broadcast_to(part._constant(), (part.v,))[j]
        np.testing.assert_allclose(points.value[j] + constant, expected, rtol=VALUE_RTOL)

        def value(at, j=j):
            return float(part.at(np.array([j]), at[None]).value[0])

        numeric = naive.numeric_gradient(value, x[j], 1e-5)
        np.testing.assert_allclose(points.gradient[j], numeric, atol=GRADIENT_ATOL * (1 + np.abs(numeric).max()))


def _dense(term):
    columns = np.ones((term.n_rows, 1)) if term.columns is None else term.columns
    Z = np.zeros((term.n_rows, term.n_random))
    for i in range(term.n_rows):
        Z[i, term.Z[i] * term.n_effects : (term.Z[i] + 1) * term.n_effects] = columns[i]
    return Z


@pytest.mark.parametrize("name", CASES)
def test_the_optimum_is_that_of_a_single_fit(name):
    problem = PROBLEMS[name]
    data = problem.data()
    rng = np.random.default_rng(5)
    Y = data["y"].to_numpy()[:, None] * np.linspace(0, 1, 5) + rng.normal(size=(len(data), 5))
    fits = slm.lmm_many(problem.formula, data, Y)
    assert fits.converged.all()
    for j in range(5):
        single = slm.lmm(problem.formula, data.assign(y=Y[:, j]), engine="dense")
        assert fits.loglik[j] >= single.loglik - LOGLIK_ATOL
        if fits.loglik[j] <= single.loglik + LOGLIK_ATOL:
            np.testing.assert_allclose(fits.fixef_se[j], single.fixef_se, rtol=1e-3)


def test_an_edge_along_which_the_slope_turns():
    """Near a variance of zero for intercepts, T = [a, 0; b, c] turns freely in (b, c): the optimum is at c = 0."""
    data = samples()
    rng = np.random.default_rng(1)
    v, donor = 200, data["donor"].to_numpy() - 1
    slopes = rng.normal(size=(100, v), scale=0.4)[donor] * data["age"].to_numpy()[:, None]
    fits = slm.lmm_many(SLOPE, data, rng.normal(size=(500, v)) + slopes)
    assert fits.converged.all() and fits.is_singular.mean() > 0.2


def test_degrees_of_freedom_are_those_of_one_ratio():
    """The same model by absorption and by eigenvalues; (1 | donor) is one ratio."""
    spec = build_spec(f"row {ONE}", samples().assign(row=np.arange(500.0)))
    design = Design(spec)
    Y = responses()
    general = General(design, True).fit(residualise(design, Y.copy()))
    fits = slm.lmm_many(ONE, samples(), Y)
    np.testing.assert_allclose(general.loglik, fits.loglik, rtol=1e-12)
    np.testing.assert_allclose(general.beta, fits.fixef, atol=FIXEF_RTOL)
    np.testing.assert_allclose(general.df, fits.fixef_df, rtol=1e-4)
    np.testing.assert_allclose(general.df_residual, fits.df_residual, rtol=1e-4)


def test_degrees_of_freedom_do_not_depend_on_the_signs_of_a_factor():
    """T and T with a column turned round are one G: a search that ended at the other had df 76 for 92."""
    fits = slm.lmm_many(SLOPE, samples(), responses()[:, :2])
    model = General(fits.design, True)
    block = residualise(fits.design, responses()[:, :2].copy())
    chunk, base = Chunk(model, block.residual.T), (fits.design.loadings @ block.beta).T
    for signs in ([1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]):
        x = model.factors.coordinates(fits.estimates.theta * signs)
        found = chunk.estimates(x, np.zeros(2), base, True)
        for j in range(2):
            fit = slm.lmm("y" + SLOPE, samples().assign(y=responses()[:, j]))
            expected = fit.coef_table("satterthwaite")["df"]
            np.testing.assert_allclose(found.df[j], expected, rtol=1e-4)  # differences of scores at other points


def test_searches_follow_valleys():
    """Rosenbrock's; of 1,000 random fits one with slopes over four levels took 60 steps, and stopped after 40."""

    def valley(which, x):
        a, b = x.T
        value = (1.0 - a) ** 2 + 1e4 * (b - a**2) ** 2
        gradient = np.stack([-2.0 * (1.0 - a) - 4e4 * a * (b - a**2), 2e4 * (b - a**2)], axis=1)
        hessian = np.empty((len(x), 2, 2))
        hessian[:, 0, 0], hessian[:, 1, 1] = 2.0 - 4e4 * (b - 3.0 * a**2), 2e4
        hessian[:, 0, 1] = hessian[:, 1, 0] = -4e4 * a
        return value, gradient, hessian

    found = minimise_many(valley, np.array([[-2.0, 4.0], [3.0, 9.0]]))
    np.testing.assert_allclose(found.x, 1.0, atol=1e-5)  # a scaled gradient of 1e-6, along a valley of curvature 0.4
