"""Losses, targets, timestep weights and guidance on fashion-dit.

    python -m benchmarks.accuracy.objectives

Table 5 of the paper in small: accuracy on the 1,000 photos that ship, 100 trials, no
pruning, for every loss; then squared errors in other spaces and with other timestep
weights, among them weights fitted on 200 photos, and guidance. All but guidance is
computed from one table of errors, since one evaluation with `memory` gives every loss.
About 9 minutes on 2 cores, ``--quick`` 1.
"""

import tempfile

import numpy as np

from benchmarks._common import describe_machine, make_parser, make_task, write
from diffusion_sklearn import fit_timestep_weights
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.engine._posterior import log_posterior
from diffusion_sklearn.engine._weights import named_weights
from diffusion_sklearn.metrics import clopper_pearson, expected_calibration_error

LOSSES = ("l1", "l2", "huber", "vlb", "l2+vlb")
SCALES = (1.0, 1.5, 3.0)


def error_tables(clf, images):
    """Errors (n, 10, n_trials) of every loss; each evaluation is computed once."""
    return {
        loss: clf.set_params(loss=loss).denoising_errors(images).errors.astype(float)
        for loss in LOSSES
    }


def weightings(backbone):
    """Weights of the squared error of the noise that stand for other objectives."""
    alpha = backbone.noise_schedule.alpha_t.cpu().double().numpy()
    sigma = backbone.noise_schedule.sigma_t.cpu().double().numpy()
    to_sample = (sigma / alpha) ** 2  # error of the sample over that of the noise

    def named(name, target):
        return named_weights(name, alpha, sigma, False, target)

    return {
        "error of the velocity": 1 / alpha**2,
        "error of the sample": to_sample,
        "exp(-7 t / T) on the sample": named("exponential", "sample") * to_sample,
        "SNR, at most 5, on the sample": named("min-snr", "sample") * to_sample,
        "SNR on the noise": named("snr", "epsilon"),
        "variational bound (ELBO)": named("elbo", "epsilon"),
    }


def measure(name, errors, truth, clf):
    """A row: accuracy with its interval, and the calibration error."""
    log_proba = log_posterior(errors, fitted_plan(clf).n_elements)
    return row_of(name, log_proba, truth, clf.classes_)


def row_of(name, log_proba, truth, classes):
    n_right = int((classes[log_proba.argmax(axis=1)] == truth).sum())
    low, high = clopper_pearson(n_right, len(truth))
    ece = expected_calibration_error(truth, np.exp(log_proba), classes=classes)
    return {
        "objective": name,
        "accuracy": n_right / len(truth),
        "low": low,
        "high": high,
        "calibration_error": ece,
    }


def study(n_images, n_trials):
    """Rows of the table."""
    n_fit = n_images // 5
    with tempfile.TemporaryDirectory() as memory:
        clf, images, truth = make_task(
            "fashion-dit", n_images, n_trials=n_trials, pruning=None, memory=memory,
            verbose=1,
        )  # fmt: skip
        tables = error_tables(clf, images)
        clf.set_params(loss="l2")
        fitted = fit_timestep_weights(clf, images[:n_fit], truth[:n_fit])
    rows = [measure(loss, tables[loss], truth, clf) for loss in LOSSES]
    t, squared = clf.trials_.timesteps, tables["l2"]
    for name, weights in weightings(clf.backbone_).items():
        rows.append(measure(name, squared * weights[t], truth, clf))
    for name, weights in (("weights 1", np.ones(1000)), ("fitted weights", fitted)):
        rest = (squared * weights[t])[n_fit:]
        name = f"{name}, on the other {n_images - n_fit}"
        rows.append(measure(name, rest, truth[n_fit:], clf))
    clf.set_params(pruning=0.99, memory=None)
    for scale in SCALES:
        log_proba = clf.set_params(guidance_scale=scale).predict_log_proba(images)
        name = f"guidance scale {scale} (race)"
        rows.append(row_of(name, log_proba, truth, clf.classes_))
    return rows


def main():
    args = make_parser(__doc__).parse_args()
    n_images, n_trials = (100, 20) if args.quick else (1000, 100)
    print(f"{n_images} photos, 10 classes, {n_trials} trials; {describe_machine()}")
    rows = study(n_images, n_trials)
    print(f"{'objective':<34}{'accuracy %':>11}{'interval':>16}{'ECE':>8}")
    for row in rows:
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        print(
            f"{row['objective']:<34}{100 * row['accuracy']:>11.1f}{interval:>16}"
            f"{row['calibration_error']:>8.3f}"
        )
    write(__file__, args, rows, n_images=n_images, n_trials=n_trials)


if __name__ == "__main__":
    main()
