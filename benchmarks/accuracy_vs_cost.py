r"""Accuracy against network evaluations an image, for every way to spend them.

    python benchmarks/accuracy_vs_cost.py --json cost.json --figure cost.png

On both bundled models and ten items of clothing. All errors of all classes are computed
once and every method is replayed on that table, so that all see the same numbers:
images to choose each family's setting on, other images to report it on, and for both
a second table with independent noise, which says how far two full budgets agree with
each other. A family's setting is the cheapest, of grids of equal size, that keeps the
accuracy of the full budget within 0.5 points and agrees with it at least as often as
the second full budget does. Then how often a race differs from the full budget, against
the 1 - confidence that it allows. ``--tables FOLDER`` keeps the tables. About 20
minutes on 2 cores, ``--quick`` 4; ``--n-images 1000 100``, for which the IDX files of
Fashion-MNIST are needed, 40.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _common import describe_machine, make_parser, make_task, write

from diffusion_sklearn._errors import mean_errors
from diffusion_sklearn._images import to_pixels
from diffusion_sklearn._pruning import pruning_rounds, stage_ends
from diffusion_sklearn._scoring import encode
from diffusion_sklearn._trials import _spread_order
from diffusion_sklearn.metrics import clopper_pearson

TASKS = ["fashion-dit", "fashion-scenes", "fashion-scenes, items"]
N_TRIALS = 100
PETS = ((25, 5), (100, 1))  # the paper's, cut at the trials of the table
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
STAGES = [
    ((first, n_first), (second, n_second))
    for first, n_first in ((3, 3), (5, 3), (5, 5), (10, 3))
    for second, n_second in ((15, 2), (30, 2))
]
ON_TOP = [((10, 5), (50, 2), c) for c in CONFIDENCES]
HALVING = [
    tuple((first * 2**step, n) for step, n in enumerate((5, 3, 2)))
    for first in (2, 3, 4, 6, 8, 10, 12, 20)
]
FAMILIES = {
    "fewer trials": [3, 5, 8, 10, 15, 25, 50, 75],
    "successive halving": HALVING,
    "staged, tuned": STAGES,
    "race": list(CONFIDENCES),
    "race on top of stages": ON_TOP,
}
assert len({len(grid) for grid in FAMILIES.values()}) == 1


def table(model, first, n, seed, antithetic=False):
    """Errors (n, 10 + 1, n_trials), the last class being the null class, and truth."""
    clf, images, truth = make_task(
        model, n, first=first, n_trials=N_TRIALS, pruning=None, random_state=seed
    )
    backbone = clf.backbone_
    null = [""] if backbone.kind == "text" else [backbone.n_labels]
    conditions = torch.cat([clf._conditions, backbone.condition(null)])
    plan, size = clf._scoring(None).make_plan(conditions, len(conditions))
    if antithetic:  # every other trial has its forerunner's timestep and noise, negated
        noise, timesteps = plan.noise.clone(), plan.timesteps.clone()
        noise[1::2], timesteps[1::2] = -noise[::2], timesteps[::2]
        plan = replace(plan, noise=noise, timesteps=timesteps)
    triples = np.indices((n, N_TRIALS, 11)).reshape(3, -1).T
    latents = encode(to_pixels(images, size), plan)
    errors = mean_errors(latents, np.ascontiguousarray(triples), plan)
    truth = np.searchsorted(clf.classes_, truth)
    return errors.reshape(n, N_TRIALS, 11).swapaxes(1, 2), truth, clf.trials_


def replay(setting, errors, trials, order=None):
    """Choice and evaluations of each image, from the table of all errors."""
    errors, n = errors[:, :10], len(errors)
    if isinstance(setting, int):
        grid = ((2 * np.arange(setting) + 1) * N_TRIALS) // (2 * setting)
        chosen = grid if order is None else order[:setting]
        mean = errors[:, :, chosen].mean(axis=2)
        return mean.argmin(axis=1), np.full(n, 10 * setting)
    # In the order that the estimator would have them for these stages.
    order = _spread_order(N_TRIALS, stage_ends(setting))
    alive, done = np.ones((n, 10), bool), 0
    choice, cost = np.zeros(n, int), np.zeros(n, int)
    for end, rules in pruning_rounds(setting, N_TRIALS):
        running = alive.any(axis=1)
        cost += alive.sum(axis=1) * (end - done)
        done = end
        seen = np.where(alive[:, :, None], errors[:, :, order[:end]], np.nan)
        for rule in rules:
            alive = rule(seen, alive, trials.timesteps[order[:end]])
        left = np.where(alive, seen.mean(axis=2), np.inf).argmin(axis=1)
        choice[running] = left[running]
        if rules:
            alive = alive & (alive.sum(axis=1, keepdims=True) > 1)
    return choice, cost


def most_telling(errors, truth):
    """Trials by how surely their timestep tells the true class from its best rival."""
    errors = errors[:, :10]
    rows = np.arange(len(truth))
    rival = errors.mean(axis=2)
    rival[rows, truth] = np.inf
    gap = errors[rows, rival.argmin(axis=1)] - errors[rows, truth]  # (n, m)
    smooth = np.ones(5) / 5  # over neighbouring timesteps
    mean, square = (np.convolve(g.mean(axis=0), smooth, "same") for g in (gap, gap**2))
    return np.argsort(-mean / np.sqrt(square), kind="stable")


def score(choice, cost, full, truth):
    right = int((choice == truth).sum())
    return {
        "evaluations": float(cost.mean()),
        "evaluations_95": float(np.percentile(cost, 95)),
        "agreement": float((choice == full).mean()),
        "n_differ": int((choice != full).sum()),
        "accuracy": right / len(truth),
        "interval": list(clopper_pearson(right, len(truth))),
    }


def agreement(errors, others):
    """How often two full budgets choose the same class."""
    first, second = (e[:, :10].mean(axis=2).argmin(axis=1) for e in (errors, others))
    return float((first == second).mean())


def choose(grid, tables, floor):
    """The cheapest setting that loses neither accuracy nor agreement."""
    errors, truth, trials = tables
    full = errors[:, :10].mean(axis=2).argmin(axis=1)
    least = (full == truth).mean() - 0.005
    found = [(s, score(*replay(s, errors, trials), full, truth)) for s in grid]
    good = [
        (one["evaluations"], place)
        for place, (_, one) in enumerate(found)
        if one["accuracy"] >= least and one["agreement"] >= floor
    ]
    return grid[min(good)[1]] if good else None


def variance_ratios(errors, paired, truth):
    """Variance of the mean difference from the true class, that of plain trials = 1.

    Below 1 a trick pays: a control variate, if the null class's mean over all trials
    came for nothing, and pairs of trials of opposite noise, for as many evaluations.
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


