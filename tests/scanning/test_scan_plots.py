"""Manhattan and QQ plots, by what their Axes hold."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.plots import manhattan, qq

matplotlib.use("Agg")


def table(n=60, **columns):
    p = np.random.default_rng(2).uniform(size=n)
    p[3] = np.nan
    own = {"trait": "y", "marker": [f"m{i}" for i in range(n)], "p_value": p, "minus_log10_p": -np.log10(p)}
    return slm.Scan(pd.DataFrame(own | columns), ("y",))


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_chromosomes_stand_in_turn():
    scan = table(chromosome=["1"] * 25 + ["X"] * 35, position=np.append(np.arange(25), np.arange(35)) * 1000)
    ax = manhattan(scan)
    first, second = (c.get_offsets() for c in ax.collections)
    assert len(first) == 25 and len(second) == 35
    assert first[:, 0].max() < second[:, 0].min() and np.ptp(second[:, 0]) == 34_000
    np.testing.assert_allclose(second[:, 1], -np.log10(scan.table.p_value[25:]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "X"]
    assert ax.lines[0].get_ydata()[0] == pytest.approx(-np.log10(5e-8))


def test_chromosomes_stand_by_number_whatever_the_order_of_the_table_and_gaps_are_equal():
    name = np.repeat(["X", "chr10", "chr2", "chrUn_1"], 15)
    scan = table(chromosome=name, position=np.tile(np.arange(15.0), 4) * 100 + 7)
    ax = manhattan(scan)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["chr2", "chr10", "X", "chrUn_1"]
    x = [c.get_offsets()[:, 0] for c in ax.collections]
    gaps = [b.min() - a.max() for a, b in zip(x, x[1:], strict=False)]
    np.testing.assert_allclose(gaps, 0.01 * 4 * 1400)
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 1], -np.log10(scan.table.p_value[15:30]))


def test_markers_without_a_position_do_not_hide_the_others():
    """The whole picture used to be empty."""
    position = np.append(np.arange(25.0), np.full(35, np.nan))
    position[3] = np.nan
    ax = manhattan(table(chromosome=["1"] * 25 + ["2"] * 35, position=position))
    first, second = (c.get_offsets()[:, 0] for c in ax.collections)
    np.testing.assert_array_equal(first, [0, 1, 2, 24, *range(4, 25)])
    np.testing.assert_allclose(np.diff(second), 1.0)
    assert np.isfinite(ax.get_xlim()).all() and len(ax.get_xticks()) == 2


def test_positions_as_text_and_none_of_them():
    """Tables of text have NA, and positions become text where a table mixes them with it."""
    position = [*map(str, range(24)), "NA", *range(35)]
    first, second = (
        c.get_offsets()[:, 0] for c in manhattan(table(chromosome=[1] * 25 + [2] * 35, position=position)).collections
    )
    np.testing.assert_array_equal(first, [*range(24), 23])
    np.testing.assert_array_equal(np.diff(second), 1.0)


def test_without_positions_markers_stand_in_order():
    ax = manhattan(table(), threshold=None)
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[:, 0], np.arange(60))
    assert not ax.lines and ax.get_xlabel() == "marker"


def test_qq_has_expected_quantiles_and_lambda():
    scan = table()
    ax = qq(scan)
    points = ax.collections[1].get_offsets()
    np.testing.assert_allclose(points[:, 0], -np.log10((np.arange(1, 60) - 0.5) / 59))
    np.testing.assert_allclose(points[:, 1], np.sort(-np.log10(scan.table.p_value.dropna()))[::-1])
    assert ax.texts[0].get_text().endswith(f"= {scan.lambda_gc():.3f}")


def test_nothing_to_plot():
    scan = table()
    scan.table[["p_value", "minus_log10_p"]] = np.nan
    with pytest.raises(slm.ModelError, match="no marker has a p-value"):
        qq(scan)
    with pytest.raises(slm.ModelError, match="threshold=0.0: a p-value above 0"):
        manhattan(scan, threshold=0.0)
    with pytest.raises(slm.ModelError, match="trait='z': one of 'y'"):
        manhattan(scan, "z")
