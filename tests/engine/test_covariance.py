"""The race by prediction, against plain loops, closed forms and simulated errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_sklearn.backbones._noise_schedule import VariancePreserving
from diffusion_sklearn.engine._covariance import (
    MeanPredictor,
    TrialCovariance,
    learn_covariance,
)
from diffusion_sklearn.engine._pruning import predicted_race, pruning_rounds

T = 1000
EVEN = np.arange(5, T, 10)


def some_covariance(loss="l2", target="velocity"):
    """A smooth kernel that is strongest at t = 400, and noise of each trial."""
    knots = np.arange(20.0, T, 40)
    strength = np.exp(-(((knots - 400) / 300) ** 2))
    near = np.exp(-(((knots[:, None] - knots) / 150) ** 2))
    kernel = strength[:, None] * near * strength
    return TrialCovariance(knots, kernel, 0.3 * strength + 0.01, loss, target, 7)


def draw(covariance, n_images, n_classes, seed=0):
    """Normal errors of classes."""
    root = np.linalg.cholesky(covariance)
    rng = np.random.RandomState(seed)
    return rng.randn(n_images, n_classes, len(root)) @ root.T


def replay(errors, rounds, order):
    """Class that is left for each image, and the evaluations that it took."""
    n, k, _ = errors.shape
    active, cost, done = np.ones((n, k), bool), np.zeros(n, int), 0
    chosen = np.zeros(n, int)
    for end, rules in rounds:
        running = active.sum(axis=1) > 1
        cost += np.where(running, active.sum(axis=1) * (end - done), 0)
        for rule in rules:
            rule_active = rule(errors[:, :, order[:end]], active, EVEN[order[:end]])
            active = np.where(running[:, None], rule_active, active)
        mean = np.where(active, errors.mean(axis=2), np.inf)
        chosen = np.where(running, mean.argmin(axis=1), chosen)
        done = end
    return chosen, cost


def test_the_matrix_interpolates():
    covariance = some_covariance()
    kernel, nugget = covariance.kernel, covariance.nugget
    matrix = covariance.matrix(np.array([420, 440, 440, 460]))  # knots 10 and 11
    assert covariance.timesteps[10] == 420
    assert matrix[0, 0] == pytest.approx(kernel[10, 10] + nugget[10])
    assert matrix[0, 3] == pytest.approx(kernel[10, 11])
    assert matrix[0, 1] == pytest.approx((kernel[10, 10] + kernel[10, 11]) / 2)
    middle = kernel[10:12, 10:12].mean()  # of two trials with noise of their own
    assert matrix[1, 2] == pytest.approx(middle)
    assert matrix[1, 1] == pytest.approx((matrix[0, 0] + matrix[3, 3]) / 2)
    assert matrix[1, 1] > middle
    assert (np.linalg.eigvalsh(covariance.matrix(EVEN)) > 0).all()


def test_prediction_is_the_best_of_all_linear_ones():
    C = some_covariance().matrix(EVEN)
    predictor = MeanPredictor(C)
    for n in (1, 4, 30):
        done = predictor.order[:n]
        inverse, column = np.linalg.inv(C[np.ix_(done, done)]), C[done].mean(axis=1)
        coefficients, variance, whiten = predictor.after(n)
        np.testing.assert_allclose(coefficients, inverse @ column, rtol=1e-6)
        expected = C.mean() - column @ inverse @ column
        assert variance == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(whiten @ whiten.T, inverse, rtol=1e-5, atol=1e-5)
    coefficients, variance, _ = predictor.after(100)
    np.testing.assert_allclose(coefficients, 1 / 100)  # all trials: their mean
    assert variance == pytest.approx(0, abs=1e-9)


def test_the_next_trial_lowers_the_variance_most():
    C = some_covariance().matrix(EVEN)
    order = MeanPredictor(C).order
    assert sorted(order) == list(range(100))
    for n in (1, 2, 7):
        left = {
            j: MeanPredictor(C, np.append(order[: n - 1], j)).after(n)[1]
            for j in sorted(set(range(100)) - set(order[: n - 1]))
        }
        assert left[order[n - 1]] == pytest.approx(min(left.values()))


def test_trials_of_weight_0_come_last():
    weights = (EVEN > 300).astype(float)
    C = some_covariance().matrix(EVEN) * np.outer(weights, weights)
    predictor = MeanPredictor(C)
    assert (EVEN[predictor.order[:70]] > 300).all()
    coefficients, variance, _ = predictor.after(80)  # 10 of them of weight 0
    np.testing.assert_allclose(coefficients, [1 / 100] * 70 + [0] * 10, atol=1e-12)
    assert variance == pytest.approx(0, abs=1e-9)


def test_a_look_at_trials_of_which_some_have_weight_0():
    """They count neither as a trial nor as a reason to drop what offsets put last."""
    weights = (EVEN > 300).astype(float)
    C = some_covariance().matrix(EVEN)
    errors = 3 * draw(C, 200, 3) * weights
    predictor = MeanPredictor(C * np.outer(weights, weights), np.arange(100))
    active, offsets = np.ones((200, 3), bool), np.array([[0.0, 1e-3, 2e-3]] * 200)

    def look(n_done, order):
        predictor.order = order
        prediction = predictor.after(n_done)
        done = errors[:, :, order[:n_done]]
        return predicted_race(done, active, None, prediction, 0.2, offsets=offsets)

    assert look(1, np.arange(100)).all()
    with_some = look(40, np.arange(100))
    without = look(40 - (EVEN <= 300).sum(), np.flatnonzero(weights))
    np.testing.assert_array_equal(with_some, without)
    assert 0 < without.mean() < 1


@pytest.mark.parametrize("n_done", [1, 2, 6])
def test_a_look_by_hand(n_done):
    """One image at a time, in plain loops over classes and trials."""
    C = some_covariance().matrix(EVEN)
    predictor = MeanPredictor(C)
    done = predictor.order[:n_done]
    errors = 3 * draw(C, 60, 5)[:, :, done]
    errors[:, 4] = np.nan  # was no candidate
    active = np.ones((60, 5), bool)
    active[:, 3:] = False  # the fourth was dropped before
    offsets = np.random.RandomState(1).rand(60, 5) * 3
    inverse = np.linalg.inv(C[np.ix_(done, done)])
    g = inverse @ C[done].mean(axis=1)
    v = C.mean() - C[done].mean(axis=1) @ g
    t = stats.t.isf(0.2 / 3, 2 * n_done)
    expected = np.zeros(active.shape, bool)
    for i, one in enumerate(errors):
        mean = [g @ one[k] + offsets[i, k] for k in range(3)]
        best = int(np.argmin(mean))
        centre = one[:3].mean(axis=0)
        square = sum((e - centre) @ inverse @ (e - centre) for e in one[:3])
        for k in range(3):
            d = one[k] - one[best]
            spread = max(2 * square / (2 * n_done), d @ inverse @ d / n_done / 2)
            expected[i, k] = mean[k] - mean[best] <= t * np.sqrt(v * spread)
    actual = predicted_race(
        errors, active, None, predictor.after(n_done), 0.2, offsets=offsets
    )
    np.testing.assert_array_equal(actual, expected)
    assert 0 < expected[:, :3].mean() < 1


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_the_promise_holds_for_normal_errors(confidence):
    C = some_covariance().matrix(EVEN)
    predictor = MeanPredictor(C)
    errors = draw(C, 3000, 6)
    rounds = pruning_rounds(confidence, 100, predictor)
    chosen, cost = replay(errors, rounds, predictor.order)
    n_wrong = int((chosen != errors.mean(axis=2).argmin(axis=1)).sum())
    test = stats.binomtest(n_wrong, 3000, 1 - confidence, alternative="greater")
    assert test.pvalue > 0.01, n_wrong
    assert cost.mean() < 0.5 * 600


def test_images_unlike_those_it_was_learned_from_take_longer():
    """Trials with far more noise of their own than the covariance says."""
    known = some_covariance().matrix(EVEN)
    predictor = MeanPredictor(known)
    rounds = pruning_rounds(0.99, 100, predictor)
    usual = replay(draw(known, 1000, 6), rounds, predictor.order)[1]
    errors = draw(known + 2 * np.diag(np.diag(known)), 1000, 6)
    chosen, cost = replay(errors, rounds, predictor.order)
    assert cost.mean() > 1.3 * usual.mean()
    n_wrong = int((chosen != errors.mean(axis=2).argmin(axis=1)).sum())
    assert stats.binomtest(n_wrong, 1000, 0.02, alternative="greater").pvalue > 0.01


def test_a_covariance_is_learned_whatever_the_scale_of_an_image():
    true = some_covariance().matrix(EVEN)
    errors = draw(true, 200, 8)
    errors *= np.exp(np.random.RandomState(2).randn(200, 1, 1))
    errors += 1000 + np.random.RandomState(3).rand(200, 1, 100)  # cancels
    facts = {"loss": "l2", "target": "velocity"}
    learned = learn_covariance(errors, np.ones(100), EVEN, **facts)
    assert learned.n_images == 200
    np.testing.assert_array_equal(learned.timesteps, EVEN)
    ratio = np.diag(learned.kernel) / np.diag(true)
    strong = np.diag(true) > 0.1
    np.testing.assert_allclose(ratio[strong] / ratio[strong].mean(), 1, atol=0.2)
    orders = MeanPredictor(learned.matrix(EVEN)).order, MeanPredictor(true).order
    wasted = [MeanPredictor(true, order).after(8)[1] for order in orders]
    assert wasted[0] < 1.3 * wasted[1]


def test_a_covariance_by_hand():
    """Three classes, the last has the lowest mean; one timestep twice."""
    errors = np.array([[[4.0, 0, 2, 3], [5, 3, 3, 4], [1, 2, 0, 2]]])
    weights = np.array([1, 2, 1, 0.0])
    learned = learn_covariance(
        errors, weights, np.array([10, 20, 20, 30]), loss="l2", target="epsilon"
    )
    first, second = np.array([3.0, -2, 2, 1]), np.array([4.0, 1, 3, 2])
    first /= np.sqrt((9 + 16 + 4) / 4)
    second /= np.sqrt((16 + 4 + 9) / 4)
    rows = np.array([[d[0], (d[1] + d[2]) / 2, d[3]] for d in (first, second)])
    expected = (np.outer(rows[0], rows[0]) + np.outer(rows[1], rows[1])) / 2
    np.testing.assert_array_equal(learned.timesteps, [10, 20, 30])
    np.testing.assert_allclose(learned.kernel, expected)
    np.testing.assert_allclose(learned.nugget, 0.1 * np.diag(expected))
    assert learned.levels(EVEN) is None  # no spread over a single image


def test_levels_by_hand():
    """Two images, two classes, two trials of one timestep and one of another."""
    errors = np.array([[[1.0, 2, 5], [3, 2, 3]], [[8, 4, 1], [8, 4, 3]]])
    learned = learn_covariance(
        errors, np.ones(3), np.array([10, 10, 30]), loss="l2", target="velocity"
    )
    first = (np.log(2) + np.log(2)) / 2, (np.log(8) + np.log(4)) / 2
    second = np.log(4), np.log(2)
    mean, spread = learned.levels(np.array([10, 20, 30]))
    expected = [np.mean(first), (np.mean(first) + np.mean(second)) / 2, np.mean(second)]
    np.testing.assert_allclose(mean, expected)
    np.testing.assert_allclose(spread[[0, 2]], [np.std(first), np.std(second)])
    schedule = VariancePreserving(torch.linspace(0.999, 0.01, T))
    converted = learned.in_space("l2", "epsilon", schedule)
    scale = schedule.alpha_t.double().numpy()[[10, 30]] ** 2
    np.testing.assert_allclose(converted.level, learned.level + np.log(scale))


@pytest.mark.parametrize("weights", [np.ones(100), np.r_[np.ones(60), np.zeros(40)]])
def test_a_race_waits_where_errors_are_large(weights):
    """The same differences on two levels: 1.1 and 0.9 spreads above the usual."""
    C = some_covariance().matrix(EVEN) * np.outer(weights, weights)
    levels = np.array([np.log(50 + EVEN / 10), 0.001 + EVEN / 1e6])
    with np.errstate(divide="ignore"):
        shown = levels + np.stack([np.log(weights), np.zeros(100)])
    gaps = draw(some_covariance().matrix(EVEN), 1, 3) + np.array([[[0], [4], [9]]])
    gaps *= 1e-3
    gaps -= gaps.mean(axis=1, keepdims=True)
    height = np.exp(levels[0] + np.multiply.outer([0.9, 1.1], levels[1]))
    errors = (height[:, None] + gaps) * weights
    looks = {}
    for known in (None, shown):
        predictor = MeanPredictor(C, levels=known)
        for end, rules in pruning_rounds(0.9, 100, predictor)[:8]:
            so_far, active = errors[:, :, predictor.order[:end]], np.ones((2, 3), bool)
            for rule in rules:
                active = rule(so_far, active, None)
            looks[known is None, end] = active.sum(axis=1).tolist()
    assert looks[True, 4] < [3, 3]  # a class goes early
    for unknown, end in looks:
        usual, large = looks[True, end]
        assert unknown or looks[False, end] == [usual, 3 if end < 6 else large]


def test_another_target_is_another_scale():
    schedule = VariancePreserving(torch.linspace(0.999, 0.01, T))
    alpha = schedule.alpha_t.double().numpy()[EVEN]
    for loss, power in ("l2", 2), ("l1", 1):
        covariance = some_covariance(loss)
        converted = covariance.in_space(loss, "epsilon", schedule)
        expected = covariance.matrix(EVEN) * np.outer(alpha**power, alpha**power)
        actual = converted.matrix(EVEN)
        assert np.abs(actual - expected).max() < 0.05 * expected.max()
        back = converted.in_space(loss, "velocity", schedule)
        np.testing.assert_allclose(back.kernel, covariance.kernel)
    assert some_covariance("huber").in_space("huber", "epsilon", schedule) is None
    assert some_covariance().in_space("l1", "velocity", schedule) is None


def test_a_file_holds_it_whole(tmp_path):
    covariance, path = some_covariance(), tmp_path / "covariance"  # no ending added
    covariance.save(path)
    loaded = TrialCovariance.load(path)
    np.testing.assert_array_equal(loaded.matrix(EVEN), covariance.matrix(EVEN))
    assert loaded.level is None
    levels = {"level": covariance.timesteps / 500, "level_spread": np.ones(25)}
    replace(covariance, **levels).save(path)
    again = TrialCovariance.load(path)
    np.testing.assert_array_equal(again.levels(EVEN)[1], np.ones(100))
    facts = loaded.loss, loaded.target, loaded.n_images, loaded.model
    assert facts == ("l2", "velocity", 7, "")
    np.savez(tmp_path / "else.npz", something=1)
    (tmp_path / "else.npz").replace(path)
    with pytest.raises(ValueError, match="no file of a TrialCovariance"):
        TrialCovariance.load(path)
    for broken in (path.read_bytes()[:100], b"", b"text"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="no file of a TrialCovariance"):
            TrialCovariance.load(path)
    with pytest.raises(OSError, match="absent"):
        TrialCovariance.load(tmp_path / "absent.npz")
