"""The loss curves."""

import re

from ui.plots import MOST_POINTS, curves


def points(svg, name):
    found = re.search(rf'l2l-line-{name}" points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in found[1].split()]


def test_there_is_no_curve_before_the_second_step():
    assert curves([], 10) == "" == curves([(1, 0.1, 0.9)], 10)


def test_curves_run_over_the_whole_length_and_end_on_the_last_step():
    svg = curves([(1, 0.0, 1.0), (2, 0.1, 0.5), (5, 0.2, 0.0)], 10)
    forget, retain = points(svg, "forget"), points(svg, "retain")
    assert [x for x, _ in forget] == [x for x, _ in retain]
    assert forget[0][1] < forget[1][1] < forget[2][1]  # a falling loss goes down the page
    assert forget[2][0] == points(curves([(1, 0, 0), (10, 0, 0)], 20), "forget")[1][0]  # half way
    assert "forget 0.000" in svg and "retain 0.200" in svg


def test_long_runs_are_thinned_but_keep_their_end():
    losses = [(step, 0.1, 1 / step) for step in range(1, 2002)]
    drawn = points(curves(losses, 2001), "forget")
    assert len(drawn) <= MOST_POINTS + 1
    assert (
        drawn[-1][0]
        == max(x for x, _ in drawn)
        == points(curves(losses[-2:], 2001), "forget")[1][0]
    )
