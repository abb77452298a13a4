"""Scores of labelled images, and the record of an evaluation."""

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

from diffusion_sklearn._versions import versions
from diffusion_sklearn.cli._classify import classify_files, row_writer
from diffusion_sklearn.metrics import clopper_pearson


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
    """Classify labelled images; write the scores and the settings.

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
        "fingerprint": backbone.fingerprint(),
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
    write_json(args.output / "evaluation.json", report)
    draw_confusion(matrix, clf.classes_, args.output / "confusion_matrix.png")
    return report


def write_json(path, value):
    """Write a value as JSON.

    Parameters
    ----------
    path : Path
    value : dict
    """
    path.write_text(json.dumps(value, indent=1), "utf-8")


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
    n, log_proba = len(target), np.array(log_proba)
    predicted = classes[log_proba.argmax(axis=1)]
    scores = {"acc1": _proportion(int((predicted == target).sum()), n)}
    if len(classes) > 5:
        options = {"k": 5, "labels": classes, "normalize": False}
        n_correct = top_k_accuracy_score(target, log_proba, **options)
        scores["acc5"] = _proportion(int(n_correct), n)
    present, counts = np.unique(target, return_counts=True)
    recall = recall_score(target, predicted, labels=present, average=None)
    variance = (recall * (1 - recall) / counts).mean() / len(present)
    interval = recall.mean() + np.sqrt(variance) * np.array(norm.interval(0.95))
    low, high = np.clip(interval, 0, 1).tolist()
    mean = {"value": float(recall.mean()), "low": low, "high": high}
    scores["mean_per_class_recall"] = mean
    return scores, confusion_matrix(target, predicted, labels=classes)


def _proportion(count, n):
    low, high = clopper_pearson(count, n)
    return {"value": count / n, "low": low, "high": high}


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
