"""The trust region against brute force, Newton on known functions, and fits whose optimum is known or unique."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.closed_form import nested, one_way
from sparselmm.optimize import Options, minimise, scaled_gradient, trust_region_step
from tests import golden
from tests.closed_form.test_anova import INNER, OUTER, STRATA, response
from tests.problems import PROBLEMS
from tests.test_golden import FITS, formula

BRUTE_RTOL = 1e-6  # what a grid of 20,000 angles leaves of the minimum on a circle
SAME_DEVIANCE = 1e-8  # relative: one optimum reached from different starts, at a scaled gradient below 1e-5
SAME_VARIANCE = 1e-5  # relative: the scaled gradient is in standard errors
FALLBACK_DEVIANCE = 1e-7  # relative: where a derivative-free search stops

# --- the trust region -----------------------------------------------------------------------------------


def model(g, H, s):
    return g @ s + 0.5 * s @ H @ s


def brute_force(g, H, radius):
    """The lowest value in a disc: on a fine circle, or at the minimum inside."""
    angle = np.linspace(0, 2 * np.pi, 20_001)
    circle = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    values = circle @ g + 0.5 * np.einsum("ia,ab,ib->i", circle, H, circle)
    best = values.min()
    if np.linalg.eigvalsh(H)[0] > 0 and np.linalg.norm(inside := -np.linalg.solve(H, g)) <= radius:
        best = min(best, model(g, H, inside))
    return best


@pytest.mark.parametrize("seed", range(60))
def test_step_is_the_minimum_in_the_disc(seed):
    rng = np.random.default_rng(seed)
    H = rng.normal(size=(2, 2)) * 10.0 ** rng.uniform(-2, 2, 2)
    H, g, radius = H + H.T, rng.normal(size=2) * 10.0 ** rng.uniform(-2, 2), 10.0 ** rng.uniform(-2, 2)
    step, best = trust_region_step(g, H, radius), brute_force(g, H, radius)
    assert np.linalg.norm(step) <= radius * (1 + 1e-8)
    assert model(g, H, step) <= best + BRUTE_RTOL * abs(best)


@pytest.mark.parametrize("g", [[0.0, 0.5], [1e-14, 0.5], [0.0, 0.0]])
@pytest.mark.parametrize("radius", [0.3, 5.0])
def test_hard_case(g, radius):
    """The gradient has no part along the lowest eigenvector: along it to the edge, either way."""
    g, H = np.array(g), np.diag([-1.0, 1.0])
    step = trust_region_step(g, H, radius)
    assert np.linalg.norm(step) == pytest.approx(radius, rel=1e-8)
    best = brute_force(g, H, radius)
    assert model(g, H, step) == pytest.approx(best, rel=BRUTE_RTOL)


def test_steps_by_hand():
    H = np.diag([2.0, 8.0])
    np.testing.assert_allclose(trust_region_step(np.array([2.0, 8.0]), H, 9.0), [-1, -1], rtol=1e-14)
    np.testing.assert_allclose(trust_region_step(np.zeros(2), H, 9.0), [0, 0], atol=0)
    np.testing.assert_allclose(trust_region_step(np.array([3.0]), np.array([[-1.0]]), 2.0), [-2], rtol=1e-9)
    np.testing.assert_allclose(trust_region_step(np.array([3.0, 0.0]), np.zeros((2, 2)), 0.5), [-0.5, 0], atol=1e-9)


def test_scaled_gradient():
    """sqrt(g'H^-1 g); never small where H has a direction of descent."""
    g, H = np.array([3.0, 4.0]), np.diag([9.0, 4.0])
    assert scaled_gradient(g, H) == pytest.approx(np.sqrt(g @ np.linalg.inv(H) @ g), rel=1e-14)
    assert scaled_gradient(np.zeros(0), np.zeros((0, 0))) == 0
    assert scaled_gradient(np.zeros(2), H) == 0
    assert scaled_gradient(np.zeros(2), np.diag([1.0, -1.0])) >= 1


# --- functions whose minimum is known -------------------------------------------------------------------


@dataclass
class At:
    """A function's value and derivatives at one x, as `minimise` asks for them."""

    value: float
    both: tuple

    def derivatives(self):
        return self.both


def quadratic(H, centre, approximate=None):
    """(x-c)'H(x-c)/2, whose approximate Hessian is given."""
    given = H if approximate is None else approximate
    return lambda x: At(0.5 * (x - centre) @ H @ (x - centre) - 5, (H @ (x - centre), given))


def rosenbrock(x, exact=True):
    """Sum of squares of (10 (x1 - x0^2), 1 - x0) over 2; with the exact Hessian, or Gauss and Newton's."""
    r, J = np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]), np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])
    bend = np.array([[-20 * r[0], 0.0], [0.0, 0.0]])
    return At(0.5 * r @ r, (J.T @ r, J.T @ J + exact * bend))


