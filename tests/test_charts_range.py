"""Coordinates of a search that ran away."""

import numpy as np
import pytest

import sparselmm as slm
from sparselmm.charts import make_chart
from sparselmm.datasets import load_dataset


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
