"""What the displays draw, against numbers that are computed another way."""

import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.inspection import (
    DenoisingErrorDisplay,
    EffectiveRobustnessDisplay,
    EvidenceDisplay,
    TimestepAccuracyDisplay,
    TrialScalingDisplay,
)
from diffusion_sklearn.inspection._confusion import confusion_figure
from tests.models import slow

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def agg():
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(params=["class", "text"])
def clf(request, dit_folder, sd_folder):
    """Either classifier, with a tiny model."""
    how = {"n_trials": 6, "pruning": ((2, 1),), "random_state": 3}
    if request.param == "class":
        clf = ConditionalDiffusionClassifier(model=dit_folder, **how)
    else:
        clf = ZeroShotDiffusionClassifier(model=sd_folder, **how)
    return clf.fit(classes=LABELS)


def test_labels_with_dollar_signs(tmp_path):
    """Between two of them, matplotlib reads a formula; these are none."""
    labels = ["a$_$", "b"]
    confusion = confusion_figure(np.eye(2, dtype=int), np.array(labels))
    confusion.savefig(tmp_path / "confusion.png")
    errors = DenoisingErrorDisplay(np.zeros((2, 1, 2)), np.arange(2), classes=labels)
    errors.plot().figure_.savefig(tmp_path / "errors.png")
    evidence = EvidenceDisplay(np.zeros((2, 2)), np.zeros((2, 2)), *labels).plot()
    evidence.figure_.savefig(tmp_path / "evidence.png")