def weighted_by_variance(errors, truth):
    """Accuracy where each timestep's error is divided by its variance."""
    gap = errors[:, :10] - errors[:, :10].mean(axis=1, keepdims=True)
    weights = 1 / gap.var(axis=(0, 1))
    return float(((errors[:, :10] * weights).mean(axis=2).argmin(1) == truth).mean())


def study(model, n, folder):
    """Rows of the table, and curves for the figure."""

    def kept(name, *args):
        path = folder / f"{model}-{name}-{n}.npz" if folder else None
        if path and path.exists():
            with np.load(path) as found:
                errors, truth = found["errors"], found["truth"]
            trials = make_task(model, 1, n_trials=N_TRIALS, random_state=args[2])[0]
            return errors, truth, trials.trials_
        made = table(model, *args)
        if path:
            np.savez(path, errors=made[0], truth=made[1])
        return made

    tune, test = kept("tune", n, n, 0), kept("test", 0, n, 0)
    tune_again = kept("tune-again", n, n, 1)
    again = kept("again", 0, n, 1)
    paired = kept("antithetic", 0, min(n, 200), 0, True)
    errors, truth, trials = test
    full = errors[:, :10].mean(axis=2).argmin(axis=1)
    other = again[0][:, :10].mean(axis=2).argmin(axis=1)
    floor = agreement(tune[0], tune_again[0])

    rows, curves = [], {}
    whole = np.full(len(truth), 10 * N_TRIALS)
    fixed = {
        "full budget": (None, full, whole),
        "full budget, other noise": (None, other, whole),
        "the paper's stages for Pets": (PETS, *replay(PETS, errors, trials)),
        "race, default (0.99)": (0.99, *replay(0.99, errors, trials)),
    }
    for name, (setting, choice, cost) in fixed.items():
        rows.append({"family": name, "setting": setting})
        rows[-1].update(score(choice, cost, full, truth))
    telling = most_telling(*tune[:2])
    curves["the most telling trials"] = [
        {"setting": m, **score(*replay(m, errors, trials, telling), full, truth)}
        for m in FAMILIES["fewer trials"]
    ]
    for name, grid in FAMILIES.items():
        curves[name] = sorted(
            (
                {"setting": s, **score(*replay(s, errors, trials), full, truth)}
                for s in grid
            ),
            key=lambda one: one["evaluations"],
        )
        setting = choose(grid, tune, floor)
        if setting is not None:
            rows.append({"family": name, "setting": setting})
            rows[-1].update(score(*replay(setting, errors, trials), full, truth))
    small = len(paired[0])
    control, antithetic = variance_ratios(errors[:small], paired[0], truth[:small])
    tricks = {
        "variance left by the null class as control variate": control,
        "variance of antithetic pairs, plain = 1": antithetic,
        "accuracy, full budget": float((full == truth).mean()),
        "accuracy, timesteps weighted by inverse variance": weighted_by_variance(
            errors, truth
        ),
    }
    return rows, curves, tricks


