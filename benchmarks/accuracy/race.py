"""The race against the full budget: how many evaluations, and how often it differs.

    python -m benchmarks.accuracy.race --tables FOLDER

All errors of all classes are computed once (``--tables`` keeps them); the default race,
which predicts with the covariance that ships with the model, and the race by a test of
means are replayed on them, at several confidences, and so are the paper's stages,
successive halving and the paired t-test of Clark and Jaini. Images: test photos
(fashion-dit) and scenes made of test photos (fashion-scenes, captions and items), which
no covariance was learned from, as they are and distorted. Then covariances learned from
5 to 150 training photos, and for another noise. About 2 hours on 2 cores, ``--quick`` 3
minutes. Needs the IDX files of Fashion-MNIST.
"""

from pathlib import Path

import numpy as np
from scipy.stats import t as student_t

from benchmarks._common import describe_machine, make_parser, make_task, write
from benchmarks.accuracy._replay import errors_in_chunks, replay_rounds
from benchmarks.accuracy._shifts import SHIFTS, shift
from diffusion_sklearn import fit_trial_covariance
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.datasets import load_fashion_mnist
from diffusion_sklearn.metrics import clopper_pearson

TASKS = ["fashion-dit", "fashion-scenes", "fashion-scenes, items"]
CONFIDENCES = (0.8, 0.9, 0.95, 0.99)
LEARN_FROM = (5, 10, 20, 50, 150)
CLARK_JAINI = "Clark and Jaini (2023)"
OTHERS = {
    "the paper's stages for Pets": ((25, 5), (100, 1)),
    "short stages": ((5, 3), (30, 1)),
    "successive halving": ((4, 5), (8, 3), (16, 2), (32, 1)),
    CLARK_JAINI: None,
}


def make_table(task, n, name, seed, folder):
    """Classifier, errors of all classes and trials, and the index of the true class."""
    clf, images, truth = make_task(task, n, pruning=None, random_state=seed)
    images = shift(images, name) if name else images
    stored = f"{task}-{name or 'as they are'}-{seed}"
    errors = errors_in_chunks(clf, images, folder, stored)
    return clf, errors, np.searchsorted(clf.classes_, truth)


def rounds_and_order(clf, method):
    """Rounds of trials with their rules, and the order of the trials."""
    plan = fitted_plan(clf)
    if method == CLARK_JAINI:
        rounds = [(end, [t_test]) for end in range(20, len(plan.trials))]
        return [*rounds, (len(plan.trials), [])], plan.trials.order()
    return plan.rounds, plan.order


def t_test(errors, active, timesteps):
    """Drop what a plain paired t-test tells from the leader, at p < 2e-3."""
    mean = np.where(active, errors.mean(axis=2), np.inf)
    best = mean.argmin(axis=1)[:, None, None]
    gap = errors - np.take_along_axis(errors, best, axis=1)
    n_done = errors.shape[2]
    spread = np.maximum(gap.std(axis=2, ddof=1), np.finfo(float).tiny)
    p = 2 * student_t.sf(gap.mean(axis=2) / spread * np.sqrt(n_done), n_done - 1)
    return active & ~(p < 2e-3)


def replay(clf, errors, method, pruning, trial_covariance="auto"):
    """Choice and evaluations of each image, from the table of all errors."""
    clf.set_params(pruning=pruning, trial_covariance=trial_covariance)
    plan = fitted_plan(clf)
    rounds, order = rounds_and_order(clf, method)
    coefficients = None if plan.predictor is None else plan.coefficients
    timesteps = plan.trials.timesteps
    return replay_rounds(errors, rounds, order, timesteps, plan.weights, coefficients)


def score(clf, errors, truth, method, **how):
    """One row of the table."""
    choice, cost = replay(clf, errors, method, **how)
    full = (errors @ fitted_plan(clf).weights).argmin(axis=1)
    n_differ, n = int((choice != full).sum()), len(truth)
    gain = (choice == truth).astype(float) - (full == truth)
    return {
        "n_images": n,
        "evaluations": float(cost.mean()),
        "evaluations_95": float(np.percentile(cost, 95)),
        "n_differ": n_differ,
        "differs": list(clopper_pearson(n_differ, n)),
        "accuracy": float((choice == truth).mean()),
        "full_accuracy": float((full == truth).mean()),
        "gain_error": float(gain.std() / np.sqrt(n)),
    }


def print_row(task, images, how, one):
    low, high = one["differs"]
    print(
        f"{task:<23}{images:<13}{how:<28}{one['n_images']:>6}{one['evaluations']:>8.1f}"
        f"{one['evaluations_95']:>7.0f}{one['n_differ']:>6} ({low:.1%} - {high:.1%})"
        f"{one['accuracy']:>9.2%}{one['full_accuracy']:>9.2%}",
        flush=True,
    )


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-images", type=int, nargs=3, default=[2500, 1000, 1000])
    parser.add_argument("--n-shifted", type=int, nargs=3, default=[250, 250, 250])
    parser.add_argument("--only", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--tables", type=Path, default=None, help="folder to keep them")
    args = parser.parse_args()
    if args.quick:
        args.n_images, args.n_shifted = [10, 10, 10], [5, 5, 5]
    print(describe_machine())
    print(
        f"{'task':<23}{'images':<13}{'race':<28}{'n':>6}{'evals':>8}{'95 %':>7}"
        f"{'differs from the full budget':>22}{'right':>9}{'full':>9}"
    )
    rows, tasks = [], args.only or TASKS

    def report(task, images, how, clf, errors, truth, **settings):
        one = score(clf, errors, truth, how, **settings)
        settings.pop("trial_covariance", None)
        rows.append({"task": task, "images": images, "race": how, **settings, **one})
        print_row(task, images, how, one)

    for task, n, n_shifted in zip(TASKS, args.n_images, args.n_shifted, strict=True):
        if task not in tasks:
            continue
        for name in (None, *SHIFTS):
            count = min(n, n_shifted) if name else n
            table = make_table(task, count, name, 0, args.tables)
            shown = name or "as they are"
            for c in CONFIDENCES:
                report(task, shown, f"by prediction, {c}", *table, pruning=c)
            how = {"pruning": 0.99, "trial_covariance": None}
            report(task, shown, "by a test, 0.99", *table, **how)
            for method, pruning in OTHERS.items() if name is None else ():
                how = {"pruning": pruning, "trial_covariance": None}
                report(task, shown, method, *table, **how)
        again = make_table(task, min(n, 2 * n_shifted), None, 1, args.tables)
        report(task, "other noise", "by prediction, 0.99", *again, pruning=0.99)

    if "fashion-dit" in tasks:
        photos = load_fashion_mnist(split="train").images
        clf, errors, truth = make_table(
            "fashion-dit", min(args.n_images[0], 1000), None, 0, args.tables
        )
        for count in LEARN_FROM[: 1 if args.quick else None]:
            how = {
                "pruning": 0.99,
                "trial_covariance": fit_trial_covariance(clf, photos[-count:]),
            }
            name = f"learned from {count} photos"
            report("fashion-dit", "as they are", name, clf, errors, truth, **how)
    write(__file__, args, rows)


if __name__ == "__main__":
    main()
