"""The problems of the race: models, generators of their data, and the bars that sparselmm has to clear.

`RACE["units"].data(scale)` is the table at `scale` times the full size: 1 is the race, 0.01 is for tests. The same
name and scale give the same numbers everywhere. Numbers of levels are exact: every level occurs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from .bars import Bar, Faster, Within
from .tables import Columns

Generator = np.random.Generator
STARS = np.arange(0.5, 5.1, 0.5)


@dataclass(frozen=True, slots=True)
class RaceProblem:
    """A model and its data. `random`: pairs of effects and grouping factor, as ("1 + time", "subject").

    make(rng, scale): chunks of columns; floats are numbers, integers codes of groups, or of factors if named in
    `factors`. nested: each factor lies within the one before it. on_request: only if named; only: who takes part.
    """

    name: str
    title: str
    fixed: str
    random: tuple[tuple[str, str], ...]
    make: Callable[[Generator, float], Iterator[Columns]]
    bars: tuple[Bar, ...] = ()
    factors: tuple[str, ...] = ()
    nested: bool = False
    on_request: bool = False
    only: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """The model in lme4's grammar."""
        return " + ".join([self.fixed, *(f"({effects} | {group})" for effects, group in self.random)])

    @property
    def response(self) -> str:
        """Name of the column y."""
        return self.fixed.split("~")[0].strip()

    def chunks(self, scale: float) -> Iterator[Columns]:
        """The table in pieces that fit into memory."""
        return self.make(np.random.default_rng(crc32(self.name.encode())), scale)

    def data(self, scale: float) -> Columns:
        """The whole table."""
        parts = list(self.chunks(scale))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def size(full: int, scale: float, least: int = 4) -> int:
    """`full` times `scale`, at least `least`."""
    return max(least, round(full * scale))


def activity(rng: Generator, total: int, m: int, least: int, most: int) -> np.ndarray:
    """(m,) counts from `least` to `most` that add up to `total`, spread as a log-normal with sigma = 1.

    With MovieLens-1M's 166 ratings a user, at least 20: median 100, largest about 2,000 (there: 96 and 2,314).
    """
    if not m * least <= total <= m * most:
        raise ValueError(f"{m} counts from {least} to {most} cannot add up to {total}")
    share = rng.lognormal(size=m)
    counts = np.clip(np.rint(total * share / share.sum()), least, most).astype(np.int64)
    while missing := total - int(counts.sum()):
        free = np.flatnonzero(counts < most if missing > 0 else counts > least)
        counts[rng.choice(free, min(abs(missing), len(free)), replace=False)] += np.sign(missing)
    return counts


def zipf(rng: Generator, n: int, m: int) -> np.ndarray:
    """(n,) codes of m levels with popularity 1/rank, each used, in random order."""
    share = 1.0 / np.arange(1, m + 1)
    return rng.permutation(np.concatenate([np.arange(m), rng.choice(m, n - m, p=share / share.sum())]))


def used(rng: Generator, n: int, m: int) -> np.ndarray:
    """(n,) codes of m levels, equally likely, each used, in random order."""
    return rng.permutation(np.concatenate([np.arange(m), rng.integers(0, m, n - m)]))


def effects(rng: Generator, sd: float, codes: np.ndarray) -> np.ndarray:
    """A normal effect of each level, at the rows."""
    return rng.normal(scale=sd, size=int(codes.max()) + 1)[codes]


def insteval(rng: Generator, scale: float) -> Iterator[Columns]:
    """lme4's InstEval, 73,421 ratings; below full size a random part of the rows."""
    import sparselmm as slm

    table = slm.load_dataset("InstEval")
    table = table.iloc[np.sort(rng.permutation(len(table))[: size(len(table), min(scale, 1.0), 600)])]
    codes = {name: np.unique(table[name], return_inverse=True)[1] for name in ("s", "d", "dept", "service")}
    yield {"y": table["y"].to_numpy(float), **codes}


def sleepstudy(rng: Generator, scale: float) -> Iterator[Columns]:
    """Belenky et al. (2003): 18 subjects, ten days; the same at every scale."""
    import sparselmm as slm

    table = slm.load_dataset("sleepstudy")
    subject = np.unique(table["Subject"], return_inverse=True)[1]
    yield {"Reaction": table["Reaction"].to_numpy(float), "Days": table["Days"].to_numpy(float), "Subject": subject}