def double_well(x):
    """(x^2 - 1)^2/4: a maximum at 0, minima at -1 and 1."""
    return At(float((x[0] ** 2 - 1) ** 2 / 4), (x**3 - x, np.array([[3 * x[0] ** 2 - 1]])))


def barrier(x):
    """-log(1 - x) - x, with its minimum at 0; infinite from 1 on."""
    if x[0] >= 1:
        return At(np.inf, ())
    return At(float(-np.log1p(-x[0]) - x[0]), (1 / (1 - x) - 1, np.array([[1 / (1 - x[0]) ** 2]])))


def definite(k, seed):
    A = np.random.default_rng(seed).normal(size=(k, k))
    return A @ A.T + 0.5 * np.eye(k)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_quadratic_takes_one_step(k):
    centre = np.arange(1.0, k + 1)
    found = minimise(quadratic(definite(k, k), centre), np.zeros(k), Options(radius=100.0))
    np.testing.assert_allclose(found.x, centre, rtol=1e-10)
    assert (found.n_iter, found.method, found.converged, found.message) == (1, "newton", True, "converged")
    assert found.value == pytest.approx(-5)


@pytest.mark.parametrize("k", [2, 4])
def test_missing_curvature_is_learnt(k):
    """With a Hessian that is wrong in every direction, k updates of rank one make it right (Dennis & More 1977)."""
    H = definite(k, k)
    found = minimise(quadratic(H, np.ones(k), 0.6 * H + 0.1 * np.eye(k)), np.zeros(k), Options(tolerance=1e-9))
    np.testing.assert_allclose(found.hessian, H, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.x, np.ones(k), rtol=1e-7)
    assert found.converged and found.n_iter <= 2 * k + 3


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "Gauss-Newton"])
@pytest.mark.parametrize("start", [(-1.2, 1.0), (5.0, -5.0), (0.0, 0.0)])
def test_rosenbrock(exact, start):
    found = minimise(lambda x: rosenbrock(x, exact), np.array(start), Options(tolerance=1e-9, fallback=False))
    np.testing.assert_allclose(found.x, [1, 1], rtol=1e-6)
    assert found.converged and found.n_iter <= 40


@pytest.mark.parametrize("start", [0.0, 1e-3, -0.4, 3.0])
def test_leaves_a_maximum(start):
    """At 0 the gradient vanishes, but that is no minimum."""
    found = minimise(double_well, np.array([start]), Options(fallback=False))
    assert abs(found.x[0]) == pytest.approx(1, rel=1e-6)
    assert found.converged


def test_infinite_values_shorten_the_step():
    found = minimise(barrier, np.array([0.99]), Options(radius=50.0, fallback=False))
    assert found.x[0] == pytest.approx(0, abs=1e-5)
    assert found.converged


def test_log_and_report():
    lines = []
    found = minimise(rosenbrock, np.array([-1.2, 1.0]), report=lines.append)
    assert tuple(lines) == found.log
    assert [line.number for line in lines] == list(range(found.n_iter + 1))
    values = [line.value for line in lines]
    assert values == sorted(values, reverse=True)
    assert lines[-1].gradient_norm == found.gradient_norm <= Options().tolerance
    assert lines[0].step == 0 and all(line.step > 0 for line in lines[1:])


def test_budget_spent():
    found = minimise(rosenbrock, np.array([-1.2, 1.0]), Options(max_iter=3, fallback=False))
    assert not found.converged
    assert (found.n_iter, found.method) == (3, "newton")
    assert "3 iterations" in found.message


def wrong_gradient(x):
    """Points uphill: no step of Newton's lowers the function."""
    return At(float(x @ x), (-2 * x, 2 * np.eye(len(x))))


def pit(x):
    """0 at the origin and 1 around it, whatever its derivatives say."""
    return At(float(x.any()), (np.ones(2), np.eye(2)))


def test_no_further_decrease():
    found = minimise(pit, np.zeros(2), Options(fallback=False))
    assert (found.converged, found.method, found.message) == (False, "newton", "no further decrease")


def test_search_without_derivatives_takes_over():
    found = minimise(wrong_gradient, np.ones(2), Options(tolerance=1e-3))
    assert found.method == "cobyqa"
    np.testing.assert_allclose(found.x, 0, atol=1e-4)
    assert found.n_evaluations > 10


# --- fits -----------------------------------------------------------------------------------------------


