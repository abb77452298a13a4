"""A folder with a subfolder for each class -> accuracy, and what it takes to rerun."""

import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from diffusion_sklearn._versions import versions
from diffusion_sklearn.cli._classify import classify_files, row_writer
from diffusion_sklearn.datasets._load import read_table
from diffusion_sklearn.images._files import images_below
from diffusion_sklearn.metrics import clopper_pearson


def read_folder(folder, output):
    """Images and labels of a folder with a subfolder for each class.

    Parameters
    ----------
    folder : Path
    output : Path
        No class, where it is one of the subfolders.

    Returns
    -------
    paths : list of Path
    labels : list of str
        Name of the subfolder of each.
    classes : list of str
        Names of all subfolders, sorted; one without images is a class too.

    Raises
    ------
    ValueError
        If there are fewer than two subfolders, or no images.
    """
    if not folder.is_dir():
        raise ValueError(f"FOLDER={folder} is no folder.")
    below = sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name[0] != "." and path.resolve() != output.resolve()
    )
    if len(below) < 2:
        raise ValueError(
            f"FOLDER={folder} has {len(below)} subfolders; it needs one for each "
            "class, two or more."
        )
    pairs = [(path, sub.name) for sub in below for path in images_below(sub)]
    if not pairs:
        raise ValueError(f"FOLDER={folder} holds no images in its subfolders.")
    paths, labels = zip(*pairs, strict=True)
    return list(paths), list(labels), [sub.name for sub in below]


def read_names(path, classes):
    """Name of each class, for folders that are not called after theirs.

    Parameters
    ----------
    path : Path or None
        Lines of folder, tab, name. None: folders are called after their class, with
        underscores for spaces.
    classes : list of str
        The folders.

    Returns
    -------
    names : list of str

    Raises
    ------
    ValueError
        If a folder is missing.
    """
    if path is None:
        return [name.replace("_", " ") for name in classes]
    known = read_table(path)
    missing = [name for name in classes if name not in known]
    if missing:
        raise ValueError(
            f"--names={path} lacks the folders {', '.join(missing[:5])}; give each a "
            "line: folder, tab, name."
        )
    return [known[name] for name in classes]


def evaluate(clf, folder, names_file, output, command, quiet=False):
    """Classify a labelled folder, print the scores and write what they came from.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier, not fitted.
    folder : Path
        With a subfolder for each class.
    names_file : Path or None
        As for :func:`read_names`.
    output : Path
        Folder for ``evaluation.json``, ``predictions.csv``, ``confusion_matrix.png``.
    command : list of str
        What was typed, for the record.
    quiet : bool, default=False
        Without a progress bar.

    Returns
    -------
    report : dict
        What is written to ``evaluation.json``.
    """
    paths, labels, classes = read_folder(folder, output)
    names = read_names(names_file, classes)
    return evaluate_images(
        clf, paths, labels, classes, names, folder, output, command, quiet
    )


def evaluate_images(
    clf, paths, labels, classes, names, folder, output, command, quiet=False
):
    """Classify labelled images and write the scores and what they came from.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier, not fitted.
    paths : list of Path
        The images.
    labels : sequence of str
        The label of each.
    classes, names : sequence of str
        The sorted labels, and what each is called.
    folder, output, command, quiet
        As in :func:`evaluate`.

    Returns
    -------
    report : dict
        What is written to ``evaluation.json``.
    """
    clf.set_params(class_names=names).fit(classes=classes)
    output.mkdir(parents=True, exist_ok=True)
    began, rows = time.perf_counter(), []
    with row_writer(output / "predictions.csv") as write:
        for row in classify_files(clf, paths, quiet):
            write(row)
            rows.append(row)
    seconds = time.perf_counter() - began
    seen = [k for k, row in enumerate(rows) if row["error"] is None]
    truth = np.searchsorted(clf.classes_, [labels[k] for k in seen])
    log_proba = np.array([rows[k]["log_proba"] for k in seen])
    scores, matrix = score(truth, log_proba.reshape(len(seen), len(classes)))
    cost = np.array([rows[k]["evaluations"] for k in seen])
    backbone = clf.backbone_
    report = {
        "scores": scores,
        "n_images": len(seen),
        "skipped": {row["path"]: row["error"] for row in rows if row["error"]},
        "evaluations": {
            "mean": float(cost.mean()) if len(cost) else 0.0,
            "percentile_95": float(np.percentile(cost, 95)) if len(cost) else 0.0,
        },
        "seconds": seconds,
        "classes": clf.classes_.tolist(),
        "names": names,
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
        "folder": str(Path(folder).absolute()),
        "command": command,
        "versions": versions(),
    }
    (output / "evaluation.json").write_text(json.dumps(report, indent=1), "utf-8")
    draw_confusion(matrix, clf.classes_, output / "confusion_matrix.png")
    return report


def score(truth, log_proba):
    """Accuracy, top-5 accuracy and mean recall, with 95 % intervals.

    Parameters
    ----------
    truth : ndarray of shape (n_images,), int64
        Place of the true class.
    log_proba : ndarray of shape (n_images, n_classes)
        Log posterior.

    Returns
    -------
    scores : dict of str to dict
        ``acc1``, ``acc5`` (with more than 5 classes) and ``mean_per_class_recall``
        (of the classes that have images), each with ``value``, ``low`` and ``high``:
        Clopper and Pearson's interval for the first two, a normal one from the
        classes' binomial variances for the last.
    matrix : ndarray of shape (n_classes, n_classes), int64
        Images by true (row) and predicted (column) class.
    """
    n, n_classes = log_proba.shape
    matrix = confusion_matrix(
        truth, log_proba.argmax(axis=1), labels=np.arange(n_classes)
    )
    if n == 0:
        return {}, matrix
    rank = (-log_proba).argsort(axis=1, kind="stable").argsort(axis=1)
    place = rank[np.arange(n), truth]
    scores = {}
    for name, best in (("acc1", 1), ("acc5", 5)):
        if best == 1 or n_classes > best:
            right = int((place < best).sum())
            low, high = clopper_pearson(right, n)
            scores[name] = {"value": right / n, "low": low, "high": high}
    counts = matrix.sum(axis=1)
    recall = matrix.diagonal()[counts > 0] / counts[counts > 0]
    variance = (recall * (1 - recall) / counts[counts > 0]).sum() / len(recall) ** 2
    margin = norm.ppf(0.975) * np.sqrt(variance)
    mean = float(recall.mean())
    scores["mean_per_class_recall"] = {
        "value": mean,
        "low": float(max(0, mean - margin)),
        "high": float(min(1, mean + margin)),
    }
    return scores, matrix


def draw_confusion(matrix, classes, path):
    """Draw a confusion matrix, where matplotlib is there; say so where it is not.

    Parameters
    ----------
    matrix : ndarray of shape (n_classes, n_classes)
    classes : ndarray of shape (n_classes,)
    path : Path
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path.name}: pip install 'diffusion-sklearn[plot]' for it")
        return
    from sklearn.metrics import ConfusionMatrixDisplay

    side = min(4 + 0.35 * len(classes), 30)
    axes = Figure(figsize=(side, side), layout="constrained").subplots()
    few = len(classes) <= 30
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(ax=axes, include_values=few, xticks_rotation="vertical", colorbar=few)
    axes.figure.savefig(path, dpi=120)
