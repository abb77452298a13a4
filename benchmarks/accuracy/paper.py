"""Tables 1, 3, 4 and 5 and figures 3, 4 and 6 of the paper, on the bundled models.

    python -m benchmarks.accuracy.paper

The bundled models stand for Stable Diffusion, CLIP, DiT-XL/2 and the ImageNet networks
of Li et al. (ICCV 2023), scenes of Fashion-MNIST test photos for the zero-shot data
sets, and the photos, clean and shifted, for ImageNet and its shifts. Every number has
a 95 % interval over images. The supervised rows of Table 1 are trained on scenes that
need the IDX files of Fashion-MNIST (see ``load_fashion_mnist``); without the files they
are omitted. About 30 minutes on 2 cores, ``--quick`` under 5.
"""

import time

import matplotlib
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from benchmarks._common import describe_machine, make_parser, make_scene_task, write
from benchmarks.accuracy._shifts import SHIFTS, shift
from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.baselines import (
    DiffusionFeatures,
    PretrainedImageClassifier,
    ResNetHead,
    SyntheticDataClassifier,
)
from diffusion_sklearn.datasets import (
    load_fashion_photos,
    load_fashion_winoground,
)
from diffusion_sklearn.inspection import TimestepAccuracyDisplay, TrialScalingDisplay
from diffusion_sklearn.metrics import (
    clopper_pearson,
    effective_robustness,
    winoground_scores,
)

OURS = "Diffusion Classifier"
SCENES = {"model": "fashion-scenes", "target": "epsilon", "verbose": 1}
NETWORKS = ("resnet-tiny", "resnet-small", "resnet", "vit-tiny", "vit-small", "vit")
OBJECTIVES = ("l2", "vlb", "l2+vlb")
TIMESTEPS = [0, *range(50, 1000, 100), 999]  # of figure 3
STRATEGIES = {  # cycled through in this order
    "0": [0],
    "500": [500],
    "475, 500, 525": [500, 475, 525],
    "0, 500, 999": [500, 0, 999],
    "even 10": [450, 950, 150, 650, 250, 750, 50, 550, 350, 850],
    "even": "even",
}
FULL = {
    "n_images": 500,
    "n_labelled": 10_000,
    "n_drawn": 200,
    "n_examples": 400,
    "n_trials": 100,
    "n_scaled": 100,
    "budgets": [1, 3, 10, 30],
}
QUICK = {
    "n_images": 60,
    "n_labelled": 1000,
    "n_drawn": 20,
    "n_examples": 80,
    "n_trials": 50,
    "n_scaled": 20,
    "budgets": [1, 3, 10],
}


def row_of(table, row, column, right, n):
    """An accuracy on n images with its interval."""
    low, high = clopper_pearson(int(right), n)
    return {
        "table": table,
        "row": row,
        "column": column,
        "accuracy": int(right) / n,
        "low": low,
        "high": high,
        "n": n,
    }


def print_table(title, rows):
    """Rows by columns, in the order in which they came."""
    columns = list(dict.fromkeys(str(one["column"]) for one in rows))
    cells = {}
    for one in rows:
        value = one.get("accuracy", one.get("robustness"))
        text = f"{100 * value:.1f} ({100 * one['low']:.0f} to {100 * one['high']:.0f})"
        cells.setdefault(str(one["row"]), {})[str(one["column"])] = text
    first = max(len(name) for name in cells)
    widths = [max(len(name), 17) + 2 for name in columns]
    names = zip(columns, widths, strict=True)
    print(f"\n{title}\n{'':<{first}}" + "".join(f"{x:>{w}}" for x, w in names))
    for name, of_row in cells.items():
        texts = zip((of_row.get(x, "-") for x in columns), widths, strict=True)
        print(f"{name:<{first}}" + "".join(f"{x:>{w}}" for x, w in texts), flush=True)


# Table 1: zero-shot classification.

COLUMNS = {  # question, and split of the test scenes
    "items": ("items", "test"),
    "items, new pairs": ("items", "held-out"),
    "captions": ("captions", "test"),
}


def to_patches(images):
    """Patches of 4 x 4 pixels as channels, (n, 32, 32, 3) -> (n, 48, 8, 8)."""
    x = np.asarray(images, np.float32).reshape(-1, 8, 4, 8, 4, 3) / 255
    return x.transpose(0, 2, 4, 5, 1, 3).reshape(-1, 48, 8, 8)


