"""Coordinates of searches that ran away, or go to where sigma is zero."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.charts import FreeChart, RelativeChart, make_chart
from sparselmm.datasets import load_dataset

STEP = 1e-6  # of central differences; the maps are smooth over 1e-3


@pytest.mark.parametrize("log_sigma", [-800.0, -720.0, 800.0])
@pytest.mark.filterwarnings("error")
def test_a_sigma_out_of_range_is_refused_without_warnings_of_numpy(log_sigma):
    """A standard deviation over a sigma of exp(-800) went on as infinity, and as NaN into the covariance."""
    likelihood = slm.LinearMixedModel("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy")).likelihood
    name = likelihood.parameters.natural_names[0]
    chart = make_chart(likelihood.parameters, likelihood.scaling(), {name: 1.0}, 1.0)
    x = chart.coordinates(np.ones(likelihood.parameters.count), 1.0)
    chart.model(x)
    x[-1] = log_sigma
    with pytest.raises(slm.ModelError, match="out of range"):
        chart.model(x)


@pytest.mark.parametrize("u", [0.0, 0.03, 0.4, 2.0])
def test_relative_to_a_rival_of_sigma(u):
    """Derivatives through the chart against central differences of what it maps, and the way back."""
    data = pd.DataFrame({"g": np.repeat(np.arange(4), 6), "t": np.tile(np.arange(6), 4), "h": np.arange(24) % 5})
    data["y"] = np.sin(np.arange(24) ** 2) + 0.3 * data.h
    likelihood = slm.LinearMixedModel("y ~ 1 + (1 | h) + ar1(0 + t | g)", data).likelihood
    chart = RelativeChart(FreeChart(likelihood.parameters, likelihood.scaling()), likelihood.parameters.slices[1].start)
    x = np.array([0.7, u, 0.4])
    theta = chart.model(x)[0]
    np.testing.assert_allclose(chart.coordinates(theta, 1.0), x, rtol=1e-12, atol=0.0)
    units = STEP * np.eye(3)
    central = lambda f: np.array([(f(x + e) - f(x - e)) / (2 * STEP) for e in units])  # noqa: E731
    jacobian = central(lambda x: chart.model(x)[0]).T
    np.testing.assert_allclose(chart.jacobian(x), jacobian, rtol=1e-5, atol=1e-6 * np.abs(jacobian).max())
    score = lambda x: chart.pull_back(x, likelihood.derivatives(chart.model(x)[0]))[0]  # noqa: E731
    if u:  # at zero the criterion has too few digits for a difference
        slope = central(lambda x: likelihood(chart.model(x)[0]).deviance)
        np.testing.assert_allclose(score(x), slope, rtol=1e-4, atol=1e-4)
    assert u or score(x)[1] == 0.0
