"""The main job: crossed factors (InstEval), correlated slopes (sleepstudy), nested factors (Pastes), and a plot."""

from pathlib import Path

import matplotlib

import sparselmm as slm
from sparselmm import plots

matplotlib.use("Agg")


def show(title: str, formula: str, dataset: str) -> "slm.Fit":
    """Fit by REML, print the summary and the time of each stage."""
    print(f"\n{title}: {formula}\n")
    fit = slm.lmm(formula, slm.load_dataset(dataset))
    print(fit.summary())
    print("\nSeconds: " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in fit.timings.items()))
    return fit


def main() -> None:
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
