"""Timestep weights fitted to a few labels: bands against a polynomial.

    python -m benchmarks.accuracy.weights_from_few --tables FOLDER

``fit_timestep_weights`` (log weights that are a polynomial in t) on 5, 20 and 100
labelled training images, the mean of several draws, against ten bands (log weights that
are linear between ten timesteps), weights 1, and one temperature, fitted to the same
labels. Accuracy and negative log-likelihood on test images. Tasks: photos
(fashion-dit), items (fashion-scenes), and items by the error of the velocity, for which
weights 1 are far from the best. With the tables of ``benchmarks.accuracy.race`` 10
minutes on 2 cores, else 2 hours.
"""

from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from benchmarks._common import describe_machine, make_parser, make_scene_task, write
from benchmarks.accuracy._replay import errors_in_chunks
from benchmarks.accuracy.race import make_table
from benchmarks.accuracy.robustness import train_table
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.classifiers._timestep_weights import (
    fit_log_weights,
    weights_of_errors,
)

N_LABELS = (5, 20, 100)
ALPHA = 0.3


def by_basis(rows_of):
    """A fit of log weights that are combinations of some rows, of shape (b, T)."""

    def fit(clf, errors, truth):
        rows = rows_of(np.linspace(-1, 1, clf.backbone_.n_timesteps))
        scores = -errors * fitted_plan(clf).n_elements
        at_trials = rows[:, clf.trials_.timesteps]
        return np.exp(fit_log_weights(scores, truth, None, at_trials, ALPHA) @ rows)

    return fit


def polynomial(clf, errors, truth):
    return weights_of_errors(clf, errors, truth, ALPHA)


CENTRES = np.linspace(-0.9, 0.9, 10)
FORMS = {
    "weights 1": lambda clf, errors, truth: np.ones(clf.backbone_.n_timesteps),
    "one temperature": by_basis(lambda u: np.ones((1, len(u)))),
    "ten bands": by_basis(
        lambda u: np.stack([np.interp(u, CENTRES, row) for row in np.eye(10)])
    ),
    "polynomial": polynomial,
}


def train_items(clf, n, folder):
    """Errors of training scenes of one item, and the index of the true class."""
    images, labels, _ = make_scene_task("items", n, "train", 0)
    errors = errors_in_chunks(clf, images, folder, "items-train")
    return errors, np.searchsorted(clf.classes_, labels)


def measure(clf, errors, truth, weights):
    """Accuracy and negative log-likelihood of the labels."""
    scale = fitted_plan(clf).n_elements / errors.shape[2]
    log_proba = log_softmax(-errors @ weights[clf.trials_.timesteps] * scale, axis=1)
    accuracy = (log_proba.argmax(axis=1) == truth).mean()
    return accuracy, -log_proba[np.arange(len(truth)), truth].mean()


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-photos", type=int, default=2500)
    parser.add_argument("--n-scenes", type=int, default=1000)
    parser.add_argument("--n-draws", type=int, default=10)
    parser.add_argument("--tables", type=Path, default=None, help="folder to keep them")
    args = parser.parse_args()
    n_train = 100
    if args.quick:
        args.n_photos = args.n_scenes = n_train = 10
        args.n_draws = 1
    print(describe_machine())
    clf, *photos = make_table("fashion-dit", args.n_photos, None, 0, args.tables)
    tasks = [("photos", clf, photos, train_table(clf, n_train, None, args.tables))]
    clf, *items = make_table(
        "fashion-scenes, items", args.n_scenes, None, 0, args.tables
    )
    train = train_items(clf, n_train, args.tables)
    tasks.append(("items", clf, items, train))
    alphas = clf.backbone_.noise_schedule.alphas_cumprod.cpu().double().numpy()
    alphas = alphas[clf.trials_.timesteps]
    velocity = [(errors / alphas, truth) for errors, truth in (items, train)]
    tasks.append(("items, error of the velocity", clf, *velocity))
    rows = []
    for task, clf, test, (errors, truth) in tasks:
        # Fit the weights of these errors, none on top of the model's own.
        clf.set_params(target="epsilon")
        for n in N_LABELS[: 1 if args.quick else None]:
            for form, fit in FORMS.items():
                values = []
                for draw in range(args.n_draws):
                    rng = np.random.default_rng(draw)
                    few = rng.choice(len(truth), min(n, len(truth)), replace=False)
                    values.append(
                        measure(clf, *test, fit(clf, errors[few], truth[few]))
                    )
                accuracy, nats = np.mean(values, axis=0)
                row = {"task": task, "form": form, "n_labels": n, "accuracy": accuracy}
                row |= {"sd": np.std([one[0] for one in values]), "nats": nats}
                rows.append(row | {"n_images": len(test[1])})
                print(
                    f"{task:<30}{form:<18}{n:>5}{accuracy:>8.1%}{row['sd']:>7.1%}"
                    f"{nats:>8.3f}",
                    flush=True,
                )
    write(__file__, args, rows, n_draws=args.n_draws)


if __name__ == "__main__":
    main()
