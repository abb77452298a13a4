"""What a user gets: the defaults on every task, and what could be set instead.

    python -m benchmarks.accuracy.defaults --tables FOLDER

Photos (fashion-dit) and scenes (fashion-scenes), of test photos on which nothing was
chosen. Rows: the defaults, those before them (the error of what the model predicts, a
race by a test of means), the error of the noise and of the velocity; class offsets from
the images themselves, without their labels, a product with fashion-clip whose weight is
fitted to 100 labelled training images of the question (colours, relations: 50), and
fashion-clip alone. All errors are computed once (``--tables`` keeps them; those of
``benchmarks.accuracy.race`` are used) and a race is replayed on them; colours and
relations are raced. About 3 hours on 2 cores, ``--quick`` 3 minutes. Needs the IDX
files of Fashion-MNIST.
"""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import softmax

from benchmarks._common import describe_machine, make_parser, make_task, write
from benchmarks.accuracy._tables import (
    Stored,
    make_scene_questions,
    scene_race,
    scene_table,
)
from benchmarks.accuracy.race import make_table, replay
from benchmarks.accuracy.robustness import train_table
from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ZeroShotDiffusionClassifier,
    fit_class_offsets,
    fit_prefilter_weight,
)
from diffusion_sklearn.datasets import load_fashion_mnist, load_fashion_photos
from diffusion_sklearn.inspection import compare_classifiers
from diffusion_sklearn.metrics import clopper_pearson

TARGETS = {
    "defaults before": {"target": "native", "trial_covariance": None},
    "default": {},
    "error of the noise": {"target": "epsilon"},
    "error of the velocity": {"target": "velocity"},
}
N_FIT = 100
SCORES = ("text", "image", "group")


def in_space(clf, errors):
    """Errors of the noise as those of the target of a classifier."""
    plan = clf._fitted_plan()
    if plan.target == "epsilon":
        return errors
    alphas = clf.backbone_.noise_schedule.alphas_cumprod.cpu().double().numpy()
    return errors / alphas[plan.trials.timesteps]


def log_likelihood(clf, errors):
    """Of all trials, (n_images, n_classes)."""
    plan = clf._fitted_plan()
    return -(errors * plan.weights).mean(axis=-1) * plan.n_elements


def offsets_of(clf, errors):
    """Class offsets from a table of errors."""
    clf._all_errors = lambda X: errors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class has too many of the predictions
        return fit_class_offsets(clf, None)


def weight_of(clf, errors, truth, proba):
    """The weight of a product, from errors and the other's probabilities."""
    clf.prefilter_, clf._all_errors = Stored(clf.classes_, proba), lambda X: errors
    return fit_prefilter_weight(clf, np.arange(len(truth)), clf.classes_[truth])


def row_of(task, system, correct, **more):
    low, high = clopper_pearson(int(correct.sum()), len(correct))
    row = {"task": task, "system": system, "n": len(correct)}
    row |= {"accuracy": float(correct.mean()), "low": low, "high": high, **more}
    cost = f"{row['evaluations']:>8.1f}" if "evaluations" in row else ""
    print(
        f"{task:<20}{system:<24}{len(correct):>6}{row['accuracy']:>8.1%}"
        f" ({low:.1%} - {high:.1%}){cost}",
        flush=True,
    )
    return row


def gain_of(product, default, clip, weight):
    """Gain of the product over the better of the two, with a paired interval."""
    name = "default" if default.mean() >= clip.mean() else "fashion-clip"
    systems = {"product": product, name: {"default": default}.get(name, clip)}
    systems = {
        key: Stored(np.array([False, True]), np.eye(2)[one.astype(int)])
        for key, one in systems.items()
    }
    every = np.arange(len(product))
    compared = compare_classifiers(systems, every, np.ones(len(every), bool))
    low, high = compared.interval[0, 1].tolist()
    gain = {"gain": float(compared.difference[0, 1]), "gain_low": low}
    return {**gain, "gain_high": high, "weight": float(weight), "better": name}