def visits(rng: Generator, scale: float) -> Iterator[Columns]:
    """100,000 subjects seen ten times, on about the day that was planned; correlated intercepts and slopes."""
    m = size(100_000, scale)
    subject = np.repeat(np.arange(m), 10)
    time = np.tile(np.arange(10.0), m) + rng.uniform(-0.3, 0.3, 10 * m)
    b = rng.multivariate_normal([0, 0], [[4.0, 0.3], [0.3, 0.25]], m)[subject]
    yield {"y": 20 + 0.5 * time + b[:, 0] + b[:, 1] * time + rng.normal(size=10 * m), "time": time, "subject": subject}


def units(rng: Generator, scale: float) -> Iterator[Columns]:
    """125,066 groups of four rows, two categories and a number: statsmodels' issue 9097."""
    m = size(125_066, scale)
    unit, n = np.repeat(np.arange(m), 4), 4 * m
    cat1, cat2, x = used(rng, n, 3), used(rng, n, 4), rng.normal(size=n)
    y = 1 + 0.3 * cat1 - 0.2 * cat2 + 0.5 * x + effects(rng, 0.7, unit) + rng.normal(size=n)
    yield {"y": y, "cat1": cat1, "cat2": cat2, "x": x, "unit": unit}


def nested(rng: Generator, scale: float) -> Iterator[Columns]:
    """200 regions of 20 schools (4,000) of 30 pupils (120,000), three rows each."""
    regions = size(200, scale)
    pupil = np.repeat(np.arange(600 * regions), 3)
    school, region, x = pupil // 30, pupil // 600, rng.normal(size=len(pupil))
    b = effects(rng, 0.5, region) + effects(rng, 0.7, school) + effects(rng, 1.0, pupil)
    y = 3 + 0.5 * x + b + rng.normal(size=len(pupil))
    yield {"y": y, "x": x, "region": region, "school": school, "pupil": pupil}


def crossed(rng: Generator, scale: float) -> Iterator[Columns]:
    """1,000,000 purchases by 20,000 customers (log-normal activity) of 2,000 goods (Zipf), pairs may repeat."""
    n, m, k = size(1_000_000, scale), size(20_000, scale**0.5), size(2_000, scale**0.5)
    customer = np.repeat(np.arange(m), activity(rng, n, m, 1, n))
    item, x = zipf(rng, n, k), rng.normal(size=n)
    y = 2 + 0.5 * x + effects(rng, 0.8, customer) + effects(rng, 0.5, item) + rng.normal(size=n)
    yield {"y": y, "x": x, "customer": customer, "item": item}


def five(rng: Generator, scale: float) -> Iterator[Columns]:
    """A complete factorial of a (12), b within a (8 each), c (20), d (15) and e (10), one row a cell: 288,000 rows.

    The design of MixedModels.jl's issue 591: five factors, b nested within a, one observation a combination.
    """
    shape = [size(full, scale**0.2, 3) for full in (12, 8, 20, 15, 10)]
    a, b, c, d, e = (codes.ravel() for codes in np.indices(shape))
    groups = {"a": a, "b": a * shape[1] + b, "c": c, "d": d, "e": e}
    y = 5 + sum(effects(rng, sd, g) for sd, g in zip((1.0, 0.8, 0.6, 0.5, 0.7), groups.values(), strict=True))
    yield {"y": y + rng.normal(size=len(a)), **groups}


def fixed_factor(rng: Generator, scale: float) -> Iterator[Columns]:
    """1,000,000 lactations in 5,000 herd-years (fixed), of 2,000 sires and with 500 classifiers."""
    n, h = size(1_000_000, scale), size(5_000, scale)
    herd, x = used(rng, n, h), rng.normal(size=n)
    sire, classifier = used(rng, n, size(2_000, scale**0.5)), used(rng, n, size(500, scale**0.5))
    y = 0.5 * x + effects(rng, 1.0, herd) + effects(rng, 0.4, sire) + effects(rng, 0.3, classifier)
    yield {"y": y + rng.normal(size=n), "x": x, "herd": herd, "sire": sire, "classifier": classifier}


