"""The caterpillar plot, by what its Axes hold."""

import builtins

import numpy as np
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.plots import BARS, caterpillar

SAME_RTOL = 1e-12  # the same numbers added in another order


@pytest.fixture(scope="module")
def fit():
    return slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def segments(ax):
    """Left and right ends of the intervals, from bottom to top."""
    return np.array([s[:, 0] for s in ax.containers[0].lines[2][0].get_segments()])


@pytest.mark.parametrize("effect", ["Intercept", "Days"])
def test_points_are_sorted_effects_and_bars_their_intervals(fit, effect):
    frame = fit.ranef(se=True)["Subject"].sort_values(effect)
    ax = caterpillar(fit, "Subject", effect)
    points = ax.containers[0].lines[0]
    np.testing.assert_array_equal(points.get_xdata(), frame[effect])
    np.testing.assert_array_equal(points.get_ydata(), np.arange(18))
    half = 1.96 * frame[f"{effect}_se"].to_numpy()
    expected = frame[effect].to_numpy()[:, None] + half[:, None] * [-1, 1]
    np.testing.assert_allclose(segments(ax), expected, rtol=SAME_RTOL)
    assert [t.get_text() for t in ax.get_yticklabels()] == frame.index.tolist()
    assert ax.get_xlabel() == f"{effect}, with 95 % intervals" and ax.get_ylabel() == "Subject"
    low, high = ax.get_ylim()
    assert low < 0 and high > 17  # no point on the frame


def test_the_first_group_and_effect_are_the_default(fit):
    assert caterpillar(fit).get_xlabel() == "Intercept, with 95 % intervals"


def test_it_draws_into_given_axes(fit):
    import matplotlib.pyplot as plt

    axes = plt.subplots(1, 2)[1]
    assert caterpillar(fit, effect="Days", ax=axes[1]) is axes[1] and not axes[0].containers


def test_many_levels_are_counted_instead_of_named():
    g = np.repeat(np.arange(BARS + 1), 2)
    y = np.sin(g) + 0.3 * np.cos(7.0 * np.arange(len(g)))
    fit = slm.LinearMixedModel.from_arrays(y, np.ones(len(g)), [slm.RandomTerm(g, name="plot")]).fit()
    ax = caterpillar(fit)
    assert not ax.get_yticklabels() and ax.get_ylabel() == f"plot: {BARS + 1} levels"


def test_an_effect_whose_name_ends_like_an_error():
    table = load_dataset("sleepstudy").rename(columns={"Days": "dose_se"})
    fit = slm.lmm("Reaction ~ (dose_se | Subject)", table)
    assert caterpillar(fit, effect="dose_se").get_xlabel().startswith("dose_se")


def test_it_can_be_written_to_a_file(fit, tmp_path):
    caterpillar(fit).figure.savefig(path := tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_unknown_names(fit):
    with pytest.raises(slm.ModelError, match="no group 'subject': this fit has Subject"):
        caterpillar(fit, "subject")
    with pytest.raises(slm.ModelError, match="no effect 'days' of 'Subject': it has Intercept, Days"):
        caterpillar(fit, "Subject", "days")
    with pytest.raises(slm.ModelError, match="no random effects to plot"):
        caterpillar(slm.lmm("Reaction ~ Days", load_dataset("sleepstudy")))


def test_without_matplotlib_the_error_names_what_to_install(fit, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(slm.ModelError, match=r'pip install "sparselmm\[plots\]"'):
        caterpillar(fit)