def choices(task, clf, errors, truth, proba, fit):
    """Rows of a task with classes: errors (n, k, m) of the noise, CLIP's proba (n, k).

    `fit` holds the same three of training images.
    """
    rows, correct = [], {}
    for system, params in TARGETS.items():
        clf.set_params(**{"target": "auto", "trial_covariance": "auto", **params})
        choice, cost = replay(
            clf, in_space(clf, errors), None, 0.99, clf.trial_covariance
        )
        correct[system] = choice == truth
        how = {"evaluations": float(cost.mean())}
        rows.append(row_of(task, system, correct[system], **how))
    clf.set_params(target="auto", trial_covariance="auto", pruning=None)
    weight, scores = weight_of(clf, *fit), log_likelihood(clf, errors)
    with_offsets = (scores + offsets_of(clf, errors)).argmax(axis=1) == truth
    rows.append(row_of(task, "class offsets", with_offsets))
    tiny = np.finfo(float).tiny
    product = scores + weight * np.log(np.maximum(proba, tiny))
    product, clip = product.argmax(axis=1) == truth, proba.argmax(axis=1) == truth
    gain = gain_of(product, correct["default"], clip, weight)
    rows.append(row_of(task, "product with CLIP", product, **gain))
    return [*rows, row_of(task, "fashion-clip", clip)]


def photo_rows(n, folder):
    clf, errors, truth = make_table("fashion-dit", n, None, 0, folder)
    images = make_task("fashion-dit", n)[1]
    n_fit = min(N_FIT, n)
    clip = CLIPZeroShotClassifier(model="fashion-clip").fit(classes=clf.classes_)
    few = clip.predict_proba(load_fashion_mnist(split="train").images[:n_fit])
    fit = *train_table(clf, n_fit, None, folder), few
    proba = clip.predict_proba(images)
    return choices("photos", clf, errors, truth, proba, fit)


def question(name, n, split, folder):
    """Errors, the true class and CLIP's probabilities; items in the order of labels."""
    images, captions = make_scene_questions(name, n, split)
    errors = scene_table(name, n, split, folder)
    clip = CLIPZeroShotClassifier(model="fashion-clip")
    proba = softmax(clip.score_pairs(images, captions)[:, 0], axis=1)
    if name != "items":
        return errors, np.zeros(n, int), proba
    order = np.argsort(captions, axis=1)
    errors = np.take_along_axis(errors, order[..., None], axis=1)
    proba = np.take_along_axis(proba, order, axis=1)
    return errors, order.argmin(axis=1), proba


def item_rows(task, split, n, folder):
    n_fit = min(N_FIT, n)
    fit = question("items", n_fit, "train", folder)
    if split == "test":  # the table of the race
        clf, errors, truth = make_table("fashion-scenes, items", n, None, 0, folder)
        images = make_scene_questions("items", n, split)[0][:, 0]
        clip = CLIPZeroShotClassifier(model="fashion-clip").fit(classes=clf.classes_)
        proba = clip.predict_proba(images)
    else:
        errors, truth, proba = question("items", n, split, folder)
        clf = ZeroShotDiffusionClassifier(model="fashion-scenes")
        clf.fit(classes=load_fashion_photos().target_names)
    return choices(task, clf, errors, truth, proba, fit)