def make_resnet(feature_shape=(48, 8, 8)):
    """A residual network of three blocks with early stopping."""
    return ResNetHead(
        feature_shape=feature_shape,
        width=64,
        learning_rate=1e-3,
        batch_size=64,
        max_epochs=20,
        patience=3,
    )


def on_pixels():
    """The network, on images."""
    return make_pipeline(FunctionTransformer(to_patches), make_resnet())


def fit_systems(question, classes, size, memory, data_home):
    """The rows of the table, fitted."""
    synthetic = SyntheticDataClassifier(
        model="fashion-scenes",
        estimator=on_pixels(),
        n_images_per_class=size["n_drawn"],
        num_inference_steps=25,
        guidance_scale=1.0,
        verbose=1,
    )
    systems = {"Synthetic data": synthetic.fit(classes=classes)}
    try:
        n = size["n_labelled"]
        images, labels, _ = make_scene_task(question, n, "train", 2, data_home)
    except FileNotFoundError as error:
        print(f"No rows that learn from labels: {error}")
    else:
        features = DiffusionFeatures(model="fashion-scenes", output="flat").fit()
        on_features = make_pipeline(features, make_resnet(features.feature_shape_))
        systems["Features (labelled)"] = on_features.fit(images, labels)
        systems["Pixels (labelled)"] = on_pixels().fit(images, labels)
    ours = ZeroShotDiffusionClassifier(
        **SCENES, n_trials=size["n_trials"], memory=memory
    )
    clip = CLIPZeroShotClassifier(model="fashion-clip")
    systems[OURS] = ours.fit(classes=classes)
    systems["fashion-clip"] = clip.fit(classes=classes)
    return systems


def table_1(size, memory, data_home):
    rows, fitted = [], {}
    for column, (question, split) in COLUMNS.items():
        images, labels, classes = make_scene_task(question, size["n_images"], split, 1)
        if question not in fitted:
            fitted[question] = fit_systems(question, classes, size, memory, data_home)
        for name, clf in fitted[question].items():
            right = (clf.predict(images) == labels).sum()
            rows.append(row_of("1", name, column, right, len(labels)))
    print_table("Table 1. Zero-shot classification, accuracy %", rows)
    return rows


# Table 3: compositional reasoning.


def table_3(size, memory, data_home):
    examples = load_fashion_winoground()
    images, captions, tags = (
        examples[key][: size["n_examples"]] for key in ("images", "captions", "tags")
    )
    systems = {
        "fashion-clip": CLIPZeroShotClassifier(model="fashion-clip"),
        OURS: ZeroShotDiffusionClassifier(**SCENES, n_trials=32, memory=memory),
    }
    rows = []
    for name, clf in systems.items():
        scores = winoground_scores(clf.score_pairs(images, captions), tags)
        for tag, part in {**scores.tags, "all": scores}.items():
            rows.append(row_of("3", name, tag, round(part.n * part.text), part.n))
    print_table("Table 3. Text score of Winoground, % (chance 25)", rows)
    return rows


# Tables 4 and 5: classification on labels, in distribution and under shift.


def photo_columns(size):
    """Photos by column, and their labels."""
    photos = load_fashion_photos()
    n = size["n_images"]
    images = photos.images[:n]
    shifted = {name: shift(images, name) for name in SHIFTS}
    return {"photos": images, **shifted}, photos.names[:n]


def conditional(size, memory, **params):
    """fashion-dit on ten classes, in a race."""
    settings = {"n_trials": size["n_trials"], "memory": memory, "verbose": 1, **params}
    clf = ConditionalDiffusionClassifier(model="fashion-dit", **settings)
    return clf.fit(classes=load_fashion_photos().target_names)


def tables_4_and_5(size, memory, data_home):
    columns, labels = photo_columns(size)
    names = load_fashion_photos().target_names
    systems = {
        f"fashion-{name}": PretrainedImageClassifier(model=f"fashion-{name}")
        for name in NETWORKS
    }
    for clf in systems.values():
        clf.fit(classes=names)
    for loss in OBJECTIVES:
        systems[loss] = conditional(size, memory, loss=loss)
    right = {  # by system and column, (n,) bool
        name: {
            column: clf.predict(images) == labels for column, images in columns.items()
        }
        for name, clf in systems.items()
    }

    def rows_of(table, names):
        return [
            row_of(table, shown, column, one.sum(), len(one))
            for name, shown in names.items()
            for column, one in right[name].items()
        ]

    networks = {name: name for name in systems if name not in OBJECTIVES}
    table_4 = rows_of("4", {**networks, OBJECTIVES[0]: OURS})
    print_table("Table 4. fashion-dit and networks trained on the same photos", table_4)
    robust = robustness(right[OBJECTIVES[0]], [right[name] for name in networks])
    print_table("Figure 6. Effective robustness, points above their line", robust)
    table_5 = rows_of("5", {loss: loss for loss in OBJECTIVES})
    print_table("Table 5. Objectives of fashion-dit", table_5)
    return table_4 + robust + table_5


