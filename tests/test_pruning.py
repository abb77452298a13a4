"""Who stays: Algorithm 2 by hand, and the race against its t-test."""

import numpy as np
import pytest
from scipy import stats

from diffusion_sklearn._pruning import check_pruning, keep_best, pruning_rounds, race


def run(pruning, errors):
    """Walk the rounds over given errors; evaluations and survivors a image."""
    n, k, m = errors.shape
    alive, done, evaluations = np.ones((n, k), bool), 0, np.zeros(n, int)
    for end, rule in pruning_rounds(pruning, m):
        evaluations += alive.sum(axis=1) * (end - done)
        done = end
        if rule is not None:
            seen = np.where(alive[..., None], errors[..., :end], np.nan)
            alive = rule(seen, alive)
    return evaluations, alive


# Evaluations an image of Algorithm 2, from the KeepList and TrialList of the paper.
@pytest.mark.parametrize(
    "n_classes, keep, trials, expected",
    [
        (101, (20, 10, 5, 1), (20, 50, 100, 500), 5120),  # Food-101
        (10, (5, 1), (50, 500), 2750),  # CIFAR-10
        (100, (20, 10, 5, 1), (20, 50, 100, 500), 5100),  # Aircraft
        (37, (5, 1), (25, 250), 2050),  # Pets
        (102, (20, 10, 5, 1), (20, 50, 100, 500), 5140),  # Flowers
        (10, (5, 1), (100, 500), 3000),  # STL-10
        (1000, (500, 50, 10, 1), (50, 100, 500, 1000), 100_000),  # ImageNet
    ],
)
def test_evaluations_of_the_paper(n_classes, keep, trials, expected):
    errors = np.random.RandomState(0).rand(2, n_classes, trials[-1])
    stages = tuple(zip(trials, keep, strict=True))
    evaluations, alive = run(stages, errors)
    assert evaluations.tolist() == [expected] * 2
    assert alive.sum(axis=1).tolist() == [1, 1]


def test_keep_best_by_hand():
    errors = np.array([[[1.0, 3.0], [1.5, 1.5], [0.0, 9.0], [np.nan, np.nan]]])
    alive = np.array([[True, True, True, False]])
    kept = keep_best(errors, alive, 2)
    np.testing.assert_array_equal(kept, [[True, True, False, False]])


def test_race_drops_by_the_paired_t_test():
    rng = np.random.RandomState(0)
    shared = rng.normal(size=(1, 1, 12))
    errors = 5 * shared + 0.1 * rng.normal(size=(1, 4, 12))
    errors += np.array([0.0, 0.01, 0.08, 0.5])[None, :, None]
    alive = np.ones((1, 4), bool)
    best = errors[0].mean(axis=1).argmin()
    for confidence in (0.6, 0.9, 0.99, 0.9999):
        expected = [
            k == best
            or stats.ttest_rel(errors[0, k], errors[0, best], alternative="greater")[1]
            >= 1 - confidence
            for k in range(4)
        ]
        np.testing.assert_array_equal(race(errors, alive, confidence), [expected])


def test_race_error_rate_of_one_look():
    """Two equal classes: the worse one is dropped in about 1 - confidence a side."""
    rng = np.random.RandomState(1)
    errors = rng.normal(size=(4000, 2, 20))
    dropped = (~race(errors, np.ones((4000, 2), bool), 0.95)).any(axis=1).mean()
    assert abs(dropped - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)


def test_race_keeps_ties_and_drops_the_surely_worse():
    errors = np.ones((1, 3, 10)) * np.array([1.0, 1.0, 2.0])[None, :, None]
    kept = race(errors, np.ones((1, 3), bool), 0.99)
    np.testing.assert_array_equal(kept, [[True, True, False]])


def test_race_is_looked_at_every_few_trials_and_ends_with_all():
    ends = [end for end, _ in pruning_rounds(0.99, 100)]
    assert ends[0] >= 5 and ends[-1] == 100 and len(ends) > 10
    assert [end for end, _ in pruning_rounds(0.99, 3)] == [3]
    assert pruning_rounds(None, 7) == [(7, None)]


@pytest.mark.parametrize(
    "pruning, match",
    [
        (1.5, "no confidence"),
        (0.1, "no confidence"),
        ("fast", "not understood"),
        (3, "not understood"),
        (True, "not understood"),
        ((), "not understood"),
        (((25,),), "not understood"),
        (((2.5, 1),), "not understood"),
        (((5, 3), (4, 2)), "must rise"),
        (((4, 3), (5, 3)), "must fall"),
        (((4, 0),), "down to 1"),
        (((200, 5),), "n_trials=100"),
    ],
)
def test_bad_pruning(pruning, match):
    with pytest.raises(ValueError, match=match) as error:
        check_pruning(pruning, 100)
    assert f"pruning={pruning!r}" in str(error.value)
