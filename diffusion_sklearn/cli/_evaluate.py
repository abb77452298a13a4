"""The command ``evaluate``: labelled images in, scores and a record out."""

import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.stats import norm
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    confusion_matrix,
    recall_score,
    top_k_accuracy_score,
)
from sklearn.utils import Bunch

from diffusion_sklearn._versions import versions
from diffusion_sklearn.cli._classify import classify_files, make_classifier, row_writer
from diffusion_sklearn.datasets._load import read_table
from diffusion_sklearn.images._files import read_class_folders
from diffusion_sklearn.metrics import clopper_pearson


def run_evaluate(args):
    """Classify a folder of labelled images and print the scores.

    Parameters
    ----------
    args : Namespace
        The parsed arguments.

    Returns
    -------
    skipped : dict of str to str
        Error of each file that could not be read, by path.
    n_images : int
        Number of files.
    """
    for name in ("dataset_folder", "split", "data_home", "max_images", "json"):
        if getattr(args, name) is not None:
            args.fail(f"--{name.replace('_', '-')} goes with --dataset")
    if args.baseline:
        args.fail("--baseline goes with --dataset")
    images, target, classes = read_class_folders(args.folder, exclude=args.output)
    names = [name.replace("_", " ") for name in classes]
    if args.names is not None:
        table = read_table(args.names)
        missing = [name for name in classes if name not in table]
        if missing:
            raise ValueError(
                f"--names={args.names} lacks the folders {', '.join(missing[:5])}; "
                "give each a line: folder, tab, name."
            )
        names = [table[name] for name in classes]
    data = Bunch(
        images=images,
        target=np.array(target),
        classes=np.array(classes),
        class_names=names,
        folder=args.folder,
    )
    report = evaluate_images(make_classifier(args), data, args)
    print(f"{'images':<22} {report['n_images']}")
    for name, score in report["scores"].items():
        print(f"{name:<22} {format_score(score)}")
    cost = report["evaluations"]
    print(
        f"{'evaluations':<22} {cost['mean']:.0f} an image, 95 % below "
        f"{cost['percentile_95']:.0f}"
    )
    print(f"{'seconds':<22} {report['seconds']:.1f}")
    print(f"{'written to':<22} {args.output}")
    return report["skipped"], len(images)


def format_score(score):
    """Format a score with its interval.

    Parameters
    ----------
    score : dict
        With ``value``, ``low`` and ``high``.

    Returns
    -------
    text : str
    """
    low, high = score["low"], score["high"]
    return f"{score['value']:>7.2%}   95 % interval {low:.2%} to {high:.2%}"


def evaluate_images(clf, data, args):
    """Classify labelled images; write the scores and what reproduces them.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier, not fitted.
    data : Bunch
        With ``images``, ``target``, ``classes``, ``class_names`` and ``folder``, as
        :func:`~diffusion_sklearn.datasets.load_dataset` returns them.
    args : Namespace
        The parsed arguments: `output`, `quiet` and `command_line` are used.

    Returns
    -------
    report : dict
        The contents of ``evaluation.json``.
    """
    clf.set_params(class_names=data.class_names).fit(classes=data.classes)
    args.output.mkdir(parents=True, exist_ok=True)
    target, log_proba, costs, skipped = [], [], [], {}
    start = time.perf_counter()
    with row_writer(args.output / "predictions.csv") as write:
        rows = classify_files(clf, data.images, args.quiet)
        for label, (row, row_log_proba) in zip(data.target, rows, strict=True):
            write(row)
            if row["error"]:
                skipped[row["path"]] = row["error"]
                continue
            target.append(label)
            log_proba.append(row_log_proba)
            costs.append(row["evaluations"])
    seconds = time.perf_counter() - start
    scores, matrix = score(target, log_proba, clf.classes_)
    backbone = clf.backbone_
    report = {
        "scores": scores,
        "n_images": len(target),
        "skipped": skipped,
        "evaluations": {
            "mean": float(np.mean(costs or 0)),
            "percentile_95": float(np.percentile(costs or 0, 95)),
        },
        "seconds": seconds,
        "classes": clf.classes_.tolist(),
        "names": data.class_names,
        "confusion_matrix": matrix.tolist(),
        "model": backbone.name,
        "revision": getattr(backbone.spec, "revision", None),
        "weights": backbone.digest(),
        "device": str(backbone.device),
        "dtype": str(backbone.dtype),
        "prompts": getattr(clf, "prompts_", None),
        "timesteps": clf.trials_.timesteps.tolist(),
        "seed": clf.trials_.seed,
        "parameters": {
            name: value if isinstance(value, (int, float, str, list, tuple)) else None
            for name, value in clf.get_params(deep=False).items()
            if name not in ("class_names", "classes")
        },
        "folder": str(Path(data.folder).absolute()),
        "command": args.command_line,
        "versions": versions(),
    }
    path = args.output / "evaluation.json"
    path.write_text(json.dumps(report, indent=1), "utf-8")
    draw_confusion(matrix, clf.classes_, args.output / "confusion_matrix.png")
    return report


