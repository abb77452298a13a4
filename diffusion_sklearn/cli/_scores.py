"""Scores of labelled images, and the record of an evaluation."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, recall_score

from diffusion_sklearn.cli._arguments import BUDGET
from diffusion_sklearn.cli._classify import classify_files
from diffusion_sklearn.cli._table import COLUMNS, printable, read_rows, row_writer
from diffusion_sklearn.images._folders import RESULTS
from diffusion_sklearn.inspection._confusion import confusion_figure
from diffusion_sklearn.metrics import clopper_pearson

ROWS = "predictions.csv"
ROW_COLUMNS = COLUMNS | {"target": "string", "rank": "int64"}
"""Columns of the rows, with the true label and its place among the classes, from 0."""

SETTINGS = ("classes", "names", "fingerprint", "prompts", "timesteps", "seed", "budget")
"""Settings that a resumed evaluation must have in common with its first run."""


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


def evaluate_images(clf, data, members, args):
    """Classify labelled images; write the scores and the settings.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    data : Bunch
        With ``images``, ``target``, ``classes``, ``class_names`` and ``folder``, as
        :func:`~diffusion_sklearn.datasets.load_dataset` returns them.
    members : list of n_classes ndarrays of int
        Places in ``clf.classes_`` of what each class consists of.
    args : SimpleNamespace
        The parsed arguments: `output`, `quiet` and `resume` are used.

    Returns
    -------
    report : dict
        For ``evaluation.json``, where the settings are written at the beginning.
    rows : list of dict
        Of the images that could be read, with the keys :data:`ROW_COLUMNS`.

    Raises
    ------
    ValueError
        If the evaluation to resume had other settings.
    """
    report, path = describe(clf, data, members), args.output / RESULTS
    args.output.mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.output / ROWS, ROW_COLUMNS) if args.resume else []
    before = json.loads(path.read_text("utf-8")) if rows else report
    changed = [name for name in SETTINGS if before[name] != report[name]]
    if changed:
        raise ValueError(
            f"--resume: the rows in {args.output} were made with other "
            f"{', '.join(changed)}; pass the same options or another --output."
        )
    done = {row["path"] for row in rows}
    others = sorted(done - set(map(printable, data.images)))
    if others:
        raise ValueError(
            f"--resume: {args.output / ROWS} has {len(others)} files that are none of "
            f"the images, such as {others[0]}; name the folder as in the first "
            "command, with no image or sample taken away, or pass another --output."
        )
    write_json(path, report)  # the scores follow
    left = [k for k, path in enumerate(data.images) if printable(path) not in done]
    images = [data.images[k] for k in left]
    start = time.perf_counter()
    with row_writer(args.output / ROWS, ROW_COLUMNS, rows) as write:
        new = classify_files(clf, images, args.quiet, data.classes, members)
        for label, (row, log_proba) in zip(data.target[left], new, strict=True):
            row |= {"target": str(label), "rank": None}
            if log_proba is not None:
                order = np.argsort(-log_proba, kind="stable")
                place = np.searchsorted(data.classes, label)
                row["rank"] = order.tolist().index(place)
            write(row)
            rows.append(row)
    scored = [row for row in rows if not row["error"]]
    target, predicted, rank, costs = (
        np.array([row[name] for row in scored])
        for name in ("target", "label", "rank", "evaluations")
    )
    scores, matrix = score(target, predicted, rank, data.classes)
    report |= {
        "scores": scores,
        "n_images": len(scored),
        "skipped": {row["path"]: row["error"] for row in rows if row["error"]},
        "evaluations": {
            "mean": float(np.mean(costs if scored else 0)),
            "percentile_95": float(np.percentile(costs if scored else 0, 95)),
        },
        "seconds": time.perf_counter() - start,
        "confusion_matrix": matrix.tolist(),
    }
    try:
        figure = confusion_figure(matrix, data.classes)
        figure.savefig(args.output / "confusion_matrix.png", dpi=120)
    except ImportError as error:
        print(f"no confusion_matrix.png: {error}", file=sys.stderr)
    return report, scored


def describe(clf, data, members):
    """Model, classes, prompts, trials and parameters of an evaluation.

    Parameters
    ----------
    clf : estimator
        Fitted.
    data, members
        As in :func:`evaluate_images`.

    Returns
    -------
    settings : dict
    """
    backbone, prompts = clf.backbone_, getattr(clf, "prompts_", None)
    parameters = {
        name: value if isinstance(value, (int, float, str, list, tuple)) else None
        for name, value in clf.get_params(deep=False).items()
        if name not in ("class_names", "classes")
    }
    settings = {
        "classes": data.classes.tolist(),
        "names": data.class_names,
        "model": backbone.name,
        "revision": getattr(backbone.spec, "revision", None),
        "fingerprint": backbone.fingerprint(),
        "device": str(backbone.device),
        "dtype": str(backbone.dtype),
        "prompts": prompts and [prompts[some[0]] for some in members],
        "timesteps": clf.trials_.timesteps.tolist(),
        "seed": clf.trials_.seed,
        "budget": [parameters[name] for name in BUDGET],
        "parameters": parameters,
        "folder": str(Path(data.folder).absolute()),
    }
    return json.loads(json.dumps(settings))


def write_json(path, value):
    """Write a value as JSON.

    Parameters
    ----------
    path : Path
    value : dict
    """
    path.write_text(json.dumps(value, indent=1), "utf-8")


def score(target, predicted, rank, classes):
    """Accuracy, top-5 accuracy and mean recall, with 95 % intervals.

    Parameters
    ----------
    target, predicted : ndarray of shape (n_images,)
        Labels.
    rank : ndarray of shape (n_images,)
        Place of the true label among the classes, the likeliest first, from 0.
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
    scores = {"acc1": proportion(int((rank == 0).sum()), len(rank))}
    if len(classes) > 5:
        scores["acc5"] = proportion(int((rank < 5).sum()), len(rank))
    present, counts = np.unique(target, return_counts=True)
    recall = recall_score(target, predicted, labels=present, average=None)
    variance = (recall * (1 - recall) / counts).mean() / len(present)
    interval = recall.mean() + np.sqrt(variance) * np.array(norm.interval(0.95))
    low, high = np.clip(interval, 0, 1).tolist()
    mean = {"value": float(recall.mean()), "low": low, "high": high}
    scores["mean_per_class_recall"] = mean
    return scores, confusion_matrix(target, predicted, labels=classes)


def proportion(count, n):
    """Proportion with its exact 95 % interval.

    Parameters
    ----------
    count, n : int

    Returns
    -------
    score : dict
        ``value``, ``low`` and ``high``.
    """
    low, high = clopper_pearson(count, n)
    return {"value": count / n, "low": low, "high": high}


def text_score(scores):
    """Text score of Winoground with its exact 95 % interval.

    Parameters
    ----------
    scores : Bunch
        From :func:`~diffusion_sklearn.metrics.winoground_scores`.

    Returns
    -------
    score : dict
        ``value``, ``low`` and ``high``.
    """
    low, high = scores.intervals["text"]
    return {"value": scores.text, "low": low, "high": high}
