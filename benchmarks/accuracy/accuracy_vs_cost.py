r"""Accuracy against network evaluations per image, for several budgets.

    python -m benchmarks.accuracy.accuracy_vs_cost --figure cost.png

Three tasks of ten classes: the item on a photo (fashion-dit), and the caption or the
item of a scene (fashion-scenes). All errors of all classes are computed once, with the
default target and weights, and every method is replayed on that table: on some images
to choose its setting, on others to report it, and for both on a second table with
independent noise. The setting of a method is the cheapest, of grids of equal size, that
keeps the accuracy of the full budget, and its agreement with the full budget of the
second table, within 0.5 points. The default race predicts with the covariance that
ships with the model; it was learned from training photos. Last, how often a race
differs from the full budget of the same noise, against 1 - confidence. ``--tables
FOLDER`` stores the tables. About 45 minutes on 2 cores, ``--quick`` 8. More than 500
photos need the IDX files of Fashion-MNIST.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import describe_machine, make_parser, make_task, write
from benchmarks.accuracy._replay import replay_rounds
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.engine._errors import iter_errors
from diffusion_sklearn.engine._trials import Trials, thin
from diffusion_sklearn.metrics import clopper_pearson

TASKS = ["fashion-dit", "fashion-scenes", "fashion-scenes, items"]
N_TRIALS = 100
PETS = ((25, 5), (100, 1))  # the paper's, cut at the trials of the table
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
STAGES = [  # from 66 to 550 evaluations
    ((3, 3), (15, 1)),
    ((5, 3), (15, 1)),
    ((5, 3), (30, 1)),
    ((5, 5), (30, 1)),
    ((10, 3), (50, 1)),
    ((5, 2), (100, 1)),
    ((10, 3), (100, 1)),
    ((10, 5), (100, 1)),
]
ON_TOP = [((10, 5), (50, 2), c) for c in CONFIDENCES]
HALVING = [  # from 29 to 348 evaluations
    tuple((first * 2**step, n) for step, n in enumerate((5, 3, 2, 1)))
    for first in (1, 2, 3, 4, 6, 8, 10, 12)
]
DEFAULT = "race by prediction"
FAMILIES = {
    DEFAULT: list(CONFIDENCES),
    "fewer trials": [3, 5, 8, 10, 15, 25, 50, 75],
    "successive halving": HALVING,
    "staged": STAGES,
    "race by a test": list(CONFIDENCES),
    "race by a test on top of stages": ON_TOP,
}
assert len({len(grid) for grid in FAMILIES.values()}) == 1


class PairedTrials(Trials):
    """Trials of which every other has the noise of the one before, negated."""

    def noise(self, shape):
        """Noise of every trial, (n_trials, *shape)."""
        noise = super().noise(shape)
        noise[1::2] = -noise[::2]
        return noise


def table(model, first, n, seed, antithetic=False):
    """Weighted errors (n, 10 + 1, n_trials), the null class last, truth, classifier."""
    how = {"n_trials": N_TRIALS, "pruning": None}
    clf, images, truth = make_task(model, n, first=first, random_state=seed, **how)
    plan, trials = fitted_plan(clf), clf.trials_
    conditions = torch.cat([plan.conditions, plan.backbone.encode_null()])
    if antithetic:  # both trials of a pair have the same timestep
        trials = PairedTrials(trials.timesteps[::2].repeat(2), trials.seed)
    plan = replace(
        plan, conditions=conditions, n_prompts=np.ones(11, int), trials=trials
    )
    errors = np.concatenate([errors for _, errors, _ in iter_errors(plan, images)])
    return errors * plan.weights, np.searchsorted(clf.classes_, truth), clf


def replay(family, setting, errors, clf, preferred=None):
    """Choice and evaluations of each image, from the table of all errors.

    A number of trials is evenly spaced, or takes the first of the `preferred` trials.
    """
    errors, n = errors[:, :10], len(errors)
    if isinstance(setting, int):
        grid = thin(np.arange(N_TRIALS), setting)
        subset = grid if preferred is None else preferred[:setting]
        mean = errors[:, :, subset].mean(axis=2)
        return mean.argmin(axis=1), np.full(n, 10 * setting)
    covariance = "auto" if family == DEFAULT else None
    plan = fitted_plan(clf.set_params(pruning=setting, trial_covariance=covariance))
    timesteps, weights = plan.trials.timesteps, np.ones(N_TRIALS)  # errors have them
    return replay_rounds(
        errors, plan.rounds, plan.order, timesteps, weights, plan.coefficients
    )


def most_telling(errors, truth):
    """Trials in the order of how well they separate the true class from the second."""
    errors = errors[:, :10]
    rows = np.arange(len(truth))
    rival = errors.mean(axis=2)
    rival[rows, truth] = np.inf
    gap = errors[rows, rival.argmin(axis=1)] - errors[rows, truth]  # (n, m)
    mean, square = (  # over neighbouring timesteps
        np.convolve(np.pad(g.mean(axis=0), 2, "edge"), np.ones(5) / 5, "valid")
        for g in (gap, gap**2)
    )
    return np.argsort(-mean / np.sqrt(square), kind="stable")


def chosen(errors):
    """The class of lowest mean error over all trials."""
    return errors[:, :10].mean(axis=2).argmin(axis=1)


def score(choice, cost, tables):
    """Scores of choices, and their agreement with the full budget of each table."""
    (errors, truth, _), others = tables
    full, right = chosen(errors), choice == truth
    gain = right.astype(float) - (full == truth)
    return {
        "evaluations": float(cost.mean()),
        "evaluations_95": float(np.percentile(cost, 95)),
        "agreement": float((choice == chosen(others[0])).mean()),
        "n_differ": int((choice != full).sum()),
        "accuracy": float(right.mean()),
        "interval": list(clopper_pearson(int(right.sum()), len(truth))),
        "gain": float(gain.mean()),
        "gain_error": float(gain.std() / np.sqrt(len(truth))),
    }


def score_grid(family, grid, tables, preferred=None):
    """Settings with their scores, cheapest first."""
    errors, _, clf = tables[0]
    scores = [
        {"setting": s, **score(*replay(family, s, errors, clf, preferred), tables)}
        for s in grid
    ]
    return sorted(scores, key=lambda one: one["evaluations"])


def choose(family, grid, tables):
    """The cheapest setting that keeps accuracy and agreement."""
    full = score(chosen(tables[0][0]), np.array([10 * N_TRIALS]), tables)
    for one in score_grid(family, grid, tables):
        accurate = one["accuracy"] >= full["accuracy"] - 0.005
        if accurate and one["agreement"] >= full["agreement"] - 0.005:
            return one["setting"]
    return None


def variance_reductions(tables, tune, paired):
    """Curves of variance reductions with fewer trials of every class."""
    errors = tables[0][0]
    gaps = tune[0][:, :10] - tune[0][:, :10].mean(axis=1, keepdims=True)
    weights = 1 / gaps.var(axis=(0, 1))
    null, pooled = errors[:, 10], errors[:, 10].mean(axis=1)  # (n, m), (n,)
    curves = {"opposite noise": [], "inverse variance": [], "control variate": []}

    def add(name, m, mean, extra=0):
        choice, cost = mean.argmin(axis=1), np.full(len(mean), 10 * m + extra)
        curves[name].append({"setting": m, **score(choice, cost, tables)})

    for m in FAMILIES["fewer trials"]:
        grid = thin(np.arange(N_TRIALS), m)
        some = errors[:, :10, grid]
        add("inverse variance", m, (some * weights[grid]).mean(axis=2))
        # The slope of an image's class on the null class, from the trials that ran;
        # the mean of the null class takes all trials.
        centred = null[:, grid] - null[:, grid].mean(axis=1, keepdims=True)
        slope = (some * centred[:, None]).mean(axis=2)
        slope = slope / (centred**2).mean(axis=1)[:, None]
        off = (null[:, grid].mean(axis=1) - pooled)[:, None]
        add("control variate", m, some.mean(axis=2) - slope * off, N_TRIALS)
        half = thin(np.arange(N_TRIALS // 2), m // 2)
        pairs = np.concatenate([2 * half, 2 * half + 1])
        add("opposite noise", len(pairs), paired[:, :10, pairs].mean(axis=2))
    return curves


def variance_ratios(errors, paired, truth):
    """Variance of the mean difference from the true class, relative to plain trials.

    Of a control variate, without the evaluations of the null class, and of pairs of
    trials with opposite noise, at the same number of evaluations.
    """
    rows = np.arange(len(truth))
    gap = errors[:, :10] - errors[rows, truth][:, None]  # (n, 10, m)
    centred = gap - gap.mean(axis=2, keepdims=True)
    null = errors[:, 10:] - errors[:, 10:].mean(axis=2, keepdims=True)
    slope = (centred * null).sum(axis=2) / (null**2).sum(axis=2)
    residual = centred - slope[..., None] * null
    control = (residual**2).sum() / (centred**2).sum()

    pair = paired[:, :10] - paired[rows, truth][:, None]
    pair = (pair[..., ::2] + pair[..., 1::2]) / 2  # (n, 10, m / 2)
    plain, antithetic = ((np.diff(g, axis=2) ** 2).mean() for g in (gap, pair))
    return float(control), float(2 * antithetic / plain)


def study(task, n, n_tune, folder):
    """Rows of the table, curves of the figure, and relative variances."""

    def load_or_make(name, first, count, seed, antithetic=False):
        path = folder / f"{task}-{name}-{count}.npz" if folder else None
        if path and path.exists():
            with np.load(path) as arrays:
                errors, truth = arrays["errors"], arrays["truth"]
            clf = make_task(task, 1, n_trials=N_TRIALS, random_state=seed)[0]
            return errors, truth, clf
        made = table(task, first, count, seed, antithetic)
        if path:
            np.savez(path, errors=made[0], truth=made[1])
        return made

    tune = (
        load_or_make("tune", n, n_tune, 0),
        load_or_make("tune-again", n, n_tune, 1),
    )
    tables = load_or_make("test", 0, n, 0), load_or_make("again", 0, n, 1)
    paired = load_or_make("antithetic", 0, n, 0, True)[0]
    errors, truth, clf = tables[0]

    whole = np.full(n, 10 * N_TRIALS)
    fixed = {
        "full budget": (None, chosen(errors), whole),
        "the paper's stages for Pets": (PETS, *replay("staged", PETS, errors, clf)),
        "race by a test (0.99)": (0.99, *replay("race by a test", 0.99, errors, clf)),
        "the default": (0.99, *replay(DEFAULT, 0.99, errors, clf)),
    }
    rows = [
        {"family": name, "setting": setting, **score(*replayed, tables)}
        for name, (setting, *replayed) in fixed.items()
    ]
    curves = {}
    for name, grid in FAMILIES.items():
        curves[name] = score_grid(name, grid, tables)
        setting = choose(name, grid, tune)
        if setting is None:
            print(f"{task}: no setting of {name} is within 0.5 points")
        for one in curves[name]:
            if one["setting"] == setting:
                rows.append({"family": f"{name}, tuned", **one})
    telling = most_telling(*tune[0][:2])
    fewer = "fewer trials", FAMILIES["fewer trials"]
    curves["the most telling trials"] = score_grid(*fewer, tables, telling)
    curves.update(variance_reductions(tables, tune[0], paired))
    control, opposite = variance_ratios(errors, paired, truth)
    variances = {
        "variance left by the null class as control variate": control,
        "variance of pairs of opposite noise, plain = 1": opposite,
    }
    return rows, curves, variances


def report(task, n, n_tune, rows, curves, variances):
    print(f"\n{task}, {n} images, settings chosen on {n_tune} others")
    print(
        f"{'':<40}{'setting':<36}{'evaluations':>12}{'95 %':>7}{'other noise':>12}"
        f"{'accuracy':>10}{'interval':>17}{'than full':>19}"
    )
    for one in rows:
        setting = "" if one["setting"] is None else str(one["setting"])
        low, high = one["interval"]
        gain = f"{one['gain']:+.2%} +- {one['gain_error']:.2%}"
        print(
            f"{one['family']:<40}{setting:<36}{one['evaluations']:>12.0f}"
            f"{one['evaluations_95']:>7.0f}{one['agreement']:>12.1%}"
            f"{one['accuracy']:>10.1%}{low:>8.1%} -{high:>7.1%}{gain:>19}"
        )
    costs = {one["family"]: one["evaluations"] for one in rows}
    baselines = ("full budget", "the paper's stages for Pets", "staged, tuned")
    for race in ("race by a test (0.99)", "the default"):
        if race in costs:
            ratios = [
                f"{costs[race] / costs[name]:.1%} of {name}"
                for name in baselines
                if name in costs
            ]
            print(f"evaluations of {race}: {', '.join(ratios)}")
    for name, value in variances.items():
        print(f"{name:<52}{value:>8.3f}")
    print(
        f"{'race: 1 - confidence':<24}{'differs':>9}{'interval':>19}{'evaluations':>13}"
    )
    for one in curves[DEFAULT]:
        low, high = clopper_pearson(one["n_differ"], n)
        print(
            f"{1 - one['setting']:<24.3f}{one['n_differ'] / n:>9.2%}{low:>9.2%} -"
            f"{high:>8.2%}{one['evaluations']:>13.0f}"
        )


def draw(studies, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(studies), 5.5), layout="constrained")
    axes = figure.subplots(1, len(studies), squeeze=False)[0]
    for ax, (task, study) in zip(axes, studies.items(), strict=True):
        curves = study["curves"].items()
        for (name, curve), marker in zip(curves, "<osD^v>xhp", strict=True):
            ax.plot(
                [one["evaluations"] for one in curve],
                [one["accuracy"] for one in curve],
                marker=marker,
                label=name,
            )
        for one, marker in zip(study["table"][:4], "*PXd", strict=True):
            ax.plot(
                one["evaluations"],
                one["accuracy"],
                marker,
                markersize=11,
                color="black",
                label=one["family"],
            )
        ax.set(xscale="log", xlabel="network evaluations an image", title=task)
    axes[0].set_ylabel("accuracy")
    labels = axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def main():
    parser = make_parser(__doc__)
    parser.add_argument(
        "--n-images", type=int, nargs="+", default=[200], help="one or one a task"
    )
    parser.add_argument(
        "--n-tune", type=int, nargs="+", help="to choose settings on; as --n-images"
    )
    parser.add_argument("--only", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--tables", type=Path, default=None, help="folder to keep them")
    parser.add_argument("--figure", type=Path, default=None)
    args = parser.parse_args()
    tasks = args.only or TASKS
    sizes = [40] if args.quick else args.n_images
    others = sizes if args.quick or args.n_tune is None else args.n_tune
    sizes, others = (
        numbers * len(tasks) if len(numbers) == 1 else numbers
        for numbers in (sizes, others)
    )
    if not len(sizes) == len(others) == len(tasks):
        parser.error(
            f"--n-images={sizes} --n-tune={others}: pass one number, or one for each "
            f"of {tasks}"
        )
    if args.tables:
        args.tables.mkdir(parents=True, exist_ok=True)
    print(describe_machine())
    began, studies = time.perf_counter(), {}
    for task, n, n_tune in zip(tasks, sizes, others, strict=True):
        rows, curves, variances = study(task, n, n_tune, args.tables)
        report(task, n, n_tune, rows, curves, variances)
        studies[task] = {
            "n_images": n,
            "n_tune": n_tune,
            "table": rows,
            "curves": curves,
            "variances": variances,
        }
    print(f"\n{time.perf_counter() - began:.0f} s")
    if args.figure:
        draw(studies, args.figure)
    write(__file__, args, studies)


if __name__ == "__main__":
    main()