def score(target, log_proba, classes):
    """Accuracy, top-5 accuracy and mean recall, with 95 % intervals.

    Parameters
    ----------
    target : sequence of length n_images
        True labels.
    log_proba : sequence of n_images ndarrays of shape (n_classes,)
        Log posterior.
    classes : ndarray of shape (n_classes,)
        The sorted labels.

    Returns
    -------
    scores : dict of str to dict
        ``acc1``, ``acc5`` (with more than 5 classes) and ``mean_per_class_recall``
        (of the classes that have images), each with ``value``, ``low`` and ``high``:
        the Clopper-Pearson interval for the first two, for the last a normal one from
        the binomial variances of the classes.
    matrix : ndarray of shape (n_classes, n_classes), int64
        Images by true (row) and predicted (column) class.
    """
    if not len(target):
        return {}, np.zeros((len(classes), len(classes)), np.int64)
    log_proba, n = np.array(log_proba), len(target)
    predicted = classes[log_proba.argmax(axis=1)]
    n_correct = {"acc1": int((predicted == target).sum())}
    if len(classes) > 5:
        n_correct["acc5"] = int(
            top_k_accuracy_score(
                target, log_proba, k=5, labels=classes, normalize=False
            )
        )
    scores = {}
    for name, count in n_correct.items():
        low, high = clopper_pearson(count, n)
        scores[name] = {"value": count / n, "low": low, "high": high}
    present, counts = np.unique(target, return_counts=True)
    recall = recall_score(target, predicted, labels=present, average=None)
    mean, variance = recall.mean(), (recall * (1 - recall) / counts).mean()
    margin = norm.ppf(0.975) * np.sqrt(variance / len(present))
    scores["mean_per_class_recall"] = {
        "value": float(mean),
        "low": float(max(0, mean - margin)),
        "high": float(min(1, mean + margin)),
    }
    return scores, confusion_matrix(target, predicted, labels=classes)


def draw_confusion(matrix, classes, path):
    """Draw a confusion matrix; print a hint where matplotlib is missing.

    Parameters
    ----------
    matrix : ndarray of shape (n_classes, n_classes)
    classes : ndarray of shape (n_classes,)
    path : Path
    """
    if find_spec("matplotlib") is None:
        print(f"no {path.name}: pip install 'diffusion-sklearn[plot]' for it")
        return
    from matplotlib.figure import Figure

    side = min(4 + 0.35 * len(classes), 30)
    axes = Figure(figsize=(side, side), layout="constrained").subplots()
    few = len(classes) <= 30
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(ax=axes, include_values=few, xticks_rotation="vertical", colorbar=few)
    axes.figure.savefig(path, dpi=120)
