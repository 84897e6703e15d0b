"""Pair tables of relationships: what is read, families, precision and determinant against dense algebra, repairs."""

import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.structures.conformance import check_precision
from sparselmm.structures.kinship import SMALLEST, read_kinship

EXACT_RTOL = 1e-10  # explicit inverses of small matrices


def trios(m=4):
    """m families of two unrelated parents and a child, and one person alone; the dense matrix and its pairs."""
    block = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 1.02]])
    A = np.eye(3 * m + 1)
    for f in range(m):
        A[3 * f : 3 * f + 3, 3 * f : 3 * f + 3] = block
    i, j = np.nonzero(np.tril(A))
    return A, pd.DataFrame({"i": i, "j": j, "value": A[i, j]})


def names(m):
    return [f"p{i}" for i in range(m)]


@pytest.fixture(params=["grm.sp", "mtx", "csv", "table", "matrix", "both orders"])
def source(request, tmp_path):
    """The same relationships in every form, and the ids to give with it."""
    A, pairs = trios()
    labels = names(len(A))
    named = pairs.assign(i=[labels[k] for k in pairs.i], j=[labels[k] for k in pairs.j])
    path = tmp_path / f"kin.{request.param}"
    if request.param == "grm.sp":
        pairs.to_csv(path, sep="\t", header=False, index=False)
        pd.DataFrame({"fid": "f", "iid": labels}).to_csv(tmp_path / "kin.grm.id", sep="\t", header=False, index=False)
        return path, None
    if request.param == "mtx":
        scipy.io.mmwrite(path, sp.coo_array(A), symmetry="symmetric")
        return path, labels
    if request.param == "csv":
        named.to_csv(path, index=False)
        return path, labels
    if request.param == "both orders":
        off = named[named.i != named.j]
        return pd.concat([named, off.rename(columns={"i": "j", "j": "i"})[["i", "j", "value"]]]), labels
    return (named, labels) if request.param == "table" else (sp.csr_array(A), labels)


def test_every_source_gives_the_same_matrix_and_families(source):
    A, _ = trios()
    kinship = read_kinship(source[0], ids=source[1])
    assert kinship.ids == tuple(names(len(A)))
    np.testing.assert_array_equal(kinship.matrix.toarray(), A)
    assert kinship.n_families == 5 and kinship.sizes().tolist() == [3, 3, 3, 3, 1]
    assert kinship.family.tolist() == np.append(np.repeat(np.arange(4), 3), 4).tolist()
    assert kinship.repaired.empty and "13 people in 5 families" in repr(kinship)


def test_precision_and_its_determinant_are_the_dense_ones():
    A, pairs = trios()
    Q = read_kinship(pairs).precision()
    check_precision(Q)
    rows, cols = Q.pattern()
    dense = np.zeros(A.shape)
    dense[rows, cols] = dense[cols, rows] = Q.values(np.zeros(0))
    np.testing.assert_allclose(dense, np.linalg.inv(A), rtol=EXACT_RTOL, atol=EXACT_RTOL)
    assert Q.logdet(np.zeros(0)) == pytest.approx(-np.linalg.slogdet(A)[1], rel=EXACT_RTOL)


def test_in_a_model_it_is_the_covariance():
    A, pairs = trios(10)
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"id": np.arange(len(A)), "y": np.linalg.cholesky(A) @ rng.normal(size=len(A))})
    held = {"sd_known(Intercept)|id": 0.8, "sigma": 0.6}
    fits = [
        slm.lmm("y ~ 1 + known(1 | id, Q)", data, context={"Q": Q}, fixed=held)
        for Q in (read_kinship(pairs).precision(), slm.Known(A, kind="covariance"))
    ]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, rel=EXACT_RTOL)


def test_threshold_cuts_pairs_and_a_missing_diagonal_is_one():
    table = pd.DataFrame({"a": ["x", "y"], "b": ["y", "z"], "value": [0.25, 0.04]})
    cut = read_kinship(table, threshold=0.05)
    assert cut.sizes().tolist() == [2, 1] and cut.matrix.diagonal().tolist() == [1.0, 1.0, 1.0]
    assert read_kinship(table).sizes().tolist() == [3]
    assert read_kinship(table, ids=["w", "x", "y", "z"]).sizes().tolist() == [3, 1]


