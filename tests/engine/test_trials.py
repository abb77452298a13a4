"""Timesteps in all their forms, and noise that depends on the seed alone."""

import numpy as np
import pytest
from numpy.random import RandomState

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.engine._trials import make_trials


def trials(plan, n, seed=0):
    return make_trials(plan, n, 1000, RandomState(seed))


def test_even_is_the_grid_of_the_paper():
    # 250 evaluations a class at t = 2, 6, ..., 998.
    np.testing.assert_array_equal(trials("even", 250).timesteps, np.arange(2, 999, 4))
    np.testing.assert_array_equal(trials("even", 1000).timesteps, np.arange(1000))
    np.testing.assert_array_equal(trials("even", 2).timesteps, [250, 750])
    assert trials("even", 1).timesteps.tolist() == [500]
    assert np.bincount(trials("even", 2000).timesteps).tolist() == [2] * 1000


def test_random_is_uniform_and_seeded():
    t = trials("random", 4000).timesteps
    np.testing.assert_array_equal(t, trials("random", 4000).timesteps)
    assert not np.array_equal(t, trials("random", 4000, seed=1).timesteps)
    assert t.min() >= 0 and t.max() <= 999
    assert abs(t.mean() - 499.5) < 3 * 288.7 / np.sqrt(4000)


def test_anytime_nests_and_every_prefix_is_near_even():
    t = trials("anytime", 256).timesteps
    np.testing.assert_array_equal(trials("anytime", 100).timesteps, t[:100])
    for n in (4, 16, 50, 100, 256):
        gaps = np.diff(np.sort(np.append(t[:n], [0, 999])))
        assert gaps.max() <= 2.1 * 1000 / n


def test_listed_timesteps_are_cycled_through():
    assert trials([7, 500, 3], 7).timesteps.tolist() == [7, 500, 3, 7, 500, 3, 7]
    with pytest.raises(ValueError, match=r"timesteps=.*\[1000\].*0 to 999"):
        trials([5, 1000], 4)


def test_same_noise_for_the_same_seed():
    shape = (3, 4, 4)
    noise = trials("even", 8).noise(shape)
    assert noise.shape == (8, *shape) and noise.dtype == np.float32
    np.testing.assert_array_equal(noise, trials("even", 8).noise(shape))
    assert not np.array_equal(noise, trials("even", 8, seed=1).noise(shape))
    # Trial j's noise depends neither on how many there are nor on the timesteps.
    np.testing.assert_array_equal(noise, trials("anytime", 20).noise(shape)[:8])
    assert not np.array_equal(noise[0], noise[1])


def test_noise_is_standard_normal():
    noise = trials("even", 50).noise((4, 32, 32)).ravel()
    n = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(n)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((noise**4).mean() - 3) < 4 * np.sqrt(96 / n)


@pytest.mark.parametrize("plan", ["even", "random", "anytime", [*range(0, 1000, 10)]])
def test_every_prefix_of_the_order_spans_the_timesteps(plan):
    drawn = trials(plan, 100)
    np.testing.assert_array_equal(np.sort(drawn.order()), np.arange(100))
    for m in (4, 8, 16, 50):
        t = np.sort(drawn.timesteps[drawn.order()[:m]])
        gaps = np.diff(np.append(np.insert(t, 0, 0), 999))
        assert gaps.max() <= 2.1 * 1000 / m + (200 if plan == "random" else 20)
        if plan != "random":
            assert abs(t.mean() - 500) < 600 / m + 10


@pytest.mark.parametrize(
    "n, stages",
    [(100, ()), (250, (25,)), (500, (20, 50, 100)), (17, (3, 5)), (7, (7,))],
)
def test_order_visits_each_trial_once_and_spans_the_grid_early(n, stages):
    order = trials("even", n).order(stages)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    for first in stages or (10,):
        t = np.sort(trials("even", n).timesteps[order[:first]])
        gaps = np.diff(np.append(np.insert(t, 0, 0), 999))
        assert gaps.max() <= 2.1 * 1000 / first + 1000 / n


def test_first_stage_is_the_strided_subset_of_the_official_code():
    plan = trials("even", 250)
    grid = np.arange(2, 1000, 4)
    expected = grid[len(grid) // 25 // 2 :: len(grid) // 25][:25]
    np.testing.assert_array_equal(
        np.sort(plan.timesteps[plan.order((25,))[:25]]), expected
    )


def test_trials_of_an_estimator_do_not_depend_on_pruning(dit_folder):
    plans = [
        ConditionalDiffusionClassifier(model=dit_folder, n_trials=30, pruning=pruning)
        .fit(classes=["ant", "bee"])
        .trials_
        for pruning in (None, 0.99, ((5, 1),))
    ]
    for plan in plans[1:]:
        np.testing.assert_array_equal(plan.timesteps, plans[0].timesteps)
        np.testing.assert_array_equal(plan.noise((2, 2)), plans[0].noise((2, 2)))


def test_a_list_longer_than_the_budget(dit_folder):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, timesteps=[100, 500, 900], n_trials=2
    )
    with pytest.warns(UserWarning, match=r"only the first 2 of the 3 .* n_trials=3"):
        clf.fit(classes=["ant", "bee"])
    assert clf.trials_.timesteps.tolist() == [100, 500]
    clf.set_params(n_trials=4).fit(classes=["ant", "bee"])
    assert clf.trials_.timesteps.tolist() == [100, 500, 900, 100]


def test_weights_that_leave_no_trial(dit_folder):
    """They would make all classes equal, and the first the answer for every image."""
    weights = np.zeros(1000)
    weights[800:] = 1
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, timesteps=[100, 500], timestep_weights=weights, n_trials=4
    )
    message = r"timestep_weights are 0 at all timesteps .* \(\[100, 500\]"
    with pytest.raises(ValueError, match=message):
        clf.fit(classes=["ant", "bee"])
    clf.set_params(timesteps=[100, 900]).fit(classes=["ant", "bee"])


def test_timestep_weights(dit_folder):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    classes = ["ant", "bee"]
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=5, pruning=None)
    errors = clf.fit(classes=classes).denoising_errors(images).errors[0]  # (2, 5)
    weights = np.exp(-7 * clf.trials_.timesteps / 1000)
    gap = -16 * 4 * (weights * (errors[1] - errors[0])).mean()  # latent is 4 x 4 x 4
    for given in (lambda t: np.exp(-7 * t / 1000), np.exp(-7 * np.arange(1000) / 1000)):
        clf.set_params(timestep_weights=given).fit(classes=classes)
        np.testing.assert_allclose(clf.decision_function(images), [gap], rtol=1e-4)
    with pytest.raises(ValueError, match="timestep_weights has shape"):
        clf.set_params(timestep_weights=[1.0, 2.0]).fit(classes=classes)
    with pytest.raises(ValueError, match="timestep_weights must be finite"):
        clf.set_params(timestep_weights=lambda t: -t).fit(classes=classes)
