"""What a user gets: the defaults on every task, and what could be set instead.

    python -m benchmarks.accuracy.defaults --tables FOLDER

Photos (fashion-dit) and scenes (fashion-scenes), of test photos on which nothing was
chosen. Rows: the defaults, those before them (the error of what the model predicts, a
race by a test of means), the error of the noise and of the velocity; class offsets from
200 photos and 100 scenes of the test photos without their labels (of new pairs: from
the pairs of training), a product with fashion-clip whose weight is fitted to 100
labelled training images of the question (colours, relations: 50; of new pairs: to other
scenes of new pairs), and fashion-clip alone. Each is raced as a user would; the scores,
which compare all captions, take all trials. ``--tables`` keeps what is done. About 3
hours on 2 cores, ``--quick`` 3 minutes. Needs the IDX files of Fashion-MNIST.
"""

import warnings
from functools import partial
from pathlib import Path

import joblib
import numpy as np
from scipy.special import log_softmax

from benchmarks._common import (
    describe_machine,
    make_parser,
    make_scene_task,
    make_task,
    write,
)
from benchmarks.accuracy._replay import choices_in_chunks
from benchmarks.accuracy._tables import (
    Stored,
    make_scene_questions,
    scene_race,
    scene_table,
)
from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    fit_class_offsets,
    fit_prefilter_weight,
)
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.classifiers._prefilter_weight import weight_of_errors
from diffusion_sklearn.datasets import load_fashion_mnist, load_fashion_photos
from diffusion_sklearn.inspection import compare_classifiers
from diffusion_sklearn.metrics import clopper_pearson

TARGETS = {
    "defaults before": {"target": "native", "trial_covariance": None},
    "default": {},
    "error of the noise": {"target": "epsilon"},
    "error of the velocity": {"target": "velocity"},
}
PRODUCT, CLIP = "product with CLIP", "fashion-clip"
N_FIT = 100


def in_space(clf, errors):
    """Errors of the noise as those of the target of a classifier."""
    plan = fitted_plan(clf)
    if plan.target == "epsilon":
        return errors
    alphas = clf.backbone_.noise_schedule.alphas_cumprod.cpu().double().numpy()
    return errors / alphas[plan.trials.timesteps]


def log_likelihood(clf, errors):
    """Of all trials, (n_images, n_classes)."""
    plan = fitted_plan(clf)
    return -(errors * plan.weights).mean(axis=-1) * plan.n_elements


def rows_of(task, correct, cost, weight):
    """A row a system: `correct`, and where it races, its evaluations, (n_images,)."""
    for system, right in correct.items():
        low, high = clopper_pearson(int(right.sum()), len(right))
        row = {"task": task, "system": system, "n": len(right)}
        row |= {"accuracy": float(right.mean()), "low": low, "high": high}
        if system in cost:
            row["evaluations"] = float(cost[system].mean())
        if system == PRODUCT:
            row |= gain_of(right, correct["default"], correct[CLIP], weight)
        shown = f"{row['evaluations']:>8.1f}" if system in cost else ""
        print(
            f"{task:<20}{system:<24}{len(right):>6}{row['accuracy']:>8.1%}"
            f" ({low:.1%} - {high:.1%}){shown}",
            flush=True,
        )
        yield row


def gain_of(product, default, clip, weight):
    """Gain of the product over the better of the two, with a paired interval."""
    name = "default" if default.mean() >= clip.mean() else CLIP
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


def class_rows(task, make, images, labels, few, unlabelled, folder):
    """Rows of a task whose classes are those of all images.

    `make` makes an estimator from parameters, `few` are labelled training images,
    `unlabelled` test images.
    """
    names = np.sort(load_fashion_photos().target_names)
    clip = CLIPZeroShotClassifier(model=CLIP).fit(classes=names)
    clf = make(prefilter=clip, memory=folder).fit(classes=names)
    weight = fit_prefilter_weight(clf, *few)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class has too many of the predictions
        offsets = fit_class_offsets(clf, unlabelled)
    product = {"prefilter": clip, "prefilter_weight": weight}
    others = {"class offsets": {"class_offsets": offsets}, PRODUCT: product}
    correct, cost = {}, {}
    for system, params in {**TARGETS, **others}.items():
        clf = make(**params).fit(classes=names)
        # The weight or the offsets are of other images: they belong to the name.
        fitted = params.get("prefilter_weight"), params.get("class_offsets")
        key = f"{task}-race-{system}-{joblib.hash(fitted)}"
        choice, cost[system] = choices_in_chunks(clf, images, folder, key)
        correct[system] = clf.classes_[choice] == labels
    correct[CLIP] = clip.predict(images) == labels
    return rows_of(task, correct, cost, weight)


