"""A cheap classifier first: only its candidates are scored."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from diffusion_sklearn import ConditionalDiffusionClassifier, fit_prefilter_weight
from diffusion_sklearn.classifiers._prefilter import combine_with_prefilter

NAMES = ["ant", "bee", "cat", "eel"]
ROWS = np.random.RandomState(0).rand(12, 192)
Y = np.array(NAMES * 3)


@pytest.fixture
def clf(dit_folder):
    return ConditionalDiffusionClassifier(
        model=dit_folder,
        n_trials=3,
        pruning=None,
        image_shape=(8, 8, 3),
        prefilter=LogisticRegression(),
        n_candidates=2,
    )


def test_only_the_candidates_are_scored(clf):
    fitted = clf.fit(ROWS, Y)
    result = fitted.denoising_errors(ROWS)
    assert result.n_evaluations.tolist() == [2 * 3] * 12
    proba = LogisticRegression().fit(ROWS, Y).predict_proba(ROWS)
    best_two = proba.argsort(axis=1)[:, ::-1][:, :2]
    scored = ~np.isnan(result.errors).any(axis=2)
    for row, best in zip(scored, best_two, strict=True):
        assert np.flatnonzero(row).tolist() == sorted(best)
    # Bayes' rule among the candidates, for what the prefilter gives them; its own
    # probability for the rest.
    full = clone(clf).set_params(prefilter=None).fit(ROWS, Y).predict_proba(ROWS)
    expected = np.where(scored, full, 0)
    expected /= expected.sum(axis=1, keepdims=True)
    expected *= np.where(scored, proba, 0).sum(axis=1, keepdims=True)
    expected = np.where(scored, expected, proba)
    np.testing.assert_allclose(fitted.predict_proba(ROWS), expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(result.log_proba), expected, rtol=1e-4)
    assert scored[np.arange(12), expected.argmax(axis=1)].all()


@pytest.mark.slow
def test_the_candidates_are_the_same_in_workers(clf):
    expected = clone(clf).fit(ROWS, Y).predict_proba(ROWS)
    parallel = clf.set_params(n_jobs=2).fit(ROWS, Y).predict_proba(ROWS)
    np.testing.assert_allclose(parallel, expected, rtol=1e-4)


@pytest.mark.parametrize("pruning", [0.6, ((4, 1),)])
def test_a_race_and_stages_start_from_the_candidates(clf, pruning):
    """As if nothing but the candidates of an image had been asked for."""
    clf.set_params(pruning=pruning, n_trials=30, n_candidates=3).fit(ROWS, Y)
    result = clf.denoising_errors(ROWS)
    costs = set()
    for index, row in enumerate(ROWS):
        scored = ~np.isnan(result.errors[index]).all(axis=1)
        alone = clone(clf).set_params(prefilter=None).fit(classes=clf.classes_[scored])
        expected = alone.denoising_errors([row])
        np.testing.assert_allclose(
            result.errors[index][scored], expected.errors[0], rtol=1e-4
        )
        assert result.n_evaluations[index] == expected.n_evaluations[0]
        among = result.log_proba[index][scored]
        among = among - np.log(np.exp(among).sum())
        np.testing.assert_allclose(among, expected.log_proba[0], rtol=1e-4, atol=1e-4)
        costs.add(int(result.n_evaluations[index]))
    assert max(costs) < 3 * 30  # it did prune
    assert pruning != 0.6 or len(costs) > 1


def test_one_candidate_is_the_answer_of_the_prefilter(clf):
    fitted = clf.set_params(n_candidates=1).fit(ROWS, Y)
    prefilter = LogisticRegression().fit(ROWS, Y)
    np.testing.assert_array_equal(fitted.predict(ROWS), prefilter.predict(ROWS))
    np.testing.assert_allclose(
        fitted.predict_proba(ROWS), prefilter.predict_proba(ROWS), rtol=1e-6
    )


def test_more_candidates_than_classes_change_nothing(clf):
    proba = clf.set_params(n_candidates=20).fit(ROWS, Y).predict_proba(ROWS)
    plain = clf.set_params(prefilter=None).fit(ROWS, Y).predict_proba(ROWS)
    np.testing.assert_allclose(proba, plain, rtol=1e-6)


def test_a_fitted_prefilter_that_lacks_a_class(clf):
    known = LogisticRegression().fit(ROWS[Y != "eel"], Y[Y != "eel"])
    clf.set_params(prefilter=FrozenEstimator(known)).fit(classes=NAMES)
    assert clf.prefilter_.estimator is known
    assert "eel" not in clf.predict(ROWS)
    proba = clf.predict_proba(ROWS)
    assert (proba[:, 3] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_classes_that_the_prefilter_knows_beside_ours(clf):
    """Their share goes to ours, in proportion."""
    known = LogisticRegression().fit(ROWS, Y)
    clf.set_params(prefilter=FrozenEstimator(known), n_candidates=1)
    proba = clf.fit(classes=NAMES[:3]).predict_proba(ROWS)
    expected = known.predict_proba(ROWS)[:, :3]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, expected, rtol=1e-6)


def test_a_prior_of_0_rules_a_class_out(clf):
    clf.set_params(priors=[0.0, 0.2, 0.3, 0.5]).fit(ROWS, Y)
    result = clf.denoising_errors(ROWS)
    assert (np.exp(result.log_proba)[:, 0] == 0).all()
    np.testing.assert_allclose(np.exp(result.log_proba).sum(axis=1), 1)
    assert np.isnan(result.errors[:, 0]).all()  # and is no candidate


class Constant(DummyClassifier):
    """Gives every image the same probabilities, of all classes that there are."""

    def __init__(self, proba=(1.0, 0.0, 0.0, 0.0)):
        super().__init__()
        self.proba = proba

    def predict_proba(self, X):
        return np.tile(self.proba, (len(X), 1))


def test_a_prefilter_that_is_sure_of_a_class_of_prior_0(clf):
    """The candidates are of the other classes, between which it does not choose."""
    params = {"prefilter": Constant(), "n_candidates": 1}
    clf.set_params(priors=[0.0, 0.2, 0.3, 0.5], **params).fit(ROWS, Y)
    result = clf.denoising_errors(ROWS)
    assert (np.isfinite(result.errors).any(axis=2).sum(axis=1) == 1).all()
    proba = np.exp(result.log_proba)
    np.testing.assert_allclose(proba, [[0, 1 / 3, 1 / 3, 1 / 3]] * 12)


@pytest.mark.parametrize("wrong", [np.nan, -1.0])
def test_a_prefilter_that_gives_no_probabilities(clf, wrong):
    clf.set_params(prefilter=Constant((wrong, 0.0, 1.0, 0.0))).fit(ROWS, Y)
    with pytest.raises(ValueError, match=r"prefilter=.* gave NaN .* for X\[0\]"):
        clf.predict(ROWS)


def test_what_workers_return_may_be_read_only():
    log_proba = np.array([[np.log(0.5), np.log(0.5), -np.inf]])
    log_proba.flags.writeable = False
    outside = np.array([[0.0, 0.0, 0.2]])
    proba = np.exp(combine_with_prefilter(log_proba, outside))
    np.testing.assert_allclose(proba, [[0.4, 0.4, 0.2]])


def test_no_class_outside_comes_first(clf):
    """Not even where the prefilter can't tell classes apart."""
    unsure = DummyClassifier(strategy="uniform")
    clf.set_params(prefilter=unsure, temperature=1e15).fit(ROWS, Y)
    assert set(clf.predict(ROWS)) <= set(NAMES[:2])
    np.testing.assert_allclose(clf.predict_proba(ROWS).sum(axis=1), 1)


