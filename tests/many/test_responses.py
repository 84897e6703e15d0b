"""Y in every form that is taken, matched by labels; every form gives the same numbers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import sparselmm as slm
from tests.many.references import ONE, responses, samples

SAME = 1e-12  # blocks of other shapes take sums in another order
V = 6


@pytest.fixture(scope="module")
def named():
    """The table and Y with labels of samples, genes named."""
    labels = [f"s{i}" for i in range(500)]
    Y = pd.DataFrame(responses()[:, :V], index=labels).add_prefix("gene")
    return samples().set_axis(labels), Y


def assert_same(fits, expected):
    for what in ("fixef", "fixef_se", "varpar", "sigma", "loglik"):
        np.testing.assert_allclose(getattr(fits, what), getattr(expected, what), rtol=SAME, atol=SAME)


def test_rows_are_matched_by_label(named):
    data, Y = named
    expected = slm.lmm_many(ONE, data, Y)
    turned = Y.iloc[np.random.default_rng(0).permutation(500)]
    assert_same(slm.lmm_many(ONE, data, turned), expected)
    column = data.rename_axis("id").reset_index()
    assert_same(slm.lmm_many(ONE, column, turned, samples="id"), expected)
    own = turned.rename_axis("id").reset_index()
    assert_same(slm.lmm_many(ONE, column, own, samples="id"), expected)
    assert list(expected.responses[:2]) == ["gene0", "gene1"]


def test_numbers_of_rows_in_another_order_are_no_labels(named):
    """A table that was shuffled and Y that was not: neither order nor labels can be meant for sure."""
    Y = pd.DataFrame(named[1].to_numpy())
    data = samples().sample(frac=1.0, random_state=1)
    for one, other in ((data, Y), (data.reset_index(drop=True), Y.loc[data.index]), (samples()[::-1], Y)):
        for given in (other, iter([other])):
            with pytest.raises(slm.DataError, match="same numbers in another order"):
                slm.lmm_many(ONE, one, given)
    expected = slm.lmm_many(ONE, samples(), Y)
    assert_same(slm.lmm_many(ONE, data.reset_index(drop=True), Y.loc[data.index].to_numpy()), expected)
    some = samples().index >= 100
    assert_same(
        slm.lmm_many(ONE, samples()[some], Y[some].reset_index(drop=True)),
        slm.lmm_many(ONE, samples()[some].reset_index(drop=True), Y[some].to_numpy()),
    )


@pytest.mark.parametrize("form", ["array", "fortran", "float32", "sparse", "polars", "layer", "X"])
def test_forms_of_y(named, form):
    data, Y = named
    values = Y.to_numpy()
    adata = SimpleNamespace(
        X=sp.csr_array(values), layers={"log": values}, obs=data, obs_names=Y.index, var_names=Y.columns
    )
    forms = {
        "array": values, "fortran": np.asfortranarray(values), "float32": values.astype(np.float32),
        "sparse": sp.csr_array(values), "polars": pl.DataFrame(values), "layer": adata, "X": adata,
    }  # fmt: skip
    table = None if form in ("layer", "X") else samples()
    fits = slm.lmm_many(ONE, table, forms[form], layer="log" if form == "layer" else None)
    expected = slm.lmm_many(ONE, samples(), values.astype(np.float32) if form == "float32" else values)
    assert_same(fits, expected)
    if form in ("layer", "X"):
        assert list(fits.responses) == list(Y.columns)


def test_an_iterator_of_blocks(named):
    data, Y = named
    expected = slm.lmm_many(ONE, data, Y)
    tables = (Y.iloc[::-1, lo : lo + 4] for lo in (0, 4))
    fits = slm.lmm_many(ONE, data, tables)
    assert_same(fits, expected)
    assert list(fits.responses) == list(Y.columns)
    pairs = iter([(["a", "b"], Y.to_numpy()[:, :2]), (["c"], Y.to_numpy()[:, 2:3])])
    assert list(slm.lmm_many(ONE, data, pairs).responses) == ["a", "b", "c"]
    arrays = iter([Y.to_numpy()[:, :2], Y.to_numpy()[:, 2:]])
    assert list(slm.lmm_many(ONE, data, arrays).responses) == list(range(V))


def test_real_anndata(named, tmp_path):
    """Dense, sparse, a layer, samples in another order, a view, and files that stay on disk."""
    anndata = pytest.importorskip("anndata", reason="anndata 0.12 wants pandas < 3, so that it is in no extra")
    anndata.settings.allow_write_nullable_strings = True  # labels of pandas 3, which anndata 0.12 does not write else
    data, Y = named
    expected = slm.lmm_many(ONE, data, Y)
    turned = np.random.default_rng(0).permutation(500)
    log, genes = Y.to_numpy()[turned], pd.DataFrame(index=Y.columns)
    adata = anndata.AnnData(sp.csr_matrix(log), obs=data.iloc[turned], var=genes, layers={"log": log})
    adata.write_h5ad(tmp_path / "file.h5ad")
    file = anndata.read_h5ad(tmp_path / "file.h5ad", backed="r")
    for given, layer in ((adata, None), (adata, "log"), (adata[:, :V], "log"), (file, None), (file, "log")):
        for table in (data, None):
            fits = slm.lmm_many(ONE, table, given, layer=layer)
            assert_same(fits, expected)
            assert list(fits.responses) == list(Y.columns)
    file.file.close()


@pytest.mark.parametrize("lazy", [False, True])
def test_real_xarray(named, lazy):
    """Labels of the first dimension are matched: passed over, samples in another order would go wrong."""
    xarray = pytest.importorskip("xarray")
    data, Y = named
    array = xarray.DataArray(Y.to_numpy(), dims=("sample", "gene"), coords={"sample": Y.index, "gene": Y.columns})
    if lazy:
        pytest.importorskip("dask.array")
        array = array.chunk({"sample": 200, "gene": 4})
    expected = slm.lmm_many(ONE, data, Y)
    turned = array[np.random.default_rng(0).permutation(500)]
    for given in (array, turned, iter([turned[:, :2], turned[:, 2:]])):
        fits = slm.lmm_many(ONE, data, given)
        assert_same(fits, expected)
        assert list(fits.responses) == list(Y.columns)
    bare = xarray.DataArray(Y.to_numpy(), dims=("sample", "gene"))
    assert_same(slm.lmm_many(ONE, samples(), bare), expected)
    with pytest.raises(slm.DataError, match="1 samples of the table are not in Y: 's1'"):
        slm.lmm_many(ONE, data, array.assign_coords(sample=Y.index.where(Y.index != "s1", "t1")))


def test_dask_arrays(named):
    data, Y = named
    dask = pytest.importorskip("dask.array")
    given = dask.from_array(Y.to_numpy(), chunks=(100, 3))
    assert_same(slm.lmm_many(ONE, data, given, block=4), slm.lmm_many(ONE, data, Y, block=4))


def test_files_of_hdf5(named, tmp_path):
    h5py = pytest.importorskip("h5py")
    data, Y = named
    expected = slm.lmm_many(ONE, data, Y, block=4)
    with h5py.File(tmp_path / "Y.h5", "w") as file:
        assert_same(slm.lmm_many(ONE, data, file.create_dataset("Y", data=Y.to_numpy()), block=4), expected)


def test_masked_and_nullable_values_are_missing(named):
    data, Y = named
    gap = Y.mask((Y.index == "s4")[:, None] & (Y.columns == "gene2"))
    expected = slm.lmm_many(ONE, data, gap)
    assert expected.nobs.tolist() == [500, 500, 499, 500, 500, 500]
    masked = np.ma.masked_array(Y.to_numpy(), mask=gap.isna())
    for given in (masked, gap.convert_dtypes()):
        fits = slm.lmm_many(ONE, data, given)
        assert_same(fits, expected)
        assert (fits.nobs == expected.nobs).all()


def test_rows_that_the_table_lacks_are_left_out_of_y(named):
    data, Y = named
    gaps = data.copy()
    gaps.loc["s3", "age"] = np.nan
    expected = slm.lmm_many(ONE, data.drop(index="s3"), Y.drop(index="s3"))
    assert_same(slm.lmm_many(ONE, gaps, Y), expected)
    assert_same(slm.lmm_many(ONE, gaps, iter([Y])), expected)


def test_blocks_of_any_size_give_the_same(named, monkeypatch):
    data, Y = named
    wide = pd.concat([Y] * 30, axis=1)
    expected = slm.lmm_many(ONE, data, wide)
    monkeypatch.setattr("sparselmm.many.fit.CELLS", 1)
    assert_same(slm.lmm_many(ONE, data, wide), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, Y: (data, Y.rename(index={"s1": "t1"})), "1 samples of the table are not in Y: 's1'"),
        (lambda data, Y: (data.drop(index="s2"), Y), "1 samples of Y are not in the table: 's2'"),
        (lambda data, Y: (data, pd.concat([Y, Y.iloc[:1]])), "sample 's0' is in Y more than once"),
        (lambda data, Y: (data, Y.to_numpy()[:400]), "Y has 400 rows"),
        (lambda data, Y: (data, Y.to_numpy().T), "transpose it"),
        (lambda data, Y: (data, Y.assign(word="a")), "hold no numbers, the first is 'word'"),
        (lambda data, Y: (data, Y.to_numpy()[:, 0]), "samples by responses"),
        (lambda data, Y: (data, iter([])), "no responses"),
        (lambda data, Y: (None, Y), "data=None"),
    ],
)
def test_what_does_not_match(named, change, message):
    data, Y = change(*named)
    with pytest.raises(slm.DataError, match=message):
        slm.lmm_many(ONE, data, Y)


@pytest.mark.parametrize(
    ("formula", "message"),
    [("log(y) ~ age + (1 | donor)", "transform Y"), ("age + (1 | donor)", "each column of Y"), (3, "each column of Y")],
)
def test_formulas_without_a_response_of_their_own(formula, message):
    with pytest.raises(slm.FormulaError, match=message):
        slm.lmm_many(formula, samples(), responses())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": np.ones((3, 500))}, "weights of 12 responses and 500 samples"),
        ({"weights": np.zeros((12, 500))}, "positive and finite"),
        ({"weights": np.full((12, 500), "a")}, "weights of each response are numbers"),
        ({"samples": "id"}, "no such column"),
        ({"layer": "log"}, "is for AnnData"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(slm.DataError, match=message):
        slm.lmm_many(ONE, samples(), responses(), **options)


def test_a_term_with_an_effect_a_row_says_which_weights_help():
    """Weights that all responses share tell sigma from it, weights of each response do not."""
    data, w = samples().assign(row=np.arange(500)), np.linspace(1, 3, 500)
    with pytest.raises(slm.ModelError, match="to lmm_many: one a sample, for all responses"):
        slm.lmm_many("~ age + (1 | row)", data, responses(), weights=np.tile(w, (12, 1)))
    assert slm.lmm_many("~ age + (1 | row)", data, responses()[:, :2], weights=w).converged.all()


def test_a_response_named_like_a_column_and_weights_by_name():
    data = samples().assign(w=1.0, y=3.0)
    assert_same(slm.lmm_many("y" + ONE, data, responses(), weights="w"), slm.lmm_many(ONE, samples(), responses()))


def test_reml_is_no_word():
    with pytest.raises(slm.ModelError, match="reml='ML': True for REML"):
        slm.lmm_many(ONE, samples(), responses(), reml="ML")


def test_an_iterator_without_blocks_for_one_variance():
    with pytest.raises(slm.DataError, match="Y has no responses"):
        slm.lmm_many(ONE, samples(), iter([]), mode="common")


def test_weights_with_labels_are_matched_with_those_of_y(named):
    """By place they went to other genes and samples."""
    data, Y = named
    rng = np.random.default_rng(6)
    weights = pd.DataFrame(rng.uniform(0.3, 3.0, (V, 500)), index=Y.columns, columns=Y.index)
    expected = slm.lmm_many(ONE, data, Y, weights=weights.to_numpy())
    turned = weights.iloc[::-1, rng.permutation(500)]
    assert_same(slm.lmm_many(ONE, data, Y, weights=turned), expected)
    with pytest.raises(slm.DataError, match="their samples are not those of Y; Y has no 't1'"):
        slm.lmm_many(ONE, data, Y, weights=weights.rename(columns={"s1": "t1"}))
    with pytest.raises(slm.DataError, match="their responses are not those of Y; Y has no 'x'"):
        slm.lmm_many(ONE, data, Y, weights=weights.rename(index={"gene1": "x"}))
    order = rng.permutation(500)
    mixed = slm.lmm_many(ONE, data, Y.iloc[order], weights=weights.to_numpy()[:, order])
    assert_same(mixed, expected)


@pytest.mark.parametrize("what", ["weights", "offset"])
def test_a_series_that_all_responses_share_is_matched_by_its_labels(named, what):
    """By place, beside a table whose labels are a column or which has none, they went to other samples."""
    data, Y = named
    values = pd.Series(np.random.default_rng(7).uniform(0.3, 3.0, 500), index=Y.index)
    expected = slm.lmm_many(ONE, data, Y, **{what: values.to_numpy()})
    turned, table = values.sample(frac=1.0, random_state=1), data.reset_index(names="id")
    labelled = Y.sample(frac=1.0, random_state=2)
    for given in (table, pl.from_pandas(table)):
        own = labelled.reset_index(names="id")
        assert_same(slm.lmm_many(ONE, given, own, samples="id", **{what: turned}), expected)
    for given in (data, samples(), pl.from_pandas(samples())):
        assert_same(slm.lmm_many(ONE, given, Y, **{what: turned}), expected)
    with pytest.raises(slm.DataError, match=f"1 samples of the table are not in {what}: 's1'"):
        slm.lmm_many(ONE, data, Y, **{what: turned.rename({"s1": "t1"})})
    with pytest.raises(slm.DataError, match=f"{what}: the Series has another index than the table"):
        slm.lmm_many(ONE, samples(), Y.to_numpy(), **{what: turned})


def test_samples_need_labels_on_both_sides(named):
    """Without labels of Y they were passed over."""
    data, Y = named
    table = data.reset_index(names="id")
    with pytest.raises(slm.DataError, match="samples='id': the rows of Y have no labels"):
        slm.lmm_many(ONE, table, Y.to_numpy(), samples="id")
    with pytest.raises(slm.DataError, match="500 samples of the table are not in Y: 's0'"):
        slm.lmm_many(ONE, table, Y.reset_index(drop=True), samples="id")
    order = np.random.default_rng(2).permutation(500)
    numbered = samples().assign(id=np.arange(500)).iloc[order]
    assert_same(slm.lmm_many(ONE, numbered, Y.reset_index(drop=True), samples="id"), slm.lmm_many(ONE, data, Y))


@pytest.mark.parametrize("options", [{"reml": np.array([1, 2])}, {"block": True}])
def test_what_is_no_option(options):
    with pytest.raises(slm.ModelError, match=f"{next(iter(options))}="):
        slm.lmm_many(ONE, samples(), responses(), **options)
