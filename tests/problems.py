"""Named problems: a data maker, a formula and tags. Shared by tests (small) and benchmarks (any size).

`PROBLEMS["crossed"].model(n)` is unfitted; `.data(n)` is the table, or the arrays for problems tagged "arrays".
`STRUCTURED` are the problems with correlated levels or residuals, `INTRINSIC` those without a dense counterpart. The
same name and n give the same numbers everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import scipy.sparse as sp

SMALL = 144  # rows of the versions that are compared with n x n matrices


@dataclass(frozen=True, slots=True)
class Problem:
    """One model. make(rng, n): a DataFrame, or for `arrays` the arguments of `from_arrays`.

    weights, offset: names of columns. tags: what the problem is good for. residual: as `lmm` takes it. context(n):
    what the formula names besides columns.
    """

    name: str
    formula: str
    make: Callable[[np.random.Generator, int], Any]
    tags: frozenset[str] = frozenset()
    weights: str | None = None
    offset: str | None = None
    residual: str | None = None
    context: Callable[[int], dict[str, Any]] = lambda n: {}

    def options(self, n: int = SMALL) -> dict[str, Any]:
        """What `lmm` takes besides formula and table."""
        given = {"weights": self.weights, "offset": self.offset, "residual": self.residual}
        return {"context": self.context(n)} | {name: value for name, value in given.items() if value is not None}

    def data(self, n: int = SMALL) -> Any:
        """The table or the arrays of n rows."""
        return self.make(np.random.default_rng(crc32(self.name.encode())), n)

    def model(self, n: int = SMALL, engine: str = "auto") -> Any:
        """The unfitted `LinearMixedModel`."""
        from sparselmm import LinearMixedModel

        data = self.data(n)
        if "arrays" in self.tags:
            return LinearMixedModel.from_arrays(**data, engine=engine)
        return LinearMixedModel(self.formula, data, engine=engine, **self.options(n))

    def spec(self, n: int = SMALL) -> Any:
        """The `ModelSpec`."""
        if "arrays" in self.tags:
            return self.model(n).spec
        from sparselmm.formula import build_spec

        return build_spec(self.formula, self.data(n), **self.options(n))


def groups(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Codes of m levels, unbalanced, each used."""
    return rng.permutation(np.concatenate([np.arange(m), rng.integers(0, m, n - m)]))


