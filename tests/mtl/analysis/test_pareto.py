"""Fronts: boxes worked by hand, fronts known in closed form, an independent hypervolume, and what must not matter."""

from __future__ import annotations

import math
import warnings
from itertools import combinations

import hypothesis.extra.numpy as hnp
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.analysis.pareto import below_plane, bounds, cost_of, hypervolume, hypervolumes, knee, nondominated

POINTS = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.integers(0, 6).map(float))

QUICK = settings(max_examples=40, deadline=None)  # the first example imports a library


def by_inclusion_exclusion(costs: np.ndarray, reference: np.ndarray) -> float:
    """The union of boxes by its definition: 2^N terms."""
    total = 0.0
    for size in range(1, len(costs) + 1):
        for chosen in combinations(range(len(costs)), size):
            corner = costs[list(chosen)].max(axis=0)
            total -= (-1) ** size * float(np.prod(np.clip(reference - corner, 0, None)))
    return total


def by_definition(costs: np.ndarray) -> list[bool]:
    return [not any((other <= one).all() and (other < one).any() for other in costs) for one in costs]


def octant(count: int, tasks: int = 3) -> np.ndarray:
    """Points of DTLZ2's front: the unit sphere where no coordinate is negative."""
    points = np.abs(np.random.default_rng(0).normal(size=(count, tasks)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_boxes_in_two_and_three_dimensions_worked_by_hand() -> None:
    steps = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    # Below (4, 4): columns of width 1 and heights 1, 2 and 3.
    assert hypervolume(steps, [4, 4]) == 6
    assert hypervolumes(steps, [4, 4]).tolist() == [3, 5, 6]
    # Below (2, 2, 2): 2 x 2 x 1 and 1 x 1 x 2, which have 1 x 1 x 1 in common.
    assert hypervolume(np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]), [2, 2, 2]) == 5
    # Three boxes of 1 x 1 x 2 that share 1 x 1 x 1: 3 x 2 - 3 + 1.
    assert hypervolume(np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]), [2, 2, 2]) == 4
    assert hypervolume(np.array([[30.0], [20.0]]), [100]) == 80


def test_what_is_not_below_the_reference_point_or_not_finite_counts_nothing() -> None:
    costs = np.array([[1.0, 5.0], [5.0, 1.0], [math.nan, 0.0], [0.0, math.inf]])
    assert hypervolume(costs, [4, 4]) == 0  # a reference point that no trial reaches in both
    assert hypervolume(np.vstack([costs, [4.0, 1.0]]), [4, 4]) == 0  # on the border
    assert hypervolume(np.vstack([costs, [3.0, 1.0]]), [4, 4]) == 3
    assert nondominated(costs).tolist() == [True, True, False, False]
    nothing = np.full((2, 2), math.nan)
    assert (nondominated(nothing).any(), hypervolume(nothing, [1, 1]), knee(nothing), bounds(nothing)) == (
        False,
        0.0,
        None,
        None,
    )
    with pytest.raises(ValueError, match="expected 2 finite costs"):
        hypervolume(costs, [4, 4, 4])
    with pytest.raises(ValueError, match="expected 2 finite costs"):
        hypervolume(costs, [4, math.nan])
    with pytest.raises(ValueError, match=r"\(trials, objectives\)"):
        nondominated(np.array([1.0, 2.0]))


def test_metrics_become_costs_the_right_way_round() -> None:
    assert (cost_of(12.0, "lower"), cost_of(96.0, "higher"), cost_of(250.0, "lower")) == (12.0, 4.0, 100.0)
    assert math.isnan(cost_of(math.nan, "higher"))


@QUICK
@given(POINTS)
def test_front_and_hypervolume_are_what_their_definitions_say(costs: np.ndarray) -> None:
    assert nondominated(costs).tolist() == by_definition(costs)
    reference = np.full(costs.shape[1], 5.0)
    assert hypervolume(costs, reference) == pytest.approx(by_inclusion_exclusion(costs, reference), abs=1e-9)