def photo_rows(n, folder):
    make = partial(ConditionalDiffusionClassifier, model="fashion-dit")
    images, labels = make_task("fashion-dit", n)[1:]
    train, n_fit = load_fashion_mnist(split="train"), min(N_FIT, n)
    few = train.images[:n_fit], train.target_names[train.target[:n_fit]]
    return class_rows("photos", make, images, labels, few, images[: 2 * N_FIT], folder)


def item_rows(task, split, n, folder):
    make = partial(ZeroShotDiffusionClassifier, model="fashion-scenes")
    images, labels, _ = make_scene_task("items", n, split, 0)
    how = ("train", 0) if split == "test" else (split, 1)
    few = make_scene_task("items", min(N_FIT, n), *how)[:2]
    unlabelled = make_scene_task("items", min(N_FIT, n), "test", 0)[0]
    return class_rows(task, make, images, labels, few, unlabelled, folder)


def caption_rows(name, n, folder):
    """Captions that differ from image to image."""
    n_fit = min(N_FIT // 2, n)
    clip = CLIPZeroShotClassifier(model=CLIP)
    errors = scene_table(name, n_fit, "train", folder)
    theirs = clip.score_pairs(*make_scene_questions(name, n_fit, "train"))[:, 0]
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes", pruning=None)
    clf.fit(classes=load_fashion_photos().target_names[: errors.shape[1]])
    truth = np.zeros(n_fit, int)
    theirs = log_softmax(theirs, axis=1)
    weight = weight_of_errors(clf, in_space(clf, errors), truth, theirs)
    theirs = clip.score_pairs(*make_scene_questions(name, n, "test"))[:, 0]
    systems = {system: (params, None) for system, params in TARGETS.items()}
    systems[PRODUCT] = {}, weight * theirs
    correct, cost = {}, {}
    for system, (params, prior) in systems.items():
        how = {"key": system, "folder": folder, **params}
        correct[system], cost[system] = scene_race(name, n, "test", prior, **how)
    correct[CLIP] = theirs.argmax(axis=1) == 0
    return rows_of(name, correct, cost, weight)


def match(matrix, without_prior):
    """Which examples count for the text, image and group score, by score."""
    s, i = matrix, without_prior  # (n, 2, 2): image, caption
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (i[:, 0, 0] > i[:, 1, 0]) & (i[:, 1, 1] > i[:, 0, 1])
    return {"text": text, "image": image, "group": text & image}


def winoground_rows(n, folder):
    clip = CLIPZeroShotClassifier(model=CLIP)
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes")
    clf.fit(classes=["bag", "coat"])  # any two

    def tables(n, split):
        images, captions = make_scene_questions("winoground", n, split)
        errors = scene_table("winoground", n, split, folder)
        return errors, clip.score_pairs(images, captions)

    def weight_of_choices(errors, theirs):
        # Two choices an example, one for each row, of which the diagonal is right.
        own = np.concatenate([errors[:, 0], errors[:, 1, ::-1]])
        theirs = np.concatenate([theirs[:, 0], theirs[:, 1, ::-1]])
        truth = np.zeros(len(own), int)
        return weight_of_errors(clf, own, truth, log_softmax(theirs, axis=1))

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
    correct |= {PRODUCT: product, CLIP: match(theirs, theirs)}
    for score in "text", "image", "group":
        one = {system: scores[score] for system, scores in correct.items()}
        weight = text_weight if score == "text" else image_weight
        yield from rows_of(f"{score} score", one, {}, weight)


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