def popular(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Codes of m levels whose popularity falls as 1/rank (Zipf), each used."""
    share = 1.0 / np.arange(1, m + 1)
    return rng.permutation(np.concatenate([np.arange(m), rng.choice(m, n - m, p=share / share.sum())]))


def effects(rng: np.random.Generator, codes: np.ndarray, columns: Any, *sds: float) -> np.ndarray:
    """Z b for independent effects: columns (r arrays or ones), one sd each."""
    m = int(codes.max()) + 1
    return sum(c * rng.normal(scale=sd, size=m)[codes] for c, sd in zip(columns, sds, strict=True))


def _base(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """A covariate x, a second one z and noise in y."""
    return {"x": rng.normal(size=n), "z": rng.uniform(-1, 1, n), "y": rng.normal(size=n)}


def one_factor(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """n/6 groups, one covariate."""
    d = _base(rng, n)
    g = groups(rng, n, n // 6)
    return pd.DataFrame(d | {"g": g, "y": 2 + 0.5 * d["x"] + effects(rng, g, [1], 0.8) + d["y"]})


def longitudinal(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """n/8 subjects with intercepts and slopes in x and z; f, a factor of three levels."""
    d = _base(rng, n)
    g, f = groups(rng, n, n // 8), rng.integers(0, 3, n)
    y = 1 + d["x"] + effects(rng, g, [1, d["x"], d["z"]], 0.7, 0.5, 0.6) + d["y"]
    return pd.DataFrame(d | {"g": g, "f": pd.Categorical.from_codes(f, ["a", "b", "c"]), "y": y})


def nested(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """n/24 units a, four to each a labelled 0 ... 3 in b again and again."""
    d = _base(rng, n)
    a = groups(rng, n, n // 24)
    b = rng.integers(0, 4, n)
    y = d["x"] + effects(rng, a, [1], 0.9) + effects(rng, 4 * a + b, [1], 0.5) + d["y"]
    return pd.DataFrame(d | {"a": a, "b": b, "y": y})


def crossed(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Students and lecturers: every pair equally likely, n/12 of one and n/24 of the other."""
    d = _base(rng, n)
    s, l = groups(rng, n, n // 12), groups(rng, n, n // 24)  # noqa: E741
    y = d["x"] + effects(rng, s, [1], 0.6) + effects(rng, l, [1, d["z"]], 0.9, 0.4) + d["y"]
    return pd.DataFrame(d | {"s": s, "d": l, "y": y})


def partially_crossed(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Users and items: Zipf popularity of both, n/10 users and n/20 items."""
    d = _base(rng, n)
    u, i = popular(rng, n, n // 10), popular(rng, n, n // 20)
    y = effects(rng, u, [1], 0.7) + effects(rng, i, [1], 0.5) + d["y"]
    return pd.DataFrame(d | {"user": u, "item": i, "y": y})


def weighted(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """`one_factor` with weights w from 0.2 to 5."""
    d = one_factor(rng, n)
    return d.assign(w=np.exp(rng.uniform(np.log(0.2), np.log(5), n)))


def with_offset(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """`one_factor` with an offset of spread 3."""
    d = one_factor(rng, n)
    off = rng.normal(scale=3, size=n)
    return d.assign(off=off, y=d.y + off)


def rank_deficient(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """`one_factor` with x2 = 2 x - 1, and a factor f whose cells repeat another column."""
    d = one_factor(rng, n)
    f = rng.integers(0, 3, n)
    return d.assign(x2=2 * d.x - 1, f=pd.Categorical.from_codes(f, ["a", "b", "c"]), is_b=(f == 1).astype(float))


def interaction(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Blocks a by treatments b, only the combinations that occur."""
    d = _base(rng, n)
    a, b = groups(rng, n, n // 16), rng.integers(0, 3, n)
    y = effects(rng, a, [1], 0.5) + effects(rng, 3 * a + b, [1], 0.8) + 0.3 * b + d["y"]
    return pd.DataFrame(d | {"a": a, "b": pd.Categorical.from_codes(b, ["u", "v", "w"]), "y": y})


def large_response(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """`one_factor` with y around 1e9."""
    d = one_factor(rng, n)
    return d.assign(y=1e9 + d.y)


def sparse_slopes(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """A sparse Z with two effects a level, given as a matrix."""
    from sparselmm import RandomTerm

    m = n // 8
    g, x = groups(rng, n, m), rng.normal(size=n)
    rows = np.repeat(np.arange(n), 2)
    cols = (2 * g[:, None] + np.arange(2)).ravel()
    Z = sp.csr_array((np.column_stack([np.ones(n), x]).ravel(), (rows, cols)), shape=(n, 2 * m))
    y = x + effects(rng, g, [1, x], 0.8, 0.5) + rng.normal(size=n)
    return {"y": y, "X": np.column_stack([np.ones(n), x]), "terms": [RandomTerm(Z, effects=("Intercept", "x"))]}


def multi_membership(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Rows that belong to one to three of n/10 clubs with shares that add up to one, crossed with n/20 codes."""
    from sparselmm import RandomTerm

    m = n // 10
    share = rng.dirichlet(np.ones(3), n) * (rng.random((n, 3)) < 0.7)
    share[:, 0] += 0.1
    share /= share.sum(axis=1, keepdims=True)
    clubs = np.column_stack([groups(rng, n, m), rng.integers(0, m, (n, 2))])
    Z = sp.csr_array((share.ravel(), (np.repeat(np.arange(n), 3), clubs.ravel())), shape=(n, m))
    Z.eliminate_zeros()
    codes = groups(rng, n, n // 20)
    y = 3 + Z @ rng.normal(size=m) + effects(rng, codes, [1], 0.6) + rng.normal(size=n)
    return {"y": y, "X": np.ones((n, 1)), "terms": [RandomTerm(Z, name="club"), RandomTerm(codes, name="area")]}


def walk(rng: np.random.Generator, gaps: np.ndarray, start: np.ndarray, rho: float) -> np.ndarray:
    """Stationary series with variance 1 and correlation rho^gap from row to row; a new one wherever `start`."""
    keep = np.where(start, 0.0, rho**gaps)
    out, shocks = np.empty(len(keep)), np.sqrt(1 - keep**2) * rng.normal(size=len(keep))
    state = 0.0
    for i, (a, shock) in enumerate(zip(keep, shocks, strict=True)):
        state = out[i] = a * state + shock
    return out


def series(
    rng: np.random.Generator, n: int, times: int = 20, gap: float = 0.1, items: int | None = None
) -> pd.DataFrame:
    """Subjects g seen at twenty times: integers t with gaps, `when` nearby, items h and strata f crossed with them.

    An AR(1) of each subject in t (rho = 0.8), an intercept of each of n/60 items, and noise. gap: how often a time is
    left out.
    """
    d = _base(rng, n)
    g = np.arange(n) // times
    start = np.diff(g, prepend=-1) > 0
    gaps = 1.0 + (rng.random(n) < gap)
    ticks = np.cumsum(gaps).astype(np.int64)
    t = ticks - ticks[start][g]
    h, f = groups(rng, n, items or max(4, n // 60)), rng.integers(0, 3, n)
    y = 1 + 0.5 * d["x"] + walk(rng, gaps, start, 0.8) + effects(rng, h, [1], 0.5) + 0.6 * d["y"]
    when = t + rng.uniform(-0.4, 0.4, n)
    return pd.DataFrame(d | {"g": g, "t": t, "when": when, "h": h, "f": f, "y": y})


def residual_series(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """`series` without noise on top of the AR(1), an intercept of each subject, and sds 1, 2, 3 in the strata f."""
    frame = series(rng, n)
    start = np.diff(frame.g, prepend=-1) > 0
    e = walk(rng, np.diff(frame.t, prepend=0), start, 0.6) * (1 + frame.f)
    return frame.assign(y=1 + 0.5 * frame.x + effects(rng, frame.g.to_numpy(), [1], 0.8) + e)


def mating(n: int, generations: int = 6, males: int = 20) -> dict[str, np.ndarray]:
    """Parents of n animals in generations of random mating, -1 for the founders'; one male in twenty may sire."""
    rng = np.random.default_rng(n)
    size = -(-n // generations)
    born = np.arange(n)
    older = (born // size - 1) * size
    sire = older + 2 * rng.integers(0, max(1, size // (2 * males)), n)
    dam = older + 1 + 2 * rng.integers(0, size // 2, n)
    founder = born < size
    return {"sire": np.where(founder, -1, sire), "dam": np.where(founder, -1, dam)}


def breeding_values(rng: np.random.Generator, parents: dict[str, np.ndarray]) -> np.ndarray:
    """Of animals whose parents come before them, variance 1; inbreeding is ignored."""
    sire, dam = parents["sire"], parents["dam"]
    u, born = rng.normal(size=len(sire)), np.flatnonzero(sire >= 0)
    while len(born):
        ready = born[: np.searchsorted(np.maximum.accumulate(np.maximum(sire, dam)[born]), born[0])]
        u[ready] = 0.5 * (u[sire[ready]] + u[dam[ready]]) + np.sqrt(0.5) * u[ready]
        born = born[len(ready) :]
    return u


def pedigree(n: int, **options: int) -> dict[str, Any]:
    """P: the pedigree of `mating`, parents without a number left out."""
    from sparselmm import Pedigree

    parents = {k: pd.Series(v).where(v >= 0).astype("Int64") for k, v in mating(n, **options).items()}
    return {"P": Pedigree(np.arange(n), parents["sire"], parents["dam"])}


def animals(rng: np.random.Generator, n: int, herds: int | None = None, **options: int) -> pd.DataFrame:
    """A record of every animal of `mating`: breeding values with h^2 = 1/3, n/30 herds."""
    d = _base(rng, n)
    u = breeding_values(rng, mating(n, **options))
    herd = groups(rng, n, herds or max(4, n // 30))
    y = 10 + d["x"] + u + effects(rng, herd, [1], 0.7) + np.sqrt(2) * d["y"]
    return pd.DataFrame(d | {"animal": np.arange(n), "herd": herd, "y": y})


def calves(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """`animals` with a dam, whose effect is inherited (sd 0.8) and her own (0.4)."""
    table, dam = animals(rng, n), mating(n)["dam"]
    dams = breeding_values(rng, mating(n)) + 0.5 * rng.normal(size=n)
    return table.assign(dam=dam, y=table.y + 0.8 * dams[dam])[dam >= 0]


def repeated(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Two records of each of n/2 `animals`, with an effect of the animal that nobody inherits."""
    twice = np.repeat(np.arange(n // 2), 2)
    table, noise = animals(rng, n // 2).iloc[twice], _base(rng, len(twice))
    return table.assign(x=noise["x"], y=table.y + 0.5 * noise["x"] + noise["y"]).reset_index(drop=True)


KINSHIP = 0.5 * (np.eye(5) + 1.0)
KINSHIP[0, 1] = KINSHIP[1, 0] = 0.0  # parents are unrelated


def relatives(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """People in families of five: a record each, in n/12 places."""
    d, m = _base(rng, n), -(-n // 5)
    u = (rng.normal(size=(m, 5)) @ np.linalg.cholesky(KINSHIP).T).ravel()[:n]
    place = groups(rng, n, n // 12)
    return pd.DataFrame(
        d | {"id": np.arange(n), "place": place, "y": d["x"] + u + effects(rng, place, [1], 0.5) + d["y"]}
    )


def kinship(n: int) -> dict[str, Any]:
    """Q: the covariance of `relatives`."""
    from sparselmm import Known

    return {"Q": Known(sp.block_diag([KINSHIP] * -(-n // 5), format="csc"), kind="covariance")}


def two_traits(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Every other animal of `animals` with two traits below each other: b is 0.8 a and more."""
    first, second = animals(rng, n), animals(np.random.default_rng(n + 1), n)
    wide = first.assign(b=0.8 * first.y + 0.6 * second.y).rename(columns={"y": "a"}).iloc[::2]
    return wide.melt(["x", "animal", "herd"], ["a", "b"], "trait", "y")


def field(rng: np.random.Generator, n: int, plots: int = 3) -> pd.DataFrame:
    """A field of n plots, twice as long as wide (a row may be short): n/3 varieties, AR(1) x AR(1) fertility, noise."""
    rows = int(np.sqrt(n / 2))
    row, col = np.arange(n) % rows, np.arange(n) // rows
    grid = rng.normal(size=(rows, col[-1] + 1))
    for a, axis in ((0.8, 0), (0.6, 1)):
        grid = np.moveaxis(grid, axis, 0)
        for i in range(1, len(grid)):
            grid[i] = a * grid[i - 1] + np.sqrt(1 - a * a) * grid[i]
        grid = np.moveaxis(grid, 0, axis)
    variety = groups(rng, n, max(2, n // plots))
    y = 50 + effects(rng, variety, [1], 1.0) + 1.5 * grid[row, col] + 0.5 * rng.normal(size=n)
    return pd.DataFrame({"row": row, "col": col, "variety": variety, "y": y})


def _problem(name: str, formula: str, make: Any, *tags: str, **options: Any) -> Problem:
    return Problem(name, formula, make, frozenset(tags), **options)


PROBLEMS = {
    p.name: p
    for p in [
        _problem("one_factor", "y ~ x + (1 | g)", one_factor, "scalar", "bench"),
        _problem("slope", "y ~ x + (1 + x | g)", longitudinal, "us", "bench"),
        _problem("three_effects", "y ~ x + z + (1 + x + z | g)", longitudinal, "us"),
        _problem("slope_diag", "y ~ x + (1 + x || g)", longitudinal, "diag"),
        _problem("cs", "y ~ f + cs(0 + f | g)", longitudinal, "cs", "bench"),
        _problem("hcs", "y ~ f + hcs(0 + f | g)", longitudinal, "cs"),
        _problem("nested", "y ~ x + (1 | a/b)", nested, "scalar", "bench"),
        _problem("crossed", "y ~ x + (1 | s) + (1 | d)", crossed, "scalar", "bench"),
        _problem("crossed_slope", "y ~ x + (1 | s) + (1 + z | d)", crossed, "us", "bench"),
        _problem("partially_crossed", "y ~ 1 + (1 | user) + (1 | item)", partially_crossed, "scalar", "bench"),
        _problem("several_bars", "y ~ x + (1 | g) + (0 + x | g) + (0 + z | g)", longitudinal, "scalar"),
        _problem("weighted", "y ~ x + (1 | g)", weighted, "scalar", weights="w"),
        _problem("offset", "y ~ x + (1 | g)", with_offset, "scalar", offset="off"),
        _problem("no_fixed", "y ~ 0 + (1 | g)", one_factor, "scalar"),
        _problem("rank_deficient", "y ~ x + x2 + f + is_b + (1 | g)", rank_deficient, "scalar"),
        _problem("interaction", "y ~ b + (1 | a:b) + (1 | a)", interaction, "scalar"),
        _problem("large_response", "y ~ x + (1 | g)", large_response, "scalar", "numerics"),
        _problem("sparse_slopes", "", sparse_slopes, "us", "arrays"),
        _problem("multi_membership", "", multi_membership, "scalar", "arrays"),
    ]
}

STRUCTURED = {
    p.name: p
    for p in [
        _problem("ar1", "y ~ x + ar1(0 + t | g)", series),
        _problem("ar1_crossed", "y ~ x + (1 | h) + ar1(0 + t | g)", series),
        _problem("ou", "y ~ x + ou(0 + when | g)", series),
        _problem("pedigree", "y ~ x + ped(1 | animal, P) + (1 | herd)", animals, context=pedigree),
        _problem("maternal", "y ~ x + ped(1 | animal + dam, P) + (1 | dam)", calves, context=pedigree),
        _problem(
            "permanent", "y ~ x + ped(1 | animal, P) + (1 | animal)", repeated, context=lambda n: pedigree(n // 2)
        ),
        _problem("known", "y ~ x + known(1 | id, Q) + (1 | place)", relatives, context=kinship),
        _problem("field_trial", "y ~ 1 + (1 | variety) + ar1(0 + row):ar1(0 + col)", field),
        _problem("residual_ar1", "y ~ x + (1 | g)", residual_series, residual="ar1(t | g)"),
        _problem("residual_ou", "y ~ x + (1 | g)", residual_series, residual="ou(when | g)"),
        _problem("residual_varident", "y ~ x + (1 | g)", residual_series, residual="varident(f)"),
        _problem("residual_product", "y ~ x", residual_series, residual="ar1(t | g) * varident(f)"),
        _problem(
            "two_traits",
            "y ~ 0 + trait + trait:x + (0 + trait | herd) + ped(0 + trait | animal, P)",
            two_traits,
            context=pedigree,
            residual="us(trait | animal)",
        ),
    ]
}

INTRINSIC = {
    p.name: p
    for p in [
        _problem("rw1", "y ~ x + rw1(0 + t | g)", series),
        _problem("rw2", "y ~ 1 + x + (1 | g) + rw2(0 + t)", series),
    ]
}


def tagged(tag: str) -> list[Problem]:
    """The problems with a tag."""
    return [p for p in PROBLEMS.values() if tag in p.tags]