def model_of(name):
    """A named problem or reference fit: the model, and whether to use REML."""
    if name in PROBLEMS:
        return PROBLEMS[name].model(), True
    ref = FITS[name]
    data = golden.load(ref["dataset"])
    model = slm.LinearMixedModel(formula(ref), data, weights=ref.get("weights"), offset=ref.get("offset"))
    return model, ref["REML"]


def theta_at(model, sizes):
    """theta with T = size I for effects of unit size, one size a term: variance ratios of size^2."""
    triples = zip(model.spec.terms, model.likelihood.products.bases, sizes, strict=True)
    roots = [(t.covariance, np.linalg.solve(basis, size * np.eye(t.n_effects))) for t, basis, size in triples]
    return np.concatenate([structure.nearest(root) for structure, root in roots])


SIZES = [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3]
FROM_ANYWHERE = ["sleep_us_REML", "oxboys3_REML", "machines_us3_ML", "cs", "hcs", "sparse_slopes", "multi_membership"]
SINGULAR = ["dyestuff2_ML", "negicc_REML", "corr1_ML", "early_REML", "wheat2_var_REML", "partially_crossed"]
TWO_TERMS = ["wheat2_var_REML", "penicillin_ML", "pastes_nested_REML", "crossed_slope", "cake_temp_REML"]


@pytest.mark.parametrize("name", FROM_ANYWHERE + SINGULAR)
def test_every_start_ends_at_the_same_optimum(name):
    """Variance ratios from 1e-6 to 1e6."""
    model, reml = model_of(name)
    fit = model.fit(reml=reml)
    assert fit.is_singular == (name in SINGULAR)
    for size in SIZES:
        again = model.fit(reml=reml, start=theta_at(model, [size] * len(model.spec.terms)))
        assert again.converged and again.method == "newton"
        assert again.deviance == pytest.approx(fit.deviance, rel=SAME_DEVIANCE)
        assert again.is_singular == fit.is_singular


@pytest.mark.parametrize("name", TWO_TERMS)
def test_terms_that_start_far_apart_end_at_the_same_optimum(name):
    model, reml = model_of(name)
    fit = model.fit(reml=reml)
    for sizes in itertools.product([1e-3, 1.0, 1e3], repeat=2):
        again = model.fit(reml=reml, start=theta_at(model, sizes))
        assert again.converged and again.method == "newton"
        assert again.deviance == pytest.approx(fit.deviance, rel=SAME_DEVIANCE)


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
def test_a_variance_of_zero_is_exactly_zero(reml):
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", slm.load_dataset("Dyestuff2"), reml=reml)
    assert fit.theta.tolist() == [0.0]
    assert fit.varpar["sd_Intercept|Batch"] == 0.0
    assert not fit.ranef()["Batch"].to_numpy().any()
    assert fit.is_singular and fit.converged


@pytest.mark.parametrize("name", ["corr1_REML", "early_ML"])
def test_a_correlation_of_one_is_exactly_one(name):
    model, reml = model_of(name)
    fit = model.fit(reml=reml)
    assert fit.theta.iloc[-1] == 0.0
    assert abs(fit.varcorr.query("effect2.notna()").sdcor.iloc[0]) == pytest.approx(1.0, abs=1e-14)


def test_fallback_happens_and_says_so():
    model, _ = model_of("sleep_us_REML")
    fit = model.fit()
    far = theta_at(model, [100.0])
    slow = model.fit(start=far, options=Options(max_iter=1, tolerance=1e-3))
    assert slow.method == "cobyqa" and fit.method == "newton"
    assert slow.deviance == pytest.approx(fit.deviance, rel=FALLBACK_DEVIANCE)
    assert slow.converged
    said = "Newton's method stopped short; the derivative-free search COBYQA went on from there."
    assert said in slow.summary() and said not in fit.summary()


def test_a_search_that_is_cut_short_says_so():
    model, _ = model_of("sleep_us_REML")
    with pytest.warns(slm.SparselmmWarning, match="did not converge: no end within 1 iteration"):
        fit = model.fit(start=theta_at(model, [100.0]), options=Options(max_iter=1, fallback=False))
    assert not fit.converged
    assert fit.method == "newton" and fit.n_iter == 1
    assert fit.gradient_norm > Options().tolerance
    assert "NOT CONVERGED" in fit.summary()


LME4_VALLEYS = {2: 8.45166130812, 4: 11.3073889095, 7: 13.44551912800, 10: 9.71777713011}  # REMLcrit by bobyqa, 1.1-31


