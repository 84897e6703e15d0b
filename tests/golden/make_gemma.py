"""Association of markers by GEMMA 0.98.5 (Zhou & Stephens 2012; Debian's package `gemma`).

    python tests/golden/make_gemma.py       (from the root of the repository; writes tests/golden/gemma.json.xz)

120 people in 40 families of three and 400 markers of two chromosomes, some genotypes missing, are simulated by NumPy
from the seed below and stand in the file. Markers 0 ... 19 and 200 ... 219 are scanned with one covariate
  families  in a kinship of families, given by the file `-k`
  centred   in GEMMA's own kinship of all markers, `-gk 1`
  loco      in GEMMA's own kinships, chromosome by chromosome without it, `-loco`
by `-lmm 4`, whose columns are those of the table: `p_wald` and `beta`, `se`, `l_remle` with the ratio of variances
estimated again by REML; `p_lrt` and `l_mle` by ML; `p_score` at the null model's ratio by ML. `-lmm 3` is run for its
own beta and se, at the null model's ratio by ML. GEMMA centres every kinship on reading it. REML does not notice; ML
does, and has no maximum where a kinship was of full rank before, so that of `families` only what is by REML is kept.
"""

import json
import lzma
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

SEED, FAMILIES, MARKERS, SCANNED = 20261, 40, 400, [*range(20), *range(200, 220)]
KIN = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 1.0]])
BY_REML = ["beta", "se", "l_remle", "p_wald"]
BY_ML = {4: ["l_mle", "p_lrt", "p_score"], 3: ["beta", "se"]}


def simulate():
    """Genotypes (people, markers) with NaN, covariate and response (people,)."""
    rng = np.random.default_rng(SEED)
    frequency = rng.uniform(0.2, 0.5, MARKERS)
    parents = rng.binomial(1, frequency, (FAMILIES, 2, 2, MARKERS))
    from_one, from_two = (
        np.take_along_axis(parents[:, k], rng.integers(0, 2, (FAMILIES, 1, MARKERS)), axis=1)[:, 0] for k in (0, 1)
    )
    people = [parents[:, 0].sum(1), parents[:, 1].sum(1), from_one + from_two]
    G = np.stack(people, 1).reshape(-1, MARKERS).astype(float)
    x = rng.normal(size=len(G)).round(3)
    S = (G - G.mean(axis=0)) / G.std(axis=0)
    y = 0.4 * x + S @ rng.normal(size=MARKERS) / np.sqrt(MARKERS) + 0.5 * S[:, 3] + 1.5 * rng.normal(size=len(G))
    G[rng.random(G.shape) < 0.01] = np.nan
    return G, x, y.round(3)


def write_inputs(folder, G, x, y):
    chromosome = np.repeat([1, 2], MARKERS // 2)
    names = [f"rs{j}" for j in range(MARKERS)]
    for file, rows in (("all", range(MARKERS)), ("scanned", SCANNED)):
        table = pd.DataFrame(G.T[rows], index=[names[j] for j in rows])
        table.insert(0, "major", "C")
        table.insert(0, "minor", "A")
        table.to_csv(folder / f"{file}.txt", header=False, na_rep="NA")
    places = pd.DataFrame({"marker": names, "position": np.arange(MARKERS) * 100 + 1, "chromosome": chromosome})
    places.to_csv(folder / "places.txt", header=False, index=False)
    np.savetxt(folder / "y.txt", y, fmt="%.3f")
    np.savetxt(folder / "x.txt", np.column_stack([np.ones(len(x)), x]), fmt="%.3f")
    np.savetxt(folder / "families.txt", np.kron(np.eye(FAMILIES), KIN), fmt="%.1f")


def gemma(folder, genotypes, output, *options):
    subprocess.run(
        ["gemma", "-g", f"{genotypes}.txt", "-p", "y.txt", "-a", "places.txt", "-notsnp", "-o", output, *options],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


def associations(folder, kinship, *options, ml=True):
    """{"reml": {column: values}, "ml": ...}."""
    out = {"reml": {}, "ml": {}}
    for mode, columns in BY_ML.items():
        gemma(folder, "scanned", "found", "-c", "x.txt", "-k", kinship, "-lmm", str(mode), *options)
        table = pd.read_csv(folder / "output/found.assoc.txt", sep="\t")
        out["reml"] |= {name: table[name].tolist() for name in BY_REML if mode == 4}
        out["ml"] |= {name: table[name].tolist() for name in columns if ml}
    return out


def main():
    G, x, y = simulate()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, G, x, y)
        gemma(folder, "all", "all", "-gk", "1")
        found = {
            "families": associations(folder, "families.txt", ml=False),
            "centred": associations(folder, "output/all.cXX.txt"),
        }
        for chromosome in ("1", "2"):
            gemma(folder, "all", f"without{chromosome}", "-gk", "1", "-loco", chromosome)
            kinship = f"output/without{chromosome}.cXX.txt"
            found[f"loco {chromosome}"] = associations(folder, kinship, "-loco", chromosome)
        K = np.loadtxt(folder / "output/all.cXX.txt")
    text = ["".join("." if np.isnan(g) else str(int(g)) for g in row) for row in G]
    data = {"genotypes": text, "scanned": SCANNED, "x": x.tolist(), "y": y.tolist()}
    out = {"version": "GEMMA 0.98.5", "data": data, "centred kinship's first row": K[0].tolist(), "found": found}
    path = Path(__file__).with_name("gemma.json.xz")
    path.write_bytes(lzma.compress(json.dumps(out).encode()))


if __name__ == "__main__":
    main()