def indefinite():
    """A chain of first-degree relatives whose ends were cut: the smallest eigenvalue is 1 - 0.8 sqrt(2)."""
    A, pairs = trios(1)
    chain = pd.DataFrame({"i": [4, 5, 6, 5, 6], "j": [4, 5, 6, 4, 5], "value": [1.0, 1.0, 1.0, 0.8, 0.8]})
    return pd.concat([pairs, chain], ignore_index=True)


def test_a_block_that_is_not_positive_definite_is_named():
    with pytest.raises(slm.DataError, match=r"1 families .*4, 5, 6 \(3 people, smallest eigenvalue -0.131\).*repair"):
        read_kinship(indefinite())


@pytest.mark.parametrize("repair", ["ridge", "eigen"])
def test_repairs_change_only_that_block_and_are_reported(repair):
    given = read_kinship(trios(1)[1]).matrix.toarray()
    kinship = read_kinship(indefinite(), repair=repair)
    A = kinship.matrix.toarray()
    block = A[4:, 4:]
    np.testing.assert_array_equal(A[:4, :4], given)
    assert not A[:4, 4:].any()
    size = 1.0 * SMALLEST
    assert np.linalg.eigvalsh(block)[0] == pytest.approx(size, rel=1e-9)
    row = kinship.repaired.iloc[0]
    assert row["size"] == 3 and row["smallest"] == pytest.approx(1 - 0.8 * np.sqrt(2)) and row["change"] > 0.1 * size
    if repair == "ridge":
        np.testing.assert_allclose(block - np.diag(np.diag(block)), [[0, 0.8, 0], [0.8, 0, 0.8], [0, 0.8, 0]])
    kinship.precision()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(value=np.nan), "infinite or missing"),
        (lambda t: t.assign(value="a"), "third column is not numeric"),
        (lambda t: t[["i", "j"]], "three columns"),
        (lambda t: pd.concat([t, t.assign(value=t.value + 0.1)]), "stands there twice: 1 and 1.1"),
        (lambda t: t.assign(i=None), "pairs have no name"),
    ],
)
def test_bad_tables(change, message):
    with pytest.raises(slm.DataError, match=message):
        read_kinship(change(trios()[1]))


def test_bad_arguments(tmp_path):
    A, pairs = trios()
    with pytest.raises(slm.DataError, match="1 people of the pairs are not in ids, the first is 12"):
        read_kinship(pairs, ids=range(12))
    with pytest.raises(slm.DataError, match="12 ids for a matrix of 13"):
        read_kinship(sp.csr_array(A), ids=range(12))
    with pytest.raises(slm.ModelError, match="repair='bend'"):
        read_kinship(pairs, repair="bend")
    with pytest.raises(slm.ModelError, match="threshold=-1"):
        read_kinship(pairs, threshold=-1)
    with pytest.raises(slm.DataError, match="no file"):
        read_kinship(tmp_path / "nothing.grm.sp")
    (tmp_path / "x.grm.sp").write_text("0 0 1.0\n")
    with pytest.raises(slm.DataError, match="x.grm.id beside it"):
        read_kinship(tmp_path / "x.grm.sp")
    (tmp_path / "x.mtx").write_text("nonsense")
    with pytest.raises(slm.DataError, match="x.mtx"):
        read_kinship(tmp_path / "x.mtx")


