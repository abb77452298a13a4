"""Who stays: Algorithm 2 by hand, and the race against its t-test."""

import numpy as np
import pytest
from scipy import stats

from diffusion_sklearn.engine._pruning import (
    check_pruning,
    evaluation_bounds,
    keep_best,
    pruning_rounds,
    race,
)
from diffusion_sklearn.engine._trials import _spread_order, make_trials


def run(pruning, errors, order=None, timesteps=None):
    """Walk the rounds over given errors; evaluations and survivors a image."""
    n, k, m = errors.shape
    order = np.arange(m) if order is None else order
    timesteps = np.arange(m) if timesteps is None else timesteps
    active, done, evaluations = np.ones((n, k), bool), 0, np.zeros(n, int)
    for end, rules in pruning_rounds(pruning, m):
        running = active.sum(axis=1)
        evaluations += np.where(running > 1, running, done == 0) * (end - done)
        done = end
        for rule in rules:
            seen = np.where(active[..., None], errors[..., order[:end]], np.nan)
            active = rule(seen, active, timesteps[order[:end]])
    return evaluations, active


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
    evaluations, active = run(stages, errors)
    assert evaluations.tolist() == [expected] * 2
    assert active.sum(axis=1).tolist() == [1, 1]


def test_keep_best_by_hand():
    errors = np.array([[[1.0, 3.0], [1.5, 1.5], [0.0, 9.0], [np.nan, np.nan]]])
    active = np.array([[True, True, True, False]])
    kept = keep_best(errors, active, np.arange(2), 2)
    np.testing.assert_array_equal(kept, [[True, True, False, False]])


def test_race_by_hand():
    """The formula of the docstring, one class at a time."""
    rng = np.random.RandomState(0)
    t = rng.permutation(12)
    errors = 5 * rng.normal(size=(1, 1, 12)) + 0.1 * rng.normal(size=(1, 7, 12))
    errors += np.array([0.0, 0.01, 0.08, 0.4, 0.02, 0.03, -9.0])[None, :, None]
    errors += np.array([0.0, 0.02, 0.01, 0.03, 0.0, 0.0, 0.0])[None, :, None] * t
    errors[:, 3] += 0.6 * rng.normal(size=12)
    active = np.array([[True] * 6 + [False]])
    best = errors[0, :6].mean(axis=1).argmin()
    others = [k for k in range(6) if k != best]
    gaps = {k: errors[0, k] - errors[0, best] for k in others}
    share = [1.5, *[1.0] * 9, 1.5]

    def variance(values):
        v = values[np.argsort(t)]
        return sum(w * (v[j + 1] - v[j]) ** 2 for j, w in enumerate(share)) / (2 * 12)

    middle = errors[0, :6].mean(axis=0)
    pooled = 2 * sum(variance(errors[0, k] - middle) for k in range(6)) / 5
    assert any(variance(gaps[k]) > 2 * pooled for k in others)  # both kinds are here
    assert any(variance(gaps[k]) < 2 * pooled for k in others)
    sizes = []
    for alpha in (0.4, 0.01, 1e-8):
        quantile = stats.t.ppf(1 - alpha / 5, 5 * 2 * 11 / 3)
        factor = quantile * np.sqrt(1 / 12 - 1 / 40)
        bound = {k: max(pooled, variance(gaps[k]) / 2) ** 0.5 for k in others}
        stay = {best} | {k for k in others if gaps[k].mean() <= factor * bound[k]}
        active_after = race(errors, active, t, alpha, 40)
        assert set(np.flatnonzero(active_after)) == stay
        sizes.append(len(stay))
    assert sizes[0] < sizes[-1]  # alpha mattered


@pytest.mark.parametrize("n_classes, confidence", [(10, 0.6), (10, 0.99), (50, 0.9)])
def test_race_keeps_the_choice_of_the_full_budget(n_classes, confidence):
    """Classes that differ by chance alone: the hardest case."""
    rng = np.random.RandomState(1)
    n = 1500
    errors = rng.normal(size=(n, n_classes, 60)) + 3 * rng.normal(size=(n, 1, 60))
    order = _spread_order(60, ())
    _, active = run(confidence, errors, order)
    best = errors.mean(axis=2).argmin(axis=1)
    dropped = (~active[np.arange(n), best]).mean()
    assert dropped < (1 - confidence) + 3 * np.sqrt(confidence * (1 - confidence) / n)
    assert dropped > 0 or confidence > 0.9  # the bound is not empty


@pytest.mark.parametrize("shape", ["line", "hump", "end"])
@pytest.mark.parametrize("plan", ["even", "random", "listed"])
def test_race_with_a_trend_of_each_class(plan, shape):
    """Each class has its own course over t, which no prefix may show a part of."""
    rng = np.random.RandomState(2)
    n, n_trials = 1000, 100
    given = list(range(0, 1000, 10)) if plan == "listed" else plan
    trials = make_trials(given, n_trials, 1000, rng)
    t = trials.timesteps / 1000
    course = {"line": t - 0.5, "hump": np.cos(2 * np.pi * t), "end": (t > 0.8) - 0.2}
    errors = rng.normal(size=(n, 10, 1)) * course[shape]
    errors = errors + 0.3 * rng.normal(size=(n, 10, n_trials))
    _, active = run(0.99, errors, trials.order(), trials.timesteps)
    best = errors.mean(axis=2).argmin(axis=1)
    assert (~active[np.arange(n), best]).mean() < 0.01


