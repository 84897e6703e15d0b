"""The script that counts how often intervals cover the truth."""

import numpy as np
import pandas as pd

from benchmarks.validation.coverage import TRUTH, covered, report, run


def test_a_data_set_is_judged_by_each_method():
    table = covered(0, seed=1, replicates=3)
    assert table.index.tolist() == list(TRUTH) and table.columns.tolist() == [
        "Wald", "profile", "REML profile", "percentile", "bias-corrected", "BCa",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(next(run(1, 1, 0, 1)), table[["Wald", "profile", "REML profile"]])


def test_the_table_counts():
    tables = [pd.DataFrame({"Wald": np.array(hits)}, index=["a", "b|g"]) for hits in ([True, False], [True, True])]
    lines = report(tables, 0).splitlines()
    assert lines[2:4] == ["| `a` | 100.0 |", "| `b\\|g` | 50.0 |"] and lines[-1].startswith(
        "2 data sets; standard error 15.4"
    )
