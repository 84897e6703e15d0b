"""Shipped data sets and golden data: published sizes and levels, types, hashes."""

import hashlib
import lzma
import timeit

import numpy as np
import pandas as pd
import pytest

from sparselmm._errors import DataError
from sparselmm.datasets import FOLDER, dataset_names, load_dataset, schema
from tests import golden

LOAD_SECONDS = 0.3  # asked for InstEval; it takes about 0.04

# Rows and levels as in the help pages of lme4 1.1-31 and nlme 3.1-162.
PUBLISHED = {
    "sleepstudy": (180, {"Subject": 18}),
    "InstEval": (73421, {"s": 2972, "d": 1128, "studage": 4, "lectage": 6, "service": 2, "dept": 14}),
    "Penicillin": (144, {"plate": 24, "sample": 6}),
    "Pastes": (60, {"batch": 10, "cask": 3, "sample": 30}),
    "Dyestuff": (30, {"Batch": 6}),
    "Dyestuff2": (30, {"Batch": 6}),
    "cake": (270, {"replicate": 15, "recipe": 3, "temperature": 6}),
    "Orthodont": (108, {"Subject": 27, "Sex": 2}),
    "Ovary": (308, {"Mare": 11}),
    "Machines": (54, {"Worker": 6, "Machine": 3}),
    "Oats": (72, {"Block": 6, "Variety": 3}),
    "Rail": (18, {"Rail": 6}),
}
ORDERED = {
    ("InstEval", "studage"): ["2", "4", "6", "8"],
    ("InstEval", "lectage"): ["1", "2", "3", "4", "5", "6"],
    ("cake", "temperature"): ["175", "185", "195", "205", "215", "225"],
    ("Oats", "Block"): ["VI", "V", "III", "IV", "II", "I"],
    ("Rail", "Rail"): ["2", "5", "1", "6", "3", "4"],
    ("Machines", "Worker"): ["6", "2", "4", "1", "3", "5"],
    ("Ovary", "Mare"): ["4", "2", "11", "7", "5", "9", "1", "6", "10", "3", "8"],
}


def test_names_are_those_published():
    assert sorted(dataset_names()) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_and_levels_are_the_published_ones(name):
    table = load_dataset(name)
    rows, levels = PUBLISHED[name]
    factors = table.select_dtypes("category")
    assert len(table) == rows and not table.isna().any(axis=None)
    assert {column: factors[column].nunique() for column in factors} == levels
    assert {column: len(factors[column].cat.categories) for column in factors} == levels
    assert set(table.drop(columns=list(levels)).dtypes.astype(str)) <= {"float64", "int64"}


@pytest.mark.parametrize(("name", "column"), ORDERED)
def test_ordered_factors_keep_their_order(name, column):
    levels = load_dataset(name)[column].cat
    assert levels.ordered and list(levels.categories) == ORDERED[name, column]


def test_departments_keep_the_order_of_lme4():
    dept = load_dataset("InstEval")["dept"].cat
    assert not dept.ordered
    assert list(dept.categories) == ["15", "5", "10", "12", "6", "7", "4", "8", "9", "14", "1", "3", "11", "2"]


def test_first_rows_of_sleepstudy():
    expected = [249.5600, 258.7047, 250.8006, 321.4398]  # Belenky et al. (2003), as printed by head(sleepstudy)
    table = load_dataset("sleepstudy")
    assert list(table["Reaction"][:4]) == expected
    assert list(table["Days"][:4]) == [0.0, 1.0, 2.0, 3.0] and set(table["Subject"][:10]) == {"308"}


def test_means_of_dyestuff():
    means = load_dataset("Dyestuff").groupby("Batch", observed=True)["Yield"].mean()
    np.testing.assert_array_equal(means, [1505, 1528, 1564, 1498, 1600, 1470])  # Box & Tiao (1973), section 5.1.2


@pytest.mark.parametrize("name", PUBLISHED)
def test_hash_of_a_shipped_data_set(name):
    data = lzma.decompress((FOLDER / "data" / f"{name}.csv.xz").read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    assert digest == schema()[name]["sha256"] and digest in (FOLDER / "PROVENANCE.md").read_text()


def test_insteval_loads_quickly():
    assert min(timeit.repeat(lambda: load_dataset("InstEval"), number=1, repeat=3)) < LOAD_SECONDS


def test_names_may_be_in_any_case():
    pd.testing.assert_frame_equal(load_dataset("INSTEVAL"), load_dataset("InstEval"))


def test_changing_a_loaded_table_changes_no_other():
    table = load_dataset("Rail")
    table["travel"] = 0.0
    assert load_dataset("Rail")["travel"].iloc[0] == 55


def test_an_unknown_name_gets_close_matches_and_the_list():
    with pytest.raises(DataError, match=r"'sleepstdy'\. Did you mean sleepstudy\?.*There are: .*InstEval"):
        load_dataset("sleepstdy")
    with pytest.raises(DataError, match="no data set 'zzz'. There are"):
        load_dataset("zzz")


def test_every_golden_fit_has_its_data():
    fits = golden.fits()
    assert len(fits) == 152 and len({fit["id"] for fit in fits}) == 152
    for dataset in {fit["dataset"] for fit in fits}:
        rows = {fit["n"] for fit in fits if fit["dataset"] == dataset}
        assert max(rows) <= len(golden.load(dataset))


def test_hashes_of_golden_data():
    provenance = (golden.FOLDER / "PROVENANCE.md").read_text()
    for name, entry in golden.golden_schema().items():
        data = lzma.decompress((golden.FOLDER / "data" / f"{name}.csv.xz").read_bytes())
        assert hashlib.sha256(data).hexdigest() == entry["sha256"] and entry["sha256"] in provenance
    fits = lzma.decompress((golden.FOLDER / "fits.json.xz").read_bytes())
    assert hashlib.sha256(fits).hexdigest() in provenance


def test_golden_missing_values_are_missing():
    table = golden.load("derived_sleepstudy_na")
    complete = len(table.dropna(subset=["Reaction", "Days"]))
    assert complete == next(fit["n"] for fit in golden.fits() if fit["dataset"] == "derived_sleepstudy_na") < len(table)