def test_what_is_no_prefilter(clf):
    with pytest.raises(ValueError, match=r"prefilter=LinearSVC.*has no predict_proba"):
        clf.set_params(prefilter=LinearSVC()).fit(ROWS, Y)
    with pytest.raises(ValueError, match=r"prefilter=Log.*pass FrozenEstimator"):
        clf.set_params(prefilter=LogisticRegression()).fit(classes=NAMES)
    other = FrozenEstimator(LogisticRegression().fit(ROWS, Y == "ant"))
    with pytest.raises(ValueError, match=r"prefilter has the classes \[False, True\]"):
        clf.set_params(prefilter=other).fit(classes=NAMES)
    with pytest.raises(ValueError, match="'n_candidates'"):
        clf.set_params(n_candidates=0).fit(ROWS, Y)


@pytest.mark.parametrize("n_candidates", [2, 4])
def test_the_product_of_experts_by_hand(clf, n_candidates):
    """log p + w log p(prefilter) among the candidates, Bayes' rule in plain loops."""
    params = {"n_candidates": n_candidates, "temperature": 30}
    clf.set_params(prefilter_weight=1.5, **params).fit(ROWS, Y)
    log_likelihood = (
        clone(clf).set_params(prefilter=None).fit(ROWS, Y).predict_log_proba(ROWS)
    )
    proba = LogisticRegression().fit(ROWS, Y).predict_proba(ROWS)
    actual = clf.predict_proba(ROWS)
    for i in range(len(ROWS)):
        best = np.argsort(-proba[i])[:n_candidates]
        score = {k: log_likelihood[i, k] + 1.5 * np.log(proba[i, k]) for k in best}
        total = sum(np.exp(s) for s in score.values())
        for k in range(4):
            expected = proba[i, k]
            if k in score:
                expected = np.exp(score[k]) / total * proba[i, best].sum()
            assert actual[i, k] == pytest.approx(expected, rel=1e-4)