def robustness(ours, networks, n_resamples=1000):
    """Effective robustness: the height above the line of the networks, by shift.

    `ours` and each of `networks` map a column to (n,) bool, whether each photo is
    right. The interval is that of a bootstrap, with the same photos for all systems.
    """
    rng, n = np.random.default_rng(0), len(ours["photos"])
    draws = [np.arange(n), *rng.integers(n, size=(n_resamples, n))]

    def accuracies(column, draw):
        # 0 and 1 have no logit: count half an image.
        values = [one[column][draw].mean() for one in (ours, *networks)]
        return np.clip(values, 0.5 / n, 1 - 0.5 / n)

    rows = []
    for column in SHIFTS:
        heights = []
        for draw in draws:
            a, *clean = accuracies("photos", draw)
            s, *shifted = accuracies(column, draw)
            if np.ptp(clean) == 0:  # all networks are alike on few photos: no line
                heights.append(np.nan)
                continue
            fit = effective_robustness(a, s, clean, shifted, knot=None)
            heights.append(fit.robustness)
        low, high = np.nanquantile(heights[1:], [0.025, 0.975])
        row = {"table": "figure 6", "row": OURS, "column": column, "n": n}
        rows.append({**row, "robustness": heights[0], "low": low, "high": high})
    return rows


# Figures 3 and 4: timesteps.


def figure_tasks(size, memory, n, **params):
    """Name, classifier, images and labels: photos, and the item of scenes."""
    photos = load_fashion_photos()
    clf = conditional(size, memory, **params)
    yield "fashion-dit, photos", clf, photos.images[:n], photos.names[:n]
    clf = ZeroShotDiffusionClassifier(**SCENES, memory=memory, **params)
    clf.fit(classes=photos.target_names)
    yield "fashion-scenes, items", clf, *make_scene_task("items", n, "test", 1)[:2]


def figure_3(size, memory, data_home):
    rows = []
    how = {"timesteps": TIMESTEPS, "n_trials": len(TIMESTEPS)}
    for name, *task in figure_tasks(size, memory, size["n_images"], **how):
        shown = TimestepAccuracyDisplay.from_estimator(*task)
        for t, right in zip(shown.timesteps, shown.n_correct, strict=True):
            rows.append(row_of("figure 3", int(t), name, right, shown.n_images))
    print_table("Figure 3. Accuracy % from one trial at one timestep", rows)
    return rows


def figure_4(size, memory, data_home):
    rows, n = [], size["n_scaled"]
    how = {"strategies": STRATEGIES, "n_trials": size["budgets"]}
    for model, *task in figure_tasks(size, memory, n):
        shown = TrialScalingDisplay.from_estimator(*task, **how)
        for name, accuracies in zip(shown.strategies, shown.accuracy, strict=True):
            for n_trials, accuracy in zip(shown.n_trials, accuracies, strict=True):
                right = round(accuracy * n)
                one = row_of("figure 4", f"{name} ({model})", int(n_trials), right, n)
                rows.append(one)
    print_table("Figure 4. Accuracy % by timesteps and number of trials", rows)
    return rows


PARTS = {
    "table-1": table_1,
    "table-3": table_3,
    "tables-4-5": tables_4_and_5,
    "figure-3": figure_3,
    "figure-4": figure_4,
}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--memory", default=None, help="folder that keeps all errors")
    parser.add_argument("--data-home", default=None, help="IDX files of Fashion-MNIST")
    args = parser.parse_args()
    matplotlib.use("agg")
    size = QUICK if args.quick else FULL
    print(describe_machine())
    rows, began = [], time.perf_counter()
    for name in args.only or PARTS:
        start = time.perf_counter()
        rows += PARTS[name](size, args.memory, args.data_home)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        write(__file__, args, rows)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