def caption_rows(name, n, folder):
    """Captions that differ from image to image: races as they are, without tables."""
    n_fit = min(N_FIT // 2, n)
    errors, truth, proba = question(name, n_fit, "train", folder)
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes")
    clf.fit(classes=load_fashion_photos().target_names[: errors.shape[1]])
    weight = weight_of(clf.set_params(pruning=None), errors, truth, proba)
    images, captions = make_scene_questions(name, n, "test")
    theirs = CLIPZeroShotClassifier(model="fashion-clip").score_pairs(images, captions)
    theirs = theirs[:, 0]
    systems = {system: (params, None) for system, params in TARGETS.items()}
    systems["product with CLIP"] = {}, weight * theirs
    correct, clip = {}, theirs.argmax(axis=1) == 0
    for system, (params, prior) in systems.items():
        how = {"key": system, "folder": folder, **params}
        correct[system], cost = scene_race(name, n, "test", prior, **how)
        more = {"evaluations": float(cost.mean())}
        if prior is not None:
            more |= gain_of(correct[system], correct["default"], clip, weight)
        yield row_of(name, system, correct[system], **more)
    yield row_of(name, "fashion-clip", clip)


def match(matrix, without_prior):
    """Which examples count for the text, image and group score, by score."""
    s, i = matrix, without_prior  # (n, 2, 2): image, caption
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (i[:, 0, 0] > i[:, 1, 0]) & (i[:, 1, 1] > i[:, 0, 1])
    return {"text": text, "image": image, "group": text & image}


def winoground_rows(n, folder):
    clip = CLIPZeroShotClassifier(model="fashion-clip")
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes")
    clf.fit(classes=["bag", "coat"])  # any two

    def tables(n, split):
        images, captions = make_scene_questions("winoground", n, split)
        errors = scene_table("winoground", n, split, folder)
        return errors, clip.score_pairs(images, captions)

    def weight_of_choices(errors, theirs):
        # Two choices an example, one for each row, of which the diagonal is right.
        own = np.concatenate([errors[:, 0], errors[:, 1, ::-1]])
        proba = softmax(np.concatenate([theirs[:, 0], theirs[:, 1, ::-1]]), axis=1)
        return weight_of(clf, own, np.zeros(len(own), int), proba)

    errors, theirs = tables(min(N_FIT, n), "train")
    text_weight = weight_of_choices(errors[:, :, :2], theirs)
    relative = (errors[:, :, :2] - errors[:, :, 2:]).swapaxes(1, 2)  # caption, image
    image_weight = weight_of_choices(relative, theirs.swapaxes(1, 2))
    errors, theirs = tables(n, "test")
    correct = {}
    for system, params in TARGETS.items():
        clf.set_params(**{"target": "auto", "trial_covariance": "auto", **params})
        scores = log_likelihood(clf, in_space(clf, errors))  # (n, 2, 3)
        ours, likelier = scores[..., :2], scores[..., :2] - scores[..., 2:]
        correct[system] = match(ours, likelier)
        if system == "default":
            product = match(
                ours + text_weight * theirs, likelier + image_weight * theirs
            )
    correct["product with CLIP"] = product
    correct["fashion-clip"] = match(theirs, theirs)
    for score in SCORES:
        one = {system: scores[score] for system, scores in correct.items()}
        weight = text_weight if score == "text" else image_weight
        gain = gain_of(
            one["product with CLIP"], one["default"], one["fashion-clip"], weight
        )
        for system, which in one.items():
            how = gain if system == "product with CLIP" else {}
            yield row_of(f"{score} score", system, which, **how)


TASKS = {
    "photos": photo_rows,
    "items": partial(item_rows, "items", "test"),
    "items, new pairs": partial(item_rows, "items, new pairs", "held-out"),
    "colours": partial(caption_rows, "colours"),
    "relations": partial(caption_rows, "relations"),
    "scores": winoground_rows,
}
N_IMAGES = [2500, 1000, 1000, 1000, 1000, 400]


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-images", type=int, nargs=6, default=N_IMAGES)
    parser.add_argument("--only", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--tables", type=Path, default=None, help="folder to keep them")
    args = parser.parse_args()
    if args.quick:
        args.n_images = [20, 10, 10, 10, 10, 8]
    print(describe_machine())
    rows = []
    for (task, rows_of), n in zip(TASKS.items(), args.n_images, strict=True):
        if not args.only or task in args.only:
            rows += rows_of(n, args.tables)
    write(__file__, args, rows)


if __name__ == "__main__":
    main()