@pytest.fixture(scope="module")
def X():
    return np.random.RandomState(0).randint(256, size=(12, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def y():
    return np.array(LABELS * 4)


def drawn_y(line):
    return np.asarray(line.get_ydata(), np.float64)


# Denoising error ---------------------------------------------------------------------


def errors_by_hand(clf, image, n_noises, timesteps):
    """One network evaluation after the other, (n_classes, n_noises, n_timesteps)."""
    backbone = clf.backbone_
    pixels = torch.from_numpy(image / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    latent = backbone.encode(pixels)
    errors = np.empty((3, n_noises, len(timesteps)))
    for i in range(n_noises):
        rng = np.random.default_rng([clf.trials_.seed, i])
        noise = rng.standard_normal(latent.shape[1:], dtype=np.float32)
        eps = torch.from_numpy(noise)[None]
        for j, t in enumerate(torch.tensor(timesteps)[:, None]):
            noised = backbone.add_noise(latent, eps, t)
            for k, condition in enumerate(clf._conditions):
                with torch.no_grad():
                    predicted = backbone.predict(noised, t, condition[None])
                gap = (predicted - eps).double().numpy()
                errors[k, i, j] = (gap**2).mean()
    return errors


def test_denoising_errors_are_those_of_a_loop(clf, X):
    timesteps = [100, 500, 900]
    display = DenoisingErrorDisplay.from_estimator(
        clf, X[0], n_noises=2, timesteps=timesteps, center=None
    )
    by_hand = errors_by_hand(clf, X[0], 2, timesteps)
    np.testing.assert_allclose(display.errors, by_hand, rtol=1e-4)
    assert display.lines_.shape == (3, 2)
    for k in range(3):
        for i in range(2):
            line = display.lines_[k, i]
            np.testing.assert_array_equal(line.get_xdata(), timesteps)
            np.testing.assert_allclose(drawn_y(line), by_hand[k, i], rtol=1e-4)
        mean = by_hand[k].mean(axis=0)
        np.testing.assert_allclose(drawn_y(display.mean_lines_[k]), mean, rtol=1e-4)
    shown = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert shown == LABELS


@pytest.mark.parametrize(
    "center, expected",
    [
        (None, [[[0.0, 1], [2, 3]], [[4, 5], [6, 11]]]),
        ("noise", [[[-2.0, -2], [-2, -4]], [[2, 2], [2, 4]]]),
        ("timestep", [[[-3.0, -4], [-1, -2]], [[1, 0], [3, 6]]]),
    ],
)
def test_centers(center, expected):
    errors = [[[0, 1], [2, 3]], [[4, 5], [6, 11]]]
    display = DenoisingErrorDisplay(errors, [10, 20]).plot(center=center)
    drawn = [[drawn_y(line) for line in lines] for lines in display.lines_]
    np.testing.assert_array_equal(drawn, expected)
    means = [drawn_y(line) for line in display.mean_lines_]
    np.testing.assert_array_equal(means, np.mean(expected, axis=1))


def test_every_form_of_one_image(clf, X, tmp_path):
    def errors(image):
        display = DenoisingErrorDisplay.from_estimator(
            clf, image, n_noises=1, timesteps=2
        )
        np.testing.assert_array_equal(display.timesteps, [250, 750])
        return display.errors

    want = errors(X[0])
    tensor = torch.from_numpy(X[0]).permute(2, 0, 1)
    path = tmp_path / "image.png"
    Image.fromarray(X[0]).save(path)
    path_of_numpy = np.array([str(path)])[0]
    for image in (Image.fromarray(X[0]), tensor, path, path_of_numpy):
        np.testing.assert_allclose(errors(image), want, rtol=1e-5)


def test_denoising_errors_leave_the_memory_alone(clf, X, tmp_path):
    clf.set_params(memory=tmp_path)
    DenoisingErrorDisplay.from_estimator(clf, X[0], n_noises=1, timesteps=2)
    assert not list(tmp_path.iterdir())


# Accuracy by timestep ----------------------------------------------------------------


def edges(interval):
    """Lower and upper end at each point of a filled area."""
    points = {}
    for x, height in interval.get_paths()[0].vertices:
        low, high = points.get(x, (height, height))
        points[x] = min(low, height), max(high, height)
    return [points[x] for x in sorted(points)]


@pytest.mark.parametrize("priors", [None, [0.5, 0.5 - 1e-6, 1e-6]])
def test_accuracy_of_each_timestep(clf, X, y, priors):
    clf.set_params(timesteps=[100, 400, 900], priors=priors, temperature=2.0)
    clf.fit(classes=LABELS)
    display = TimestepAccuracyDisplay.from_estimator(clf, X, y, confidence=0.9)
    assert clf.pruning == ((2, 1),)

    table = clf.set_params(pruning=None).denoising_errors(X).errors.astype(float)
    n_elements = clf.trials_.noise(clf.backbone_.latent_shape(8))[0].size
    logs = np.log(np.full(3, 1 / 3) if priors is None else priors)
    accuracies = []
    for j in range(3):
        right = 0
        for i in range(len(X)):
            posterior = -(table[i, :, j] + table[i, :, j + 3]) / 2 * n_elements / 2
            right += LABELS[np.argmax(posterior + logs)] == y[i]
        accuracies.append(right / len(X))
    np.testing.assert_array_equal(display.line_.get_xdata(), [100, 400, 900])
    np.testing.assert_allclose(drawn_y(display.line_), accuracies)
    exact = [
        binomtest(round(a * len(X)), len(X)).proportion_ci(0.9, "exact")
        for a in accuracies
    ]
    np.testing.assert_allclose(edges(display.interval_), exact, atol=1e-12)
    np.testing.assert_allclose(drawn_y(display.chance_line_), [1 / 3] * 2)


def test_accuracy_of_bands(clf, X, y):
    clf.set_params(timesteps=[0, 499, 950], pruning=None).fit(classes=LABELS)
    display = TimestepAccuracyDisplay.from_estimator(clf, X, y, n_bands=2)
    table = clf.denoising_errors(X).errors.astype(float)
    low = np.array(LABELS)[table[:, :, [0, 1, 3, 4]].mean(axis=2).argmin(axis=1)]
    high = np.array(LABELS)[table[:, :, [2, 5]].mean(axis=2).argmin(axis=1)]
    np.testing.assert_array_equal(display.line_.get_xdata(), [250, 750])
    np.testing.assert_allclose(
        drawn_y(display.line_), [(low == y).mean(), (high == y).mean()]
    )
    empty_left_out = TimestepAccuracyDisplay.from_estimator(clf, X, y, n_bands=4)
    np.testing.assert_array_equal(empty_left_out.timesteps, [125, 375, 875])


# Accuracy by number of trials --------------------------------------------------------


@pytest.mark.filterwarnings("ignore:n_trials=1 leaves out timesteps")
@pytest.mark.parametrize("fitted", [*slow(True), False])
def test_scaling_is_that_of_classifiers_fitted_one_by_one(clf, X, y, fitted):
    given = clf if fitted else type(clf)(**clf.get_params(deep=False))
    strategies = {
        "even": "even",
        "random": "random",
        "few": [900, 100],
        "any": "anytime",
    }
    display = TrialScalingDisplay.from_estimator(
        given, X, y, strategies=strategies, n_trials=[5, 1, 2]
    )
    assert given.n_trials == 6 and given.timesteps == "even"
    assert hasattr(given, "classes_") == fitted
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == list(strategies)
    for line, plan in zip(display.lines_, strategies.values(), strict=True):
        params = {**clf.get_params(deep=False), "timesteps": plan, "pruning": None}
        scores = [
            type(clf)(**{**params, "n_trials": n}).fit(classes=LABELS).score(X, y)
            for n in (1, 2, 5)
        ]
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 5])
        np.testing.assert_allclose(drawn_y(line), scores)


@pytest.mark.parametrize("favourite", [0, 1])
def test_accuracies_are_those_with_class_offsets(clf, X, favourite):
    y = np.repeat(LABELS[favourite], len(X))
    clf.set_params(class_offsets=1e6 * np.eye(3)[favourite])
    assert clf.score(X, y) == 1
    display = TrialScalingDisplay.from_estimator(
        clf, X, y, strategies=["even"], n_trials=[6]
    )
    assert display.accuracy.tolist() == [[1]]
    display = TimestepAccuracyDisplay.from_estimator(clf, X, y, n_bands=1)
    assert display.n_correct.tolist() == [len(y)]


def test_scaling_of_an_unfitted_classifier_needs_no_prefilter(clf, X, y):
    new = type(clf)(**clf.get_params(deep=False))
    new.set_params(prefilter=LogisticRegression())
    given = {"strategies": ["even"], "n_trials": [2]}
    display = TrialScalingDisplay.from_estimator(new, X, y, **given)
    expected = TrialScalingDisplay.from_estimator(clf, X, y, **given)
    np.testing.assert_array_equal(display.accuracy, expected.accuracy)


def test_scaling_defaults(clf, X, y):
    display = TrialScalingDisplay.from_estimator(
        clf, X[:3], y[:3], strategies=["anytime", [7, 8]]
    )
    np.testing.assert_array_equal(display.n_trials, [1, 2, 4, 6])
    assert display.strategies == ["anytime", "7, 8"]


# Effective robustness ----------------------------------------------------------------


def test_line_of_the_baselines_and_what_lies_above():
    known = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    display = EffectiveRobustnessDisplay(
        [0.55, 0.95],
        [0.5, 0.8],
        known,
        expit(2 * logit(known) - 1),
        names=["ours", "theirs"],
        knot=None,
        n_images=200,
        n_shifted=100,
    ).plot(confidence=0.9)
    x, line = display.line_.get_data()
    assert (x.min(), x.max()) == pytest.approx((0.5, 0.95))
    np.testing.assert_allclose(logit(line), 2 * logit(x) - 1, atol=1e-9)
    above = np.array([0.5, 0.8]) - expit(2 * logit([0.55, 0.95]) - 1)
    np.testing.assert_allclose(display.effective_robustness_, above)
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "logit"
    np.testing.assert_allclose(display.baselines_.lines[0].get_xdata(), known)

    point, _, (across, along) = display.points_[0].lines
    np.testing.assert_allclose(point.get_data(), [[0.55], [0.5]])
    exact = binomtest(110, 200).proportion_ci(0.9, "exact")
    np.testing.assert_allclose(across.get_segments()[0][:, 0], exact)
    exact = binomtest(50, 100).proportion_ci(0.9, "exact")
    np.testing.assert_allclose(along.get_segments()[0][:, 1], exact)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert f"ours ({100 * above[0]:+.1f} points)" in labels


def test_robustness_of_predictions():
    truth = np.arange(100) % 10

    def predict(n_right):
        return np.where(np.arange(100) < n_right, truth, truth + 1)

    id_right = {"ours": 70, "a": 50, "b": 60, "c": 80}
    shifted_right = {"c": 60, "b": 40, "a": 30, "ours": 65}
    display = EffectiveRobustnessDisplay.from_predictions(
        truth,
        {name: predict(n) for name, n in id_right.items()},
        truth,
        {name: predict(n) for name, n in shifted_right.items()},
        baselines=["a", "b", "c"],
        knot=None,
    )
    assert display.names == ["ours"]
    np.testing.assert_allclose(display.points_[0].lines[0].get_data(), [[0.7], [0.65]])
    np.testing.assert_allclose(
        display.baselines_.lines[0].get_data(), [[0.5, 0.6, 0.8], [0.3, 0.4, 0.6]]
    )
    slope, start = np.polyfit(logit([0.5, 0.6, 0.8]), logit([0.3, 0.4, 0.6]), 1)
    above = 0.65 - expit(slope * logit(0.7) + start)
    np.testing.assert_allclose(display.effective_robustness_, [above])
    with pytest.raises(ValueError, match="baselines has \\['d'\\]"):
        EffectiveRobustnessDisplay.from_predictions(
            truth, {"a": truth}, truth, {"a": truth}, baselines=["d"]
        )
    with pytest.raises(ValueError, match="pass both for each"):
        EffectiveRobustnessDisplay.from_predictions(
            truth, {"a": truth}, truth, {"b": truth}, baselines=["a"]
        )


# Evidence ----------------------------------------------------------------------------


def test_evidence_over_the_photo(clf, X):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    display = EvidenceDisplay.from_estimator(clf, X[1], "cat", "ant", ax=ax)
    assert display.figure_ is figure and display.ax_ is ax
    evidence = clf.evidence(X[1:2], "cat", "ant")[0]
    np.testing.assert_allclose(display.im_.get_array(), evidence, rtol=1e-6)
    low, high = display.im_.get_clim()
    assert -low == high == pytest.approx(np.abs(evidence).max())
    red, _, blue, _ = display.im_.to_rgba([high])[0]
    assert red > blue  # red is for the first class
    gray = np.asarray(Image.fromarray(X[1]).convert("L"), float) / 255
    np.testing.assert_allclose(display.photo_.get_array(), gray, atol=0.6 / 255)
    label = display.colorbar_.ax.get_ylabel()
    assert label.startswith("ant") and label.endswith("cat")
    backwards = EvidenceDisplay.from_estimator(clf, X[1], "ant", "cat")
    np.testing.assert_allclose(
        backwards.im_.get_array(), -display.im_.get_array(), atol=1e-6
    )


def test_no_evidence_and_a_gray_photo():
    display = EvidenceDisplay(np.zeros((4, 4)), np.full((4, 4), 0.5), "a", "b").plot()
    assert display.im_.get_clim() == (-1, 1)
    np.testing.assert_array_equal(display.photo_.get_array(), np.full((4, 4), 0.5))


# What they refuse --------------------------------------------------------------------


def test_errors(clf, X, y):
    with pytest.raises(ValueError, match="n_noises=0 must"):
        DenoisingErrorDisplay.from_estimator(clf, X[0], n_noises=0)
    for wrong in (0, 1001, [], [1000], [-1], [0.5]):
        with pytest.raises(ValueError, match="timesteps="):
            DenoisingErrorDisplay.from_estimator(clf, X[0], timesteps=wrong)
    with pytest.raises(ValueError, match="center='class' must"):
        DenoisingErrorDisplay(np.zeros((1, 1, 1)), [0]).plot(center="class")
    with pytest.raises(ValueError, match="errors has shape"):
        DenoisingErrorDisplay(np.zeros((1, 1, 1)), [0, 1]).plot()
    for wrong in (0, 1001, 1.5):
        with pytest.raises(ValueError, match="n_bands="):
            TimestepAccuracyDisplay.from_estimator(clf, X, y, n_bands=wrong)
    for wrong in ([], [0], [1.5]):
        with pytest.raises(ValueError, match="n_trials="):
            TrialScalingDisplay.from_estimator(clf, X, y, n_trials=wrong)
    with pytest.raises(ValueError, match=r"y has \['wasp'\]"):
        TimestepAccuracyDisplay.from_estimator(clf, X[:1], ["wasp"])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        TrialScalingDisplay.from_estimator(clf, X, y[:-1], n_trials=[1])
    with pytest.raises(ValueError, match="a='wasp' is none"):
        EvidenceDisplay.from_estimator(clf, X[0], "wasp", "ant")
    new = type(clf)(model=clf.model)
    with pytest.raises(NotFittedError):
        TimestepAccuracyDisplay.from_estimator(new, X, y)
    with pytest.raises(NotFittedError):
        EvidenceDisplay.from_estimator(new, X[0], "ant", "cat")
    with pytest.raises(TypeError, match="clf='a name'"):
        TrialScalingDisplay.from_estimator("a name", X, y)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "diffusion-sklearn\[plot\]"'):
        DenoisingErrorDisplay(np.zeros((1, 1, 1)), [0]).plot()


# Examples ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "denoising_errors",
        "timestep_accuracy",
        "trial_scaling",
        "effective_robustness",
        "evidence",
    ],
)
def test_examples_are_pages_of_a_gallery(name):
    path = EXAMPLES / f"plot_{name}.py"
    code = path.read_text("utf-8")
    compile(code, path, "exec")
    lines = code.splitlines()
    title = next(k for k, line in enumerate(lines) if set(line) == {"="})
    assert len(lines[title - 1].removeprefix('"""')) == len(lines[title])
    assert lines.count("# %%") >= 1 and lines[-1] == "plt.show()"


def test_an_example_runs():
    import matplotlib.pyplot as plt

    runpy.run_path(str(EXAMPLES / "plot_denoising_errors.py"))
    assert plt.get_fignums()
