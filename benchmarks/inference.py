"""What is done with the fit of InstEval, for asv; `python -m benchmarks.inference` sets it beside lme4, lmerTest.

Seconds of processor time with one thread, in one session: other processes make them noisy, not wrong. It takes half a
minute, and with R (lme4, lmerTest) four, on a quiet machine; the table goes to docs/how-to/intervals.md.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import sparselmm as slm

from .shapes import arguments, warm_up

REPLICATES, FEW = 100, 10  # of the bootstrap; what lme4 makes of them, and the rest is extrapolated
WHAT = {
    "fit": "fit, from the table",
    "summary": "summary with Satterthwaite's degrees of freedom",
    "ranef": "standard errors of all 4,114 random effects",
    "profile": "profile of all four variance parameters, 99 %",
    "bootstrap": f"bootstrap, {REPLICATES} replicates",
}


class Inference:
    """Each verb on a fit of InstEval that is there already."""

    timeout = 600
    number = repeat = 1

    def setup(self):
        warm_up("InstEval")
        (formula, table), _ = arguments("InstEval")
        self.formula, self.table = formula, table
        warm = slm.lmm(formula, table)
        warm.summary()
        warm.ranef(se=True)
        self.fit = slm.lmm(formula, table)

    def time_fit(self):
        slm.lmm(self.formula, self.table)

    def time_summary(self):
        self.fit.summary()

    def time_ranef(self):
        self.fit.ranef(se=True)

    def time_profile(self):
        self.fit.profile("varpar")

    def time_bootstrap(self):
        self.fit.bootstrap(REPLICATES, seed=1)


def here() -> dict[str, float]:
    """Seconds of each verb; every one on a fit that nothing has been asked of."""
    out = {}
    for name in WHAT:
        run = Inference()
        run.setup()
        began = time.process_time()
        getattr(run, f"time_{name}")()
        out[name] = time.process_time() - began
    return out


def in_r(refits: int) -> dict[str, float]:
    """The same of lme4 and lmerTest; errors: CalledProcessError where R or a package is not there."""
    script = Path(__file__).with_name("inference.R")
    found = subprocess.run(["Rscript", str(script), str(refits)], capture_output=True, text=True, check=True)
    lines = [line.split() for line in found.stdout.splitlines()]
    return {words[0]: float(words[1]) for words in lines if len(words) == 2 and words[0] in WHAT}


def table(ours: dict[str, float], theirs: dict[str, float], refits: int) -> str:
    """In Markdown."""
    rows = [[text, ours[name], theirs.get(name)] for name, text in WHAT.items()]
    lines = [f"| {text} | {a:.3g} |" + (f" {b:.3g} | {b / a:.0f} |" if b else "") for text, a, b in rows]
    head = (
        ["| InstEval | sparselmm | lme4 | times |", "|---|---|---|---|"]
        if theirs
        else ["| InstEval | s |", "|---|---|"]
    )
    note = [f"lme4's bootstrap from {refits} replicates."] if theirs else []
    return "\n".join([*head, *lines, *note])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refits", type=int, default=FEW, help="of lme4's bootstrap; 0 leaves R out")
    refits = parser.parse_args().refits
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "SPARSELMM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in one.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.inference", *sys.argv[1:]], os.environ | one)
    print(table(here(), in_r(refits) if refits else {}, refits))


if __name__ == "__main__":
    main()
