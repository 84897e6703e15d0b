"""Where genotypes come from: every source gives the same table; files that are corrupt say so."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.scanning import projection
from sparselmm.scanning.markers import open_markers
from tests import naive
from tests.scanning.simulated import study

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "genomics"
EXACT_RTOL = 1e-9  # explicit inverses of n x n matrices on the other side
SAME_RTOL = 1e-12  # the same sums

bed_reader = pytest.importorskip("bed_reader")


@pytest.fixture(scope="module")
def made():
    return study(markers=14)


@pytest.fixture(scope="module")
def null(made):
    return slm.lmm("y ~ x + (1 | id)", made.data)


def codes(made):
    """In bytes, -127 for missing."""
    return np.where(np.isnan(made.genotypes), -127, made.genotypes).astype(np.int8)


@pytest.fixture
def prefix(made, tmp_path):
    """PLINK files of the study as bed-reader writes them, samples in another order."""
    order = np.random.default_rng(0).permutation(len(made.ids))
    properties = {
        "fid": ["f"] * len(order), "iid": [made.ids[i] for i in order], "sid": list(made.frame.columns),
        "chromosome": [1] * 9 + [2] * 5, "bp_position": np.arange(14) * 10, "allele_1": ["A"] * 14,
        "allele_2": ["C"] * 14,
    }  # fmt: skip
    bed_reader.to_bed(tmp_path / "study.bed", codes(made)[order], properties=properties)
    return tmp_path / "study"


def test_every_source_gives_the_same_table(made, null, prefix):
    frame = slm.scan(null, made.frame, sample="id").table
    blocks = ((list(made.frame.columns[a:b]), codes(made)[:, a:b]) for a, b in ((0, 3), (3, 4), (4, 14)))
    others = [
        slm.scan(null, codes(made), samples=made.ids, markers=made.frame.columns, sample="id"),
        slm.scan(null, np.asfortranarray(codes(made)), samples=made.ids, markers=made.frame.columns, sample="id"),
        slm.scan(null, made.genotypes.astype(np.float32), samples=made.ids, markers=made.frame.columns, sample="id"),
        slm.scan(null, codes(made).astype(np.int64), samples=made.ids, markers=made.frame.columns, sample="id"),
        slm.scan(null, blocks, samples=made.ids, sample="id"),
        slm.scan(null, sp.csr_array(made.genotypes), samples=made.ids, markers=made.frame.columns, sample="id"),
        slm.scan(null, pl.DataFrame(made.frame.to_dict("list")), samples=made.ids, sample="id", block=np.int64(5)),
        slm.scan(null, prefix, sample="id"),
        slm.scan(null, f"{prefix}.bed", sample="id", block=4),
    ]
    for other in others:
        pd.testing.assert_frame_equal(other.table[frame.columns], frame, rtol=SAME_RTOL)
    plink = others[-1].table
    assert plink.chromosome.tolist() == ["1"] * 9 + ["2"] * 5 and plink.position.tolist() == list(range(0, 140, 10))
    assert (plink.allele == "A").all() and (plink.other_allele == "C").all()


def test_masked_and_nullable_genotypes_are_missing(made, null):
    frame = slm.scan(null, made.frame, sample="id").table
    masked = np.ma.masked_array(np.where(np.isnan(made.genotypes), 2, made.genotypes), mask=np.isnan(made.genotypes))
    named = dict(samples=made.ids, markers=made.frame.columns, sample="id")
    for given in (masked, masked.astype(np.int8)):
        pd.testing.assert_frame_equal(slm.scan(null, given, **named).table, frame, rtol=SAME_RTOL)
    pd.testing.assert_frame_equal(slm.scan(null, made.frame.astype("Int64"), sample="id").table, frame, rtol=SAME_RTOL)


def test_flags_beside_counts(made, null):
    frame = made.frame.assign(carrier=made.genotypes[:, 0] > 0)
    table = slm.scan(null, frame, sample="id").table
    alone = slm.scan(null, frame[["carrier"]], sample="id").table
    pd.testing.assert_frame_equal(table.iloc[14:].reset_index(drop=True), alone, rtol=SAME_RTOL)
    pd.testing.assert_frame_equal(table[:14], slm.scan(null, made.frame, sample="id").table, rtol=SAME_RTOL)


@pytest.mark.parametrize("limit", [32, 0])
def test_blocks_without_markers(made, null, monkeypatch, limit):
    """As an iterator has them that leaves out rare markers."""
    monkeypatch.setattr(projection, "LARGEST_FAMILY", limit)
    names = list(made.frame.columns)
    parts = [(names[a:b], made.genotypes[:, a:b]) for a, b in ((0, 0), (0, 5), (5, 5), (5, 14), (14, 14))]
    table = slm.scan(null, iter(parts), samples=made.ids, sample="id").table
    pd.testing.assert_frame_equal(table, slm.scan(null, made.frame, sample="id").table, rtol=SAME_RTOL)
    with pytest.raises(slm.DataError, match="the genotypes have no markers"):
        slm.scan(null, iter(parts[:1]), samples=made.ids, sample="id")


@pytest.mark.parametrize("scale", [1e200, 1e-160])
def test_values_whose_squares_are_no_numbers_have_a_reason(made, null, scale):
    table = slm.scan(null, made.frame * scale, sample="id").table
    assert table.p_value.isna().all()
    extreme = "values beyond 1e+100, or that differ by less than 1e-100: give other units"
    expected = {4: "no variation", 5: "no genotype is known"}
    assert table.reason.tolist() == [expected.get(j, extreme) for j in range(14)]


def test_a_bar_shows_progress(made, null, capsys):
    slm.scan(null, made.frame, sample="id", progress=True)
    assert "14/14" in capsys.readouterr().out


def test_samples_of_plink_files_by_other_names(made, null, prefix):
    """Their IIDs may be the same in two families; what was given used to be overlooked."""
    frame = slm.scan(null, prefix, sample="id").table
    fam = pd.read_csv(prefix.with_suffix(".fam"), sep=r"\s+", header=None, dtype=str)
    names = fam[1].tolist()
    prefix.with_suffix(".fam").write_text("".join(f"f{i} {1 + i // 2} 0 0 0 -9\n" for i in range(75)))
    with pytest.raises(slm.DataError, match="37 ids of samples stand twice .*give samples=, a different one for each"):
        slm.scan(null, prefix, sample="id")
    pd.testing.assert_frame_equal(slm.scan(null, prefix, samples=names, sample="id").table, frame, check_exact=True)
    with pytest.raises(slm.DataError, match="samples: 74 ids for genotypes of 75 samples"):
        slm.scan(null, prefix, samples=names[1:], sample="id")


def test_markers_that_would_be_overlooked(made, null, prefix):
    with pytest.raises(slm.ModelError, match="markers= is for tables and arrays: PLINK files have them in .bim"):
        slm.scan(null, prefix, sample="id", markers=list("ab"))
    with pytest.raises(slm.ModelError, match="each block of an iterator has its own"):
        slm.scan(null, iter([(["a"], made.genotypes[:, :1])]), samples=made.ids, sample="id", markers=["b"])


def truncate(prefix):
    file = prefix.with_suffix(".bed")
    file.write_bytes(file.read_bytes()[:-5])


def corrupt(prefix):
    file = prefix.with_suffix(".bed")
    file.write_bytes(b"PK" + file.read_bytes()[2:])


def by_sample(prefix):
    file = prefix.with_suffix(".bed")
    file.write_bytes(b"\x6c\x1b\x00" + file.read_bytes()[3:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"study.bed is truncated: 264 bytes, while 14 markers \(.bim\) of 75 samples \(.fam\) need 269"),
        (corrupt, "study.bed is no PLINK 1 bed file: it begins with 504b01"),
        (by_sample, "sorted by sample"),
        (lambda p: p.with_suffix(".fam").unlink(), "no file .*study.fam"),
        (lambda p: p.with_suffix(".bim").write_text("1 rs1 0\n"), "study.bim has 3 columns; 6 are needed"),
        (lambda p: p.with_suffix(".fam").write_text(""), "study.fam cannot be read"),
        (lambda p: p.with_suffix(".bed").write_bytes(b""), "begins with"),
    ],
)
def test_damaged_files(null, prefix, damage, message):
    damage(prefix)
    with pytest.raises(slm.DataError, match=message):
        slm.scan(null, prefix, sample="id")


def with_code(code, kind, ploidy=2):
    """Counts of two markers, one genotype in thirty `code`."""
    G = np.random.default_rng(1).binomial(ploidy, 0.5, (75, 2))
    G[::30] = code
    return G.astype(kind)


@pytest.mark.parametrize(
    ("genotypes", "options", "message"),
    [
        (np.zeros(75), {}, r"shape \(75,\)"),
        (np.full((75, 2), "A"), {}, "are numbers"),
        (np.full((75, 2), -9, dtype=np.int8), {}, "the whole number -9: -127 is missing"),
        (np.full((75, 2), -1, dtype=np.int32), {}, "the whole number -1: -127 is missing"),
        (np.full((75, 2), 255, dtype=np.uint8), {}, "the whole number 255: -127 is missing"),
        (np.full((75, 2), 127, dtype=np.int8), {}, "the whole number 127: -127 is missing"),
        (with_code(9, np.int8), {}, "the number 9 beside counts of alleles: a code for missing, it seems"),
        (with_code(9, np.float32), {}, r"np.where\(G == 9, np.nan, G\)"),
        (with_code(5, np.int64), {}, "the number 5 beside counts"),
        (with_code(99, np.int8), {}, "the number 99 beside counts"),
        (with_code(9, np.int8, ploidy=4), {}, "the number 9 beside counts"),
        (with_code(-1, np.float64), {}, "the number -1 beside counts"),
        (np.zeros((75, 2)), {"markers": ["a"]}, "1 ids for 2 columns"),
        (np.zeros((75, 2)), {"samples": ["a"]}, "1 ids for genotypes of 75 samples"),
        (np.zeros((75, 2)), {"markers": pd.DataFrame({"id": [1, 2]})}, "needs a column 'marker'"),
        (iter([]), {}, "has no blocks"),
        (iter([np.zeros((75, 2))]), {}, "gives pairs"),
        (iter([(["a"], np.zeros((75, 2)))]), {}, "1 ids for 2 markers"),
        (iter([(["a"], np.zeros((75, 1))), (["b"], np.zeros((74, 1)))]), {}, r"shape \(74, 1\); 75 samples"),
        (3, {}, "a path, a DataFrame, an array, a sparse matrix or an iterator of blocks, not int"),
        ({"rs0": np.zeros(75)}, {}, r"not dict: give other arrays in blocks"),
        (pd.Series(np.zeros(75)), {}, "not Series"),
        (pd.DataFrame({"rs0": np.zeros(75), "who": "a"}), {}, "1 columns .* hold no numbers, the first is 'who'"),
        (np.full((75, 2), -9.0), {}, "the number -9, a code for missing: missing is NaN in floats"),
        (np.zeros((75, 2)), {"markers": 2}, "markers=2: a list of ids or a table"),
        (np.zeros((75, 2)), {"markers": "ab"}, "markers='ab': a list of ids or a table"),
        ("nowhere", {}, "no file nowhere.bed"),
    ],
)
def test_bad_genotypes(made, null, genotypes, options, message):
    with pytest.raises(slm.DataError, match=message):
        slm.scan(null, genotypes, sample="id", **{"samples": made.ids} | options)


@pytest.mark.parametrize("ploidy", [3, 4, 6, 8, 10, 12])
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.float64])
def test_counts_of_polyploids_are_taken_as_they_are(made, null, ploidy, kind):
    G = np.random.default_rng(ploidy).binomial(ploidy, 0.5, (75, 40)).astype(kind)
    table = slm.scan(null, G, samples=made.ids, sample="id").table
    np.testing.assert_allclose(table["mean"], G.mean(axis=0), rtol=SAME_RTOL)
    assert (table.n == 75).all() and (table.reason == "").all()


@pytest.mark.parametrize("code", [9, 5, 99, -1])
def test_what_the_error_of_a_code_recommends(made, null, code):
    G = with_code(code, np.float64)
    options = {"samples": made.ids, "sample": "id"}
    assert (slm.scan(null, np.where(G == code, np.nan, G), **options).table.n == 72).all()
    thirds = slm.scan(null, (G + 1) / 3, **options).table
    np.testing.assert_allclose(3 * thirds["mean"] - 1, G.mean(axis=0), rtol=SAME_RTOL)
    assert (thirds.n == 75).all()


def test_minus_one_zero_and_one_are_genotypes(made, null):
    minus = slm.scan(null, made.frame - 1.0, sample="id").table
    frame = slm.scan(null, made.frame, sample="id").table
    pd.testing.assert_frame_equal(minus.drop(columns="mean"), frame.drop(columns="mean"), rtol=SAME_RTOL)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared references are not here")
def test_every_marker_of_a_real_file_is_the_dense_computation():
    """FaST-LMM's toy data: 500 people, 10,000 variants, kinship from every fifth one; explicit V^-1 and P."""
    phe = pd.read_csv(SHARED / "toydata.phe", sep=r"\s+", names=["fid", "iid", "y"])
    cov = pd.read_csv(SHARED / "toydata.cov", sep=r"\s+", names=["fid", "iid", "x"])
    data = phe.merge(cov, on=["fid", "iid"])
    path = SHARED / "toydata.5chrom.bed"
    with bed_reader.open_bed(path) as bed:
        G, ids = bed.read(dtype="float64"), list(bed.iid)
    assert set(ids) == set(data.iid) and not np.isnan(G).any()
    G = G[[ids.index(i) for i in data.iid]]
    S = (G - G.mean(axis=0))[:, ::5]
    S = S[:, S.std(axis=0) > 0] / S.std(axis=0)[S.std(axis=0) > 0]
    K = S @ S.T / S.shape[1] + 0.01 * np.eye(500)
    Q = slm.Known(K, kind="covariance", levels=data.iid.tolist())
    fit = slm.lmm("y ~ x + known(1 | iid, Q)", data, context={"Q": Q})
    table = slm.scan(fit, path, sample="iid").table
    assert len(table) == 10_000 and fit.varpar.iloc[0] > 0.1

    y, X, sigma = data.y.to_numpy(), np.column_stack([np.ones(500), data.x]), fit.sigma
    P = naive.projection(X, np.eye(500) + (fit.varpar.iloc[0] / sigma) ** 2 * K)
    with np.errstate(invalid="ignore", divide="ignore"):
        gPg, gPy = np.einsum("ij,ij->j", G, P @ G), G.T @ P @ y
        beta, df = gPy / gPg, 500 - 3
        se = np.sqrt((y @ P @ y - gPy**2 / gPg) / df / gPg)
    varies = G.std(axis=0) > 0
    assert (table.reason == "no variation").to_numpy().tolist() == (~varies).tolist() and varies.sum() > 9000
    error = np.abs(table.effect - beta) / np.maximum(np.abs(beta), se)
    assert error[varies].max() < EXACT_RTOL
    np.testing.assert_allclose(table.se[varies], se[varies], rtol=EXACT_RTOL)


def test_without_bed_reader_the_error_says_what_to_install(null, prefix, monkeypatch):
    monkeypatch.setitem(sys.modules, "bed_reader", None)
    with pytest.raises(slm.ModelError, match=r'pip install "sparselmm\[plink\]"'):
        slm.scan(null, prefix, sample="id")


def test_opening_reads_no_genotypes(prefix):
    source = open_markers(prefix)
    assert (source.n_samples, len(source.info)) == (75, 14)