def test_the_race_counts_the_other_expert_from_its_first_look(clf):
    """A prefilter that is sure of one class leaves nothing to evaluate after a look."""
    clf.set_params(n_candidates=4, n_trials=30, pruning=0.99, prefilter_weight=1e5).fit(
        ROWS, Y
    )
    result = clf.denoising_errors(ROWS)
    proba = LogisticRegression().fit(ROWS, Y).predict_proba(ROWS)
    np.testing.assert_array_equal(result.log_proba.argmax(axis=1), proba.argmax(axis=1))
    assert (result.n_evaluations == 4 * 4).all()  # one look, after four trials
    plain = clf.set_params(prefilter_weight=0).denoising_errors(ROWS)
    assert plain.n_evaluations.mean() > 16


def test_the_fitted_weight_follows_the_better_expert(clf):
    """A prefilter that knows the labels gets a high weight, one that guesses none."""
    knows = clf.set_params(n_candidates=4, temperature=30).fit(ROWS, Y)
    assert fit_prefilter_weight(knows, ROWS, Y, cv=3) >= 0.5
    noise = np.random.RandomState(5).rand(40, 192)
    guesses = LogisticRegression(C=100).fit(noise, np.array(NAMES * 10))
    clf.set_params(prefilter=FrozenEstimator(guesses)).fit(ROWS, Y)
    truth = clone(clf).set_params(prefilter=None).fit(ROWS, Y).predict(ROWS)
    assert fit_prefilter_weight(clf, ROWS, truth, cv=3) <= 0.25


class Drawn(DummyClassifier):
    """Gives every image probabilities drawn at random."""

    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed

    def predict_proba(self, X):
        return np.random.default_rng(self.seed).dirichlet(np.ones(4), len(X))


def test_the_fitted_weight_is_0_where_chance_explains_a_gain(clf):
    """The smallest weight within one standard error of the best, not the best."""
    clf.set_params(n_candidates=4)
    truth = clone(clf).set_params(prefilter=None).fit(ROWS, Y).predict(ROWS)
    truth[::4] = NAMES[0]  # sometimes wrong
    weights = []
    for k in range(10):
        clf.set_params(prefilter=Drawn(k)).fit(ROWS, Y)
        weights.append(fit_prefilter_weight(clf, ROWS, truth))
    assert weights.count(0) >= 9


def test_the_fitted_weight_is_that_of_the_classifier_with_its_offsets(clf):
    """Offsets that follow the labels leave nothing to a prefilter that guesses."""
    labels = np.array(["ant"] * 12)
    clf.set_params(prefilter=Constant((0.4, 0.2, 0.2, 0.2)), n_candidates=4)
    clf.fit(ROWS, Y)
    plain = fit_prefilter_weight(clf, ROWS, labels, cv=3)
    clf.set_params(class_offsets=[1e4, 0.0, 0.0, 0.0])
    assert fit_prefilter_weight(clf, ROWS, labels, cv=3) == 0 < plain


def test_what_keeps_a_weight_from_being_fitted(clf):
    with pytest.raises(NotFittedError):
        fit_prefilter_weight(clf, ROWS, Y)
    clf.fit(ROWS, Y)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[12, 6\]"):
        fit_prefilter_weight(clf, ROWS, Y[:6])
    clf.set_params(priors=[0.0, 0.3, 0.3, 0.4])
    with pytest.raises(ValueError, match=r"y has \['ant'\], to which priors=.* give 0"):
        fit_prefilter_weight(clf, ROWS, Y)
    clf.set_params(priors=None)
    with pytest.raises(ValueError, match="none of"):
        fit_prefilter_weight(clf, ROWS, ["dog"] * 12)
    with pytest.raises(ValueError, match="cv=13 must be from 2 to the 12"):
        fit_prefilter_weight(clf, ROWS, Y, cv=13)
    clf.set_params(prefilter=None).fit(ROWS, Y)
    with pytest.raises(ValueError, match="no expert of its own"):
        fit_prefilter_weight(clf, ROWS, Y)