@pytest.mark.parametrize("n_classes, most", [(10, 0.04), (20, 0.06)])
def test_race_among_near_duplicates(n_classes, most):
    """The one class that differs is judged by a spread like its own."""
    rng = np.random.RandomState(3)
    n, n_trials = 1000, 100
    errors = rng.normal(size=(n, 1, n_trials)) + 0.2 * rng.normal(
        size=(n, n_classes, n_trials)
    )
    errors[:, 0] = rng.normal(size=(n, n_trials)) - 0.3
    _, active = run(0.99, errors, _spread_order(n_trials, ()))
    best = errors.mean(axis=2).argmin(axis=1)
    assert (
        ~active[np.arange(n), best]
    ).mean() < most  # 0.07 and 0.15 by the pooled spread


def test_race_with_noise_that_grows_with_t():
    rng = np.random.RandomState(4)
    errors = rng.normal(size=(3000, 2, 100)) * np.exp(5 * (np.arange(100) / 100 - 1))
    _, active = run(0.99, errors, _spread_order(100, ()))
    best = errors.mean(axis=2).argmin(axis=1)
    assert (~active[np.arange(3000), best]).mean() < 0.015


def test_race_is_not_misled_by_a_trend_over_t():
    """A difference that grows with t has a spread only for a plain t-test."""
    t = np.arange(20)
    errors = np.stack([np.zeros(20), 0.1 * (t - 4.8)])[None]
    kept = race(errors, np.ones((1, 2), bool), t, 0.001, 100)
    np.testing.assert_array_equal(kept, [[True, False]])
    plain = stats.ttest_rel(errors[0, 1], errors[0, 0], alternative="greater")
    assert plain.pvalue > 0.001


def test_race_keeps_ties_and_drops_the_surely_worse():
    errors = np.ones((1, 3, 10)) * np.array([1.0, 1.0, 2.0])[None, :, None]
    kept = race(errors, np.ones((1, 3), bool), np.arange(10), 0.01, 100)
    np.testing.assert_array_equal(kept, [[True, True, False]])


def test_race_waits_for_trials_of_a_weight_above_0():
    """Offsets alone, as of priors, must not drop a class at the first looks."""
    offsets = np.array([[0.0, 1.0, 2.0]])
    active = np.array([[True, True, True]])
    kept = race(np.zeros((1, 3, 4)), active, np.arange(4), 0.01, 100, offsets)
    assert kept.all()


def test_race_with_all_trials_leaves_no_doubt():
    errors = np.random.RandomState(0).rand(50, 4, 12)
    active = np.ones((50, 4), bool)
    kept = race(errors, active, np.arange(12), 0.01, 12)
    assert (kept.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(kept.argmax(axis=1), errors.mean(axis=2).argmin(1))


def test_race_is_looked_at_more_and_more_rarely_and_ends_with_all():
    ends = [end for end, _ in pruning_rounds(0.99, 100)]
    assert ends[:3] == [4, 5, 6] and ends[-1] == 100 and 10 < len(ends) < 20
    assert (np.diff(np.diff(ends[:-1])) >= 0).all()
    assert [end for end, _ in pruning_rounds(0.99, 3)] == [3]
    assert pruning_rounds(None, 7) == [(7, [])]
    alphas = [rules[0].keywords["alpha"] for _, rules in pruning_rounds(0.9, 100)[:-1]]
    assert sum(alphas) == pytest.approx(0.1) and (np.diff(alphas) < 0).all()


def test_race_on_top_of_stages():
    rng = np.random.RandomState(0)
    errors = rng.normal(size=(200, 10, 50)) + np.linspace(0, 4, 10)[:, None]
    stages = ((10, 3), (30, 1))
    staged, kept = run(stages, errors)
    raced, active = run((*stages, 0.9), errors)
    assert staged.tolist() == [10 * 10 + 20 * 3] * 200
    assert (raced <= staged).all() and raced.mean() < 0.9 * staged.mean()
    assert (active.argmax(axis=1) == kept.argmax(axis=1)).mean() > 0.95
    assert run((*stages, 0.9), errors[:1])[0] <= staged[0]


@pytest.mark.parametrize(
    "pruning, match",
    [
        (1.5, "no confidence"),
        (((25, 5), 1.5), "no confidence"),
        (((25, 5), 0.9, (50, 2)), "not understood"),
        ((0.9,), "not understood"),
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


@pytest.mark.parametrize(
    "pruning", [None, ((3, 4),), ((2, 5), (6, 1)), 0.9, ((4, 3), 0.9), ((2, 1), 0.9)]
)
def test_evaluation_bounds(pruning):
    """What is counted in runs lies within them; without a race, it is both."""
    errors = np.random.default_rng(0).normal(size=(50, 7, 12)) + np.arange(7)[:, None]
    counts, _ = run(pruning, errors)
    first = pruning_rounds(pruning, 12)[0][0]
    low, high = evaluation_bounds(pruning, 12, 7, first)
    assert low <= counts.min() and counts.max() <= high
    if pruning in (None, ((3, 4),), ((2, 5), (6, 1))):
        assert low == high
    if pruning == 0.9:
        assert low == counts.min() == 4 * 7 and high == 7 * 12
