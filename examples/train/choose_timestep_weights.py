"""Compare weights of the timesteps for fashion-scenes, on training scenes.

    python examples/train/choose_timestep_weights.py FOLDER

Errors of the noise of 200 single items, 100 relations, 100 pairs of scenes and captions
and 50 colours, of training photos; FOLDER keeps them. Their weights: powers of abar_t,
on all timesteps and on windows of them, and log weights that are linear between eight
knots, fitted by penalized likelihood and evaluated by cross-validation. Prints accuracy
and negative log-likelihood (at the temperature that is best for the task), by task. No
test photo is used. About 30 minutes on 2 cores; needs the IDX files of Fashion-MNIST.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from benchmarks.accuracy._tables import scene_table
from diffusion_sklearn import ZeroShotDiffusionClassifier
from diffusion_sklearn.classifiers._plans import fitted_plan

POWERS = (0, 0.125, 0.25, 0.375, 0.5, 0.75, 1)
WINDOWS = ((0, 1000), (150, 1000), (0, 850), (150, 850), (300, 1000))
N_KNOTS, N_FOLDS, PENALTIES = 8, 5, (0.01, 0.1, 1.0)


def training_tables(folder):
    """Errors (n, k, n_trials) of each task, the true class first."""
    sizes = {"items": 200, "colours": 50, "relations": 100}
    tables = {name: scene_table(name, n, "train", folder) for name, n in sizes.items()}
    pairs = scene_table("winoground", 100, "train", folder)  # image, caption or none
    tables["text"] = np.concatenate([pairs[:, 0, :2], pairs[:, 1, 1::-1]])
    gaps = pairs[:, :, :2] - pairs[:, :, 2:]
    tables["image"] = np.concatenate([gaps[:, :, 0], gaps[:, ::-1, 1]])
    return tables


def nats(errors, weights, n_elements):
    """Mean negative log-likelihood of the true class at the best temperature."""
    scores = -(errors @ weights) / errors.shape[2] * n_elements

    def at(log_scale):
        return -log_softmax(np.exp(log_scale) * scores, axis=1)[:, 0].mean()

    return minimize_scalar(at, bounds=(-6, 6), method="bounded").fun


def fit(tables, penalty, knots, start, n_elements):
    """Weights that the tasks like best together."""

    def objective(c):
        weights, total, gradient = np.exp(c @ knots) * start, 0, 0
        for errors in tables.values():
            parts = -errors * weights / errors.shape[2] * n_elements
            log_proba = log_softmax(parts.sum(axis=2), axis=1)
            gap = np.exp(log_proba)
            gap[:, 0] -= 1
            total -= log_proba[:, 0].mean()
            gradient += np.einsum("nk,nkm,bm->b", gap, parts, knots) / len(errors)
        off = c - c.mean()
        return total + penalty * off @ off, gradient + 2 * penalty * off

    optimum = minimize(objective, np.full(N_KNOTS, -0.5), jac=True).x
    return np.exp(optimum @ knots) * start


def main():
    tables = training_tables(Path(sys.argv[1]))
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes").fit(classes=["bag"])
    n_elements, t = fitted_plan(clf).n_elements, clf.trials_.timesteps
    alphas = clf.backbone_.noise_schedule.alphas_cumprod.cpu().double().numpy()[t]

    def report(name, weights_of):
        """`weights_of(task)` returns pairs of images and weights."""
        line = []
        for task, errors in tables.items():
            right, loss = 0, 0
            for rows, weights in weights_of(task):
                part = errors[rows]
                right += ((part @ weights).argmin(axis=1) == 0).sum()
                loss += nats(part, weights, n_elements) * len(part)
            line.append(f"{right / len(errors):>10.1%} {loss / len(errors):.3f}")
        print(f"{name:<26}", *line, flush=True)

    print(f"{'weights':<26}", *(f"{f'{x} ({len(e)})':>16}" for x, e in tables.items()))
    for power in POWERS:
        for low, high in WINDOWS:
            weights = ((t >= low) & (t < high)) * alphas**-power
            name = f"abar^-{power}, [{low}, {high})"
            report(name, lambda task, w=weights: [(slice(None), w)])
    places = np.linspace(0, 1000, N_KNOTS)
    knots = np.stack([np.interp(t, places, row) for row in np.eye(N_KNOTS)])
    # Rows that are apart by half of the table belong to one example.
    folds = {
        task: np.arange(len(e)) % (len(e) // 2 if task in ("text", "image") else len(e))
        for task, e in tables.items()
    }
    for penalty in PENALTIES:
        fitted = []
        for fold in range(N_FOLDS):
            part = {k: e[folds[k] % N_FOLDS != fold] for k, e in tables.items()}
            fitted.append(fit(part, penalty, knots, alphas**-0.25, n_elements))
        report(
            f"fitted, penalty {penalty}",
            lambda task, fitted=fitted: [
                (folds[task] % N_FOLDS == fold, weights)
                for fold, weights in enumerate(fitted)
            ],
        )


if __name__ == "__main__":
    main()
