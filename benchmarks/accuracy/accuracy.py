"""Accuracy of the bundled fashion-dit and of classifiers trained on the same photos.

    python -m benchmarks.accuracy.accuracy

On the first 1,000 Fashion-MNIST test photos: the diffusion classifier with every trial,
and by default; and scikit-learn's LogisticRegression and SVC(rbf) trained on all 60,000
training photos, which need the IDX files of Fashion-MNIST (see ``load_fashion_mnist``).
About 20 minutes on 2 cores, ``--quick`` (100 photos, no SVC) about 3.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

from benchmarks._common import describe_machine, make_parser, write
from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_mnist, load_fashion_photos
from diffusion_sklearn.metrics import clopper_pearson

HEADER = f"{'classifier':<42}{'accuracy':>9}{'95 % interval':>16}{'evaluations':>13}"


def report(name, predicted, truth, evaluations=None):
    n, n_correct = len(truth), int((predicted == truth).sum())
    low, high = clopper_pearson(n_correct, n)
    cost = "-" if evaluations is None else f"{evaluations:.0f}"
    print(
        f"{name:<42}{n_correct / n:>9.1%}{low:>8.1%} -{high:>6.1%}{cost:>13}",
        flush=True,
    )
    return {
        "classifier": name,
        "accuracy": n_correct / n,
        "interval": [low, high],
        "evaluations": evaluations,
    }


def diffusion_rows(photos, n, dtype):
    settings = {
        "fashion-dit, 100 trials": {"pruning": None},
        "fashion-dit, by default": {},
    }
    for name, params in settings.items():
        clf = ConditionalDiffusionClassifier(model="fashion-dit", dtype=dtype, **params)
        clf.fit(classes=photos.target_names)
        result = clf.denoising_errors(photos.images[:n])
        predicted = clf.classes_[result.log_proba.argmax(axis=1)]
        cost = float(result.n_evaluations.mean())
        yield report(name, predicted, photos.names[:n], cost)


def trained_rows(photos, n, data_home, quick):
    train = load_fashion_mnist(data_home=data_home)
    rows = train.images.reshape(len(train.images), -1).astype(np.float32)
    test = photos.images[:n].reshape(n, -1).astype(np.float32)
    names = train.target_names[train.target]
    classifiers = {
        "LogisticRegression, 60,000 photos": make_pipeline(
            MinMaxScaler(), LogisticRegression(max_iter=200)
        ),
    }
    if not quick:
        classifiers["SVC(rbf, C=10), 60,000 photos"] = make_pipeline(
            MinMaxScaler(), SVC(C=10, cache_size=2000)
        )
    for name, clf in classifiers.items():
        clf.fit(rows, names)
        yield report(name, clf.predict(test), photos.names[:n])


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", default="auto", help="of the diffusion model")
    parser.add_argument("--data-home", default=None, help="IDX files of Fashion-MNIST")
    args = parser.parse_args()
    photos = load_fashion_photos()
    n = 100 if args.quick else len(photos.images)
    print(f"first {n} test photos, dtype {args.dtype}, {describe_machine()}")
    print(HEADER)
    rows = list(diffusion_rows(photos, n, args.dtype))
    try:
        rows += trained_rows(photos, n, args.data_home, args.quick)
    except FileNotFoundError as error:
        print(f"No trained classifiers: {error}")
    write(__file__, args, rows, n_images=n, dtype=args.dtype)


if __name__ == "__main__":
    main()
