"""The pictures of growth and the profile of the race's problems can be made."""

import time

import pytest

from benchmarks import growth, where
from benchmarks.racing.problems import RACE


def test_times_grow_and_the_picture_is_drawn(tmp_path):
    found = growth.curves([300, 3000], 600, [10, 60], [1, 40], 1)
    assert [len(c.points) for c in found] == [2, 2, 2]
    assert all(0.0 < p.limit < p.fit for curve in found for p in curve.points)
    assert growth.markdown(found).count("\n| ") == 6
    growth.draw(found, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"


def test_the_exponent_is_the_slope_at_the_right_end():
    points = [growth.Point(10**k, 1.0 if k < 4 else 10.0 ** (1.5 * k), 1.0) for k in range(1, 8)]
    assert growth.Curve("rows", "rows", tuple(points)).exponent == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["units", "crossed"])
def test_stages_add_up_to_the_whole(name):
    problem = RACE[name]
    data = where.table(problem, 0.002)
    where.profile(problem, data)
    began = time.process_time()
    found = where.profile(problem, data)
    whole = time.process_time() - began
    assert all(seconds >= 0.0 for seconds in found.values())
    assert 0.5 * whole < sum(found.values()) <= whole
    assert where.row(problem, 0.002, 1).count("|") == len(where.STAGES) + 3