@QUICK
@given(POINTS, st.randoms(use_true_random=False))
def test_the_order_of_trials_and_of_tasks_does_not_matter(costs: np.ndarray, random: object) -> None:
    rows, columns = np.random.default_rng(0), np.random.default_rng(1)
    trials, tasks = rows.permutation(len(costs)), columns.permutation(costs.shape[1])
    mixed = costs[trials][:, tasks]
    reference = np.arange(4.0, 4.0 + costs.shape[1])
    assert hypervolume(mixed, reference[tasks]) == pytest.approx(hypervolume(costs, reference))
    assert nondominated(mixed).tolist() == nondominated(costs)[trials].tolist()
    assert np.allclose(below_plane(mixed), below_plane(costs)[trials], equal_nan=True)
    here, there = knee(costs), knee(mixed)
    assert (here is None) == (there is None)
    if here is not None and there is not None:
        assert below_plane(mixed)[there] == pytest.approx(below_plane(costs)[here])


@QUICK
@given(POINTS, st.integers(0, 7), st.floats(0, 3))
def test_a_dominated_trial_changes_nothing(costs: np.ndarray, which: int, worse: float) -> None:
    added = np.vstack([costs, costs[which % len(costs)] + worse + 0.5])
    reference = np.full(costs.shape[1], 7.0)
    assert hypervolume(added, reference) == pytest.approx(hypervolume(costs, reference))
    assert nondominated(added).tolist() == [*nondominated(costs).tolist(), False]
    assert knee(added) == knee(costs)


@QUICK
@given(POINTS)
def test_hypervolume_never_falls_and_the_front_alone_makes_it(costs: np.ndarray) -> None:
    reference = np.full(costs.shape[1], 5.5)
    curve = hypervolumes(costs, reference)
    assert (np.diff(curve) >= -1e-9).all()
    assert curve[-1] == pytest.approx(hypervolume(costs[nondominated(costs)], reference))


@QUICK
@given(POINTS, st.floats(0.1, 50), st.floats(-20, 20))
def test_the_knee_knows_no_units(costs: np.ndarray, scale: float, shift: float) -> None:
    other = costs.copy()
    other[:, 0] = other[:, 0] * scale + shift
    assert np.allclose(below_plane(other), below_plane(costs), equal_nan=True, atol=1e-6)


def test_zdt1_whose_front_is_a_root() -> None:
    """f2 = 1 - sqrt(f1). Below (1, 1) it leaves the integral of sqrt: 2/3; f1 + f2 is least at 1/4."""
    first = np.linspace(0, 1, 4001)
    front = np.stack([first, 1 - np.sqrt(first)], axis=1)
    assert nondominated(front).all()
    assert hypervolume(front, [1, 1]) == pytest.approx(2 / 3, abs=2e-4)
    assert hypervolume(front, [1.1, 1.1]) == pytest.approx(2 / 3 + 0.1 + 0.11, abs=2e-4)
    found = knee(front)
    assert found is not None
    assert front[found].tolist() == pytest.approx([0.25, 0.5], abs=1e-3)
    assert below_plane(front)[found] == pytest.approx(0.25 / math.sqrt(2), abs=1e-6)
    # Points off the front, as ZDT1 has them for g > 1, are dominated.
    off = np.stack([first, 1.5 * (1 - np.sqrt(first / 1.5))], axis=1)
    both = nondominated(np.vstack([front, off]))
    assert both[: len(front)].all()
    assert not both[len(front) :].any()


def test_zdt2_bulges_the_other_way_and_has_no_knee() -> None:
    """f2 = 1 - f1^2: the integral of the square is 1/3."""
    first = np.linspace(0, 1, 4001)
    front = np.stack([first, 1 - first**2], axis=1)
    assert nondominated(front).all()
    assert hypervolume(front, [1, 1]) == pytest.approx(1 / 3, abs=2e-4)
    assert knee(front) is None