def report(model, n, rows, curves, tricks):
    print(f"\n{model}, {n} images, settings chosen on {n} others")
    print(
        f"{'':<28}{'setting':<22}{'evaluations':>12}{'95 %':>7}{'agreement':>11}"
        f"{'accuracy':>10}{'interval':>17}"
    )
    for one in rows:
        setting = "" if one["setting"] is None else str(one["setting"])
        low, high = one["interval"]
        print(
            f"{one['family']:<28}{setting:<22}{one['evaluations']:>12.0f}"
            f"{one['evaluations_95']:>7.0f}{one['agreement']:>11.1%}"
            f"{one['accuracy']:>10.1%}{low:>8.1%} -{high:>7.1%}"
        )
    for name, value in tricks.items():
        print(f"{name:<52}{value:>8.3f}")
    print(
        f"{'race: 1 - confidence':<28}{'differs':>10}{'interval':>19}{'evaluations':>13}"
    )
    for one in curves["race"]:
        low, high = clopper_pearson(one["n_differ"], n)
        print(
            f"{1 - one['setting']:<28.3f}{one['n_differ'] / n:>10.2%}{low:>9.2%} -"
            f"{high:>8.2%}{one['evaluations']:>13.0f}"
        )


def draw(studies, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, len(studies), squeeze=False)[0]
    for ax, (model, (rows, curves, _)) in zip(axes, studies.items(), strict=True):
        for (name, curve), marker in zip(curves.items(), "<osD^v", strict=True):
            ax.plot(
                [one["evaluations"] for one in curve],
                [one["accuracy"] for one in curve],
                marker=marker,
                label=name,
            )
        for one, marker in zip((rows[0], rows[2], rows[3]), "*PX", strict=True):
            ax.plot(
                one["evaluations"],
                one["accuracy"],
                marker,
                markersize=11,
                color="black",
                label=one["family"],
            )
        ax.set(xscale="log", xlabel="network evaluations an image", title=model)
    axes[0].set_ylabel("accuracy")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    parser = make_parser(__doc__)
    parser.add_argument(
        "--n-images", type=int, nargs="+", default=[200], help="one or one a model"
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--tables", type=Path, default=None, help="folder to keep them")
    parser.add_argument("--figure", type=Path, default=None)
    args = parser.parse_args()
    sizes = [40] if args.quick else args.n_images
    if len(sizes) == 1:
        sizes = sizes * len(args.tasks)
    if len(sizes) != len(args.tasks):
        parser.error(f"--n-images={sizes}: pass one, or one for each of {args.tasks}")
    if max(sizes) > 5000:
        parser.error(f"--n-images={sizes} twice is more than the 10,000 test photos")
    if args.tables:
        args.tables.mkdir(parents=True, exist_ok=True)
    print(describe_machine())
    began, studies = time.perf_counter(), {}
    for model, n in zip(args.tasks, sizes, strict=True):
        studies[model] = study(model, n, args.tables)
        report(model, n, *studies[model])
    print(f"\n{time.perf_counter() - began:.0f} s")
    if args.figure:
        draw(studies, args.figure)
    write(
        args.json,
        {
            model: {"table": rows, "curves": curves, "tricks": tricks}
            for model, (rows, curves, tricks) in studies.items()
        },
    )


if __name__ == "__main__":
    main()