def movielens(n: int, users: int, movies: int) -> Callable[[Generator, float], Iterator[Columns]]:
    """A maker of n ratings by `users` of `movies`, in half stars, no pair twice; below scale 1 as dense as at 1."""

    def make(rng: Generator, scale: float) -> Iterator[Columns]:
        u, m = size(users, scale**0.5, 12), size(movies, scale**0.5, 8)
        rows = min(u * m // 2, size(n, scale))
        return ratings(rng, rows, u, m)

    return make


def ratings(rng: Generator, n: int, users: int, movies: int, block: int = 500) -> Iterator[Columns]:
    """Chunks of `block` users each: who rates how often is log-normal, what they rate Zipf-Mandelbrot.

    A movie's weight is (rank + movies/40)^-1.5, which gives at MovieLens-1M's size about 3,200 ratings of the most
    popular and 100 of the median one (there: 3,428 and 124). Each user draws without replacement: the smallest of
    Exponential(1) / weight (Efraimidis & Spirakis 2006). Every movie is first given to one user, so all occur.
    """
    least = max(1, min(20, n // (4 * users)))
    counts = activity(rng, n, users, least, int(0.9 * movies))
    weight = (np.arange(1, movies + 1) + movies / 40) ** -1.5
    first_user = rng.choice(np.repeat(np.arange(users), counts), movies, replace=False)
    by_user, by_movie = rng.normal(scale=0.45, size=users), rng.normal(scale=0.55, size=movies)
    for low in range(0, users, block):
        some = np.arange(low, min(low + block, users))
        key = rng.exponential(size=(len(some), movies)) / weight
        given = np.flatnonzero((first_user >= low) & (first_user < low + block))
        key[first_user[given] - low, given] = 0.0
        movie = np.concatenate([np.argpartition(row, k - 1)[:k] for row, k in zip(key, counts[some], strict=True)])
        user = np.repeat(some, counts[some])
        y = 3.6 + by_user[user] + by_movie[movie] + rng.normal(scale=0.88, size=len(user))
        yield {"rating": np.clip(np.rint(2 * y) / 2, STARS[0], STARS[-1]), "user": user, "movie": movie}


def _scalars(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple(("1", name) for name in names)


RATING = "rating ~ 1"
RACE = {
    p.name: p
    for p in [
        RaceProblem(
            "insteval", "InstEval, students, lecturers, departments", "y ~ service", _scalars("s", "d", "dept"),
            insteval, (Faster("lme4", 20),), factors=("service",),
        ),
        RaceProblem(
            "insteval_service", "InstEval, departments by service", "y ~ service",
            _scalars("s", "d", "dept:service"), insteval, (Faster("lme4", 20),), factors=("service",),
        ),
        RaceProblem(
            "visits", "intercept and slope of 100,000 subjects", "y ~ time", (("1 + time", "subject"),), visits,
            (Faster("lme4", 30),),
        ),
        RaceProblem(
            "units", "125,066 groups of four rows", "y ~ cat1 + cat2 + x", _scalars("unit"), units,
            (Faster("lme4", 20), Faster("mixedlm-rs", 1)), factors=("cat1", "cat2"),
        ),
        RaceProblem(
            "nested", "nested, 200 / 4,000 / 120,000", "y ~ x", _scalars("region", "school", "pupil"), nested,
            (Faster("lme4", 20),), nested=True,
        ),
        RaceProblem(
            "crossed", "crossed, 20,000 x 2,000, Zipf", "y ~ x", _scalars("customer", "item"), crossed,
            (Faster("lme4", 20),),
        ),
        RaceProblem(
            "movielens1m", "crossed, MovieLens-1M's shape, 6,040 x 3,706", RATING, _scalars("user", "movie"),
            movielens(1_000_000, 6_040, 3_706), (Faster("lme4", 12), Faster("gpboost", 1)),
        ),
        RaceProblem(
            "five", "five crossed factors", "y ~ 1", _scalars("a", "b", "c", "d", "e"), five, (Faster("lme4", 10),)
        ),
        RaceProblem(
            "fixed_factor", "fixed factor of 5,000 levels, two random ones", "y ~ x + herd",
            _scalars("sire", "classifier"), fixed_factor, (Within(20, 2),), factors=("herd",),
        ),
        RaceProblem(
            "movielens27m", "crossed, MovieLens' shape, 94,380 x 16,034", RATING, _scalars("user", "movie"),
            movielens(27_000_000, 94_380, 16_034), (Within(600, 12),), on_request=True, only=("sparselmm",),
        ),
        RaceProblem(
            "sleepstudy", "sleepstudy", "Reaction ~ Days", (("1 + Days", "Subject"),), sleepstudy,
            (Faster("lme4", 1),),
        ),
    ]
}  # fmt: skip