@pytest.mark.parametrize("header", ["", "one two value\n"])
def test_a_text_file_with_or_without_names_of_columns(tmp_path, header):
    """The first pair of a file without names used to be taken for them."""
    file = tmp_path / "pairs.txt"
    file.write_text(header + "1 2 0.5\n2 3 0.25\n")
    found = slm.read_kinship(file)
    assert found.ids == (1, 2, 3)
    np.testing.assert_array_equal(found.matrix.toarray(), [[1, 0.5, 0], [0.5, 1, 0.25], [0, 0.25, 1]])
    file.write_text(header + "001 002 0.5\n")
    assert slm.read_kinship(file).ids == ("001", "002")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [("0 0 1\n-1 0 0.5\n", "person -1 is not among the 2"), ("1 0.5 0.5\n", "person 0.5"), ("2 0 0.5\n", "person 2")],
)
def test_places_in_a_grm_that_nobody_has(tmp_path, pairs, message):
    (tmp_path / "k.grm.sp").write_text(pairs)
    (tmp_path / "k.grm.id").write_text("f A\nf B\n")
    with pytest.raises(slm.DataError, match=message):
        slm.read_kinship(tmp_path / "k.grm.sp")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (pd.DataFrame(columns=["a", "b", "v"]), {}, "there are no people"),
        (sp.eye_array(2), {"ids": ["a", "a"]}, "id 'a' stands twice"),
        (pd.DataFrame([("a", "a", -1.0), ("a", "b", 0.1)]), {"repair": "ridge"}, "'a' has relationship -1 with itself"),
        (np.eye(3), {}, r"3 by 3 is a matrix, not pairs: .*csc_array"),
        (pd.DataFrame(np.eye(4)), {}, "4 by 4 is a matrix"),
        (sp.csr_array(np.eye(2) * 1j), {}, "real numbers, not complex128"),
        (sp.eye_array(2), {"ids": "ab"}, "ids='ab': a list of people"),
        (sp.eye_array(2), {"ids": 2}, "ids=2: a list of people"),
        (3, {}, "a table of pairs or a sparse matrix is needed, not int"),
        (pd.DataFrame([("a", "a", 0.0)]), {"repair": "ridge"}, "'a' has relationship 0 with itself"),
    ],
)
def test_people_that_cannot_be(source, options, message):
    with pytest.raises(slm.DataError, match=message):
        slm.read_kinship(source, **options)


@pytest.mark.parametrize("threshold", ["a", None, True, np.array([0.1, 0.2]), np.nan])
def test_a_threshold_is_a_number(threshold):
    with pytest.raises(slm.ModelError, match="a size of relationships, at least 0"):
        read_kinship(trios()[1], threshold=threshold)


def test_entries_of_a_sparse_matrix_at_one_place_add_up():
    """As scipy's do; the first of them used to be the relationship."""
    parts = sp.coo_array(([0.25, 0.25, 1.0, 1.0], ([0, 0, 0, 1], [1, 1, 0, 1])), shape=(2, 2))
    np.testing.assert_array_equal(read_kinship(parts).matrix.toarray(), [[1.0, 0.5], [0.5, 1.0]])


@pytest.mark.parametrize(
    ("name", "text", "people", "message"),
    [
        ("k.grm.sp", "", "f A\n", "k.grm.sp is empty"),
        ("k.grm.sp", "0 0 1\n", "A\n", "k.grm.id has one column; family and person"),
        ("k.csv", "", "", "k.csv"),
    ],
)
def test_files_that_break_off(tmp_path, name, text, people, message):
    (tmp_path / name).write_text(text)
    (tmp_path / "k.grm.id").write_text(people)
    with pytest.raises(slm.DataError, match=message):
        read_kinship(tmp_path / name)


@pytest.mark.parametrize("text", ["A B 0.5\nB  C 0.25\n", "  A   B  0.5\n  B   C  0.25\n", "A\tB\t0.5\nB\tC\t0.25\n"])
def test_columns_apart_by_any_blanks(tmp_path, text):
    (tmp_path / "pairs.txt").write_text(text)
    kinship = slm.read_kinship(tmp_path / "pairs.txt")
    assert kinship.ids == ("A", "B", "C")
    expected = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]]
    np.testing.assert_array_equal(kinship.matrix.toarray(), expected)


def test_a_line_of_names_above_the_ids_of_a_grm(tmp_path):
    (tmp_path / "k.grm.sp").write_text("0 0 1\n1 0 0.5\n1 1 1\n")
    (tmp_path / "k.grm.id").write_text("#FID IID\nf A\nf B\n")
    assert slm.read_kinship(tmp_path / "k.grm.sp").ids == ("A", "B")
