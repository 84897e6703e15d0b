"""The main job: crossed factors (InstEval), correlated slopes (sleepstudy), nested factors (Pastes), and a plot."""

import time
from pathlib import Path

import matplotlib

import sparselmm as slm
from sparselmm import plots

matplotlib.use("Agg")


def warm_up() -> None:
    """A small fit, so that what follows is timed with compiled kernels."""
    began = time.perf_counter()
    slm.lmm("strength ~ 1 + (1 | batch/cask)", slm.load_dataset("Pastes"))
    seconds = time.perf_counter() - began
    print(f"Kernels ready in {seconds:.1f} s (compiled on the first run, read from the cache afterwards)")


def show(title: str, formula: str, dataset: str) -> "slm.Fit":
    """Fit by REML and print the summary, whose last line has the time of each stage."""
    print(f"\n--- {title}\n")
    fit = slm.lmm(formula, slm.load_dataset(dataset))
    print(fit.summary())
    return fit


def main() -> None:
    warm_up()
    title = "73,421 ratings of 1,128 lecturers (d) by 2,972 students (s) in 14 departments"
    ratings = show(title, "y ~ service + (1 | s) + (1 | d) + (1 | dept)", "InstEval")
    show("Reaction times after days without sleep", "Reaction ~ 1 + Days + (1 + Days | Subject)", "sleepstudy")
    show("Strength of a paste in casks in batches", "strength ~ 1 + (1 | batch/cask)", "Pastes")

    picture = Path("build/lecturers.png").resolve()
    picture.parent.mkdir(exist_ok=True)
    axes = plots.caterpillar(ratings, "d")
    axes.figure.savefig(picture, dpi=150, bbox_inches="tight")
    print(f"\nCaterpillar plot of the lecturers: {picture}")


if __name__ == "__main__":
    main()