def test_dtlz2_is_an_octant_of_the_sphere() -> None:
    """Below (1, 1, 1) the cube lacks an eighth of the ball: 1 - pi / 6; in the plane a quarter disc: 1 - pi / 4."""
    limit = 1 - math.pi / 6  # from below, the nearer the more points there are
    missing = [limit - hypervolume(octant(count), [1, 1, 1]) for count in (300, 3_000, 30_000)]
    assert 0 < missing[2] < 0.006 < missing[1] < 0.02 < missing[0] < 0.06
    assert hypervolume(octant(5_000, 2), [1, 1]) == pytest.approx(1 - math.pi / 4, abs=1e-3)
    corners = np.vstack([octant(500), np.eye(3)])
    assert nondominated(corners).all()
    assert knee(corners) is None
    # Turned inside out it bulges towards the ideal: the volume is the octant's, the knee its middle.
    assert hypervolume(1 - octant(30_000), [1, 1, 1]) == pytest.approx(math.pi / 6, abs=0.01)
    middle = np.vstack([1 - octant(500), np.full(3, 1 - 1 / math.sqrt(3)), 1 - np.eye(3)])
    assert knee(middle) == 500


def test_the_knee_of_few_trials() -> None:
    assert knee(np.array([[3.0, 4.0]])) == 0
    assert knee(np.array([[3.0, 4.0], [3.0, 4.0]])) == 0  # twins
    assert knee(np.array([[0.0, 1.0], [1.0, 0.0]])) is None  # two extremes: neither is a bargain
    assert knee(np.array([[0.0, 10.0], [2.0, 3.0], [10.0, 0.0]])) == 1
    assert below_plane(np.array([[0.0, 10.0], [2.0, 3.0], [10.0, 0.0]]))[1] == pytest.approx(0.5 / math.sqrt(2))
    assert knee(np.array([[7.0], [3.0], [5.0]])) == 1  # one task: the best trial
    # Extremes (0,1,1), (1,0,1), (1,1,0) lie on sum z = 2, the middle on 1.5.
    middle = np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5]])
    assert below_plane(middle).tolist() == pytest.approx([0, 0, 0, 0.5 / math.sqrt(3)])
    # The best of two tasks out of three counts as two extremes: the plane is (1 + 1 + 2) / 3.
    assert below_plane(np.array([[0.0, 0, 1], [1, 1, 0]])).tolist() == pytest.approx(
        [1 / 3 / math.sqrt(3), -2 / 3 / math.sqrt(3)]
    )
    constant = np.array([[0.0, 5.0, 10.0], [2.0, 5.0, 3.0], [10.0, 5.0, 0.0]])  # a task that all do alike
    assert below_plane(constant)[1] == pytest.approx(0.5 / math.sqrt(2))


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
def test_hypervolume_as_optuna_draws_it(tasks: int) -> None:
    """Optuna has another implementation; its public face is a plot, on which the figures stand."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    costs = np.random.default_rng(tasks).random((24, tasks))
    study = optuna.create_study(directions=["minimize"] * tasks)
    for row in costs:
        study.add_trial(optuna.trial.create_trial(values=row.tolist(), params={}, distributions={}))
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    axes = optuna.visualization.matplotlib.plot_hypervolume_history(study, np.full(tasks, 0.9))
    drawn = np.asarray(axes.get_lines()[0].get_ydata(), dtype=float)
    assert hypervolumes(costs, np.full(tasks, 0.9)) == pytest.approx(drawn, rel=1e-9)
    pyplot.close("all")


def test_six_objectives_and_a_hundred_trials_are_exact() -> None:
    """Two fronts in different objectives: the volume of a product of sets is the product of the volumes."""
    one, other = octant(10, 3), octant(10, 3)[::-1] * 0.8
    product = np.hstack([np.repeat(one, 10, axis=0), np.tile(other, (10, 1))])
    assert product.shape == (100, 6)
    expected = by_inclusion_exclusion(one, np.ones(3)) * by_inclusion_exclusion(other, np.ones(3))
    assert hypervolume(product, np.ones(6)) == pytest.approx(expected, rel=1e-12)