@pytest.mark.parametrize(("a", "expected"), LME4_VALLEYS.items())
def test_a_common_slope_that_only_the_random_effects_have(a, expected):
    """The criterion falls along a curved valley, with average information all wrong: it took 50 steps, and COBYQA.

    R: lmer(y ~ 1 + (x | g), d, control = lmerControl("bobyqa", optCtrl = list(rhoend = 1e-9), calc.derivs = FALSE)).
    """
    i = np.arange(1, 22)
    x = 1.2 * np.sin(i * i)
    table = pd.DataFrame({"y": (1.5 * x + 0.2 * np.cos(a * i)).round(3), "x": x.round(3), "g": i * i % 10})
    fit = slm.lmm("y ~ 1 + (x | g)", table)
    assert fit.converged and fit.method == "newton"
    assert fit.deviance == pytest.approx(expected, rel=SAME_DEVIANCE)


@pytest.mark.parametrize("seed", [413, 2154, 4729])
def test_of_two_minima_the_lower_one(seed):
    """Groups of very different size: the criterion has a minimum inside and one at zero, which is lower here."""
    g = np.repeat(np.arange(5), [1, 2, 40, 1, 3])
    table = pd.DataFrame({"y": np.random.default_rng(seed).normal(size=len(g)), "g": g})
    dense = slm.LinearMixedModel("y ~ 1 + (1 | g)", table, engine="dense")
    values = [-2.0 * dense.loglik([t]) for t in np.append(0.0, np.geomspace(0.05, 3.0, 60))]
    (inside,) = (b for a, b, c in zip(values, values[1:], values[2:], strict=False) if b < min(a, c))
    assert values[0] + 0.02 < inside
    fit = slm.lmm("y ~ 1 + (1 | g)", table)
    assert fit.theta.tolist() == [0.0] and fit.converged
    assert fit.deviance == pytest.approx(values[0], rel=SAME_DEVIANCE)


@pytest.mark.parametrize("seed", [191, 547, 600, 764])
def test_of_two_minima_the_one_far_from_zero(seed):
    """Few rows unlike the others, weights: the criterion rises from zero, to fall by units of deviance far from it."""
    rng = np.random.default_rng(seed)
    n = rng.integers(14, 30)
    y = np.full(n, 3.0)
    k = rng.integers(2, 6)
    y[rng.choice(n, k, replace=False)] += rng.normal(size=k) * 3
    table = pd.DataFrame({"y": (y + 0.05 * rng.normal(size=n)).round(2), "h": rng.integers(0, 4, n)})
    table["g"] = rng.choice(6, n, p=rng.dirichlet(np.full(6, 0.6)))
    table["w"] = np.exp(rng.normal(size=n)).round(2)
    model = "y ~ 1 + (1 | h) + (1 | g)"
    dense = slm.LinearMixedModel(model, table, weights="w", engine="dense")
    grid = np.append(0.0, np.geomspace(0.1, 50.0, 24))
    best = min(-2.0 * dense.loglik(theta) for theta in itertools.product(grid, grid))
    fit = slm.lmm(model, table, weights="w")
    assert fit.converged and fit.deviance <= best


# --- closed forms ---------------------------------------------------------------------------------------


def check_against_closed_form(fit, expected, names):
    assert fit.deviance == pytest.approx(expected.deviance, rel=SAME_DEVIANCE)
    assert fit.is_singular == expected.is_singular
    assert fit.fixef["Intercept"] == pytest.approx(expected.mean, rel=1e-12)
    assert fit.sigma**2 == pytest.approx(expected.sigma2, rel=SAME_VARIANCE)
    for name, ours in names.items():
        variance = fit.varpar[f"sd_Intercept|{ours}"] ** 2
        assert variance == pytest.approx(expected.variances[name], rel=SAME_VARIANCE, abs=0.0)


@pytest.mark.parametrize("between", [0.05, 0.9, 1.2, 6.0])
@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
def test_one_way_closed_form(between, reml):
    data = pd.DataFrame({"y": response(1.0, 1.0, between), "g": OUTER})
    fit = slm.lmm("y ~ 1 + (1 | g)", data, reml=reml)
    check_against_closed_form(fit, one_way(data.y, OUTER, reml), {"group": "g"})


@pytest.mark.parametrize("name", STRATA)
@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
def test_nested_closed_form(name, reml):
    """Interior and boundary optima: either variance zero, both, and pooled strata."""
    data = pd.DataFrame({"y": response(*STRATA[name][0]), "a": OUTER, "b": INNER})
    fit = slm.lmm("y ~ 1 + (1 | a/b)", data, reml=reml)
    check_against_closed_form(fit, nested(data.y, OUTER, INNER, reml), {"outer": "a", "inner": "a:b"})
