"""Calibration of probabilities, before and after fitting a temperature.

    python -m benchmarks.accuracy.calibration --figure reliability.png

Expected calibration error (15 bins), log loss and accuracy of `predict_proba` on both
bundled models, at temperature 1 and after scikit-learn's
``CalibratedClassifierCV(method="temperature")``, which is fitted on one half of the
images; all numbers are of the other half. About 5 minutes on 2 cores, ``--quick`` 1.
"""

import tempfile
from pathlib import Path

from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from benchmarks._common import describe_machine, make_parser, make_task, write
from diffusion_sklearn.metrics import expected_calibration_error

TASKS = {"fashion-dit": 1000, "fashion-scenes": 300, "fashion-scenes, items": 300}


def measure(task, n, memory):
    """Rows of the table, and for the plot (how, confidence, whether right) of each."""
    clf, images, truth = make_task(task, n, memory=memory, verbose=1)
    half = n // 2
    calibrated = CalibratedClassifierCV(FrozenEstimator(clf), method="temperature")
    calibrated.fit(images[:half], truth[:half])
    inverse = calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    temperatures = {"as it is": 1.0, "temperature fitted": float(1 / inverse)}
    rows, curves = [], []
    for how, temperature in temperatures.items():
        proba = calibrated.predict_proba(images[half:])
        if how == "as it is":
            proba = clf.predict_proba(images[half:])
        right = clf.classes_[proba.argmax(axis=1)] == truth[half:]
        row = {
            "task": task,
            "n": n - half,
            "how": how,
            "temperature": temperature,
            "accuracy": float(right.mean()),
            "confidence": float(proba.max(axis=1).mean()),
            "calibration_error": expected_calibration_error(
                truth[half:], proba, classes=clf.classes_
            ),
            "log_loss": log_loss(truth[half:], proba, labels=clf.classes_),
        }
        rows.append(row)
        curves.append((how, proba.max(axis=1), right))
    return rows, curves


def draw(curves, path):
    """Draw reliability curves: accuracy against confidence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, len(curves), figsize=(3.4 * len(curves), 3.4), sharey=True
    )
    for ax, (task, of_task) in zip(axes, curves.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for how, confidence, right in of_task:
            accuracy, mean = calibration_curve(
                right, confidence, n_bins=6, strategy="quantile"
            )
            ax.plot(mean, accuracy, marker="o", markersize=4, label=how)
        ax.set(title=task, xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
    axes[0].set_ylabel("accuracy")
    axes[0].legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, dpi=120)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--figure", type=Path, default=None, help="write it here")
    args = parser.parse_args()
    rows, curves = [], {}
    print(describe_machine())
    head = "temperature", "accuracy %", "confidence %", "ECE", "log loss"
    print(f"{'task':<24}{'how':<20}" + "".join(f"{name:>14}" for name in head))
    for task, n in TASKS.items():
        with tempfile.TemporaryDirectory() as memory:
            of_task, curves[task] = measure(task, n // 10 if args.quick else n, memory)
        rows += of_task
        for row in of_task:
            print(
                f"{row['task']:<24}{row['how']:<20}{row['temperature']:>14.2f}"
                f"{100 * row['accuracy']:>14.1f}{100 * row['confidence']:>14.1f}"
                f"{row['calibration_error']:>14.3f}{row['log_loss']:>14.3f}",
                flush=True,
            )
    if args.figure:
        draw(curves, args.figure)
    write(__file__, args, rows)


if __name__ == "__main__":
    main()
