"""Photos on disk -> rows with their labels, as the command line writes them."""

import csv
import glob
import json
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ImageError,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.engine._progress import ProgressBar
from diffusion_sklearn.engine._scoring import keep_answer
from diffusion_sklearn.images._files import images_below
from diffusion_sklearn.images._read import read_image

COLUMNS = {
    "path": "string",
    "label": "string",
    "probability": "double",
    "runner_up": "string",
    "runner_up_probability": "double",
    "evaluations": "int64",
    "error": "string",
}
"""Columns of a row, and their types in Parquet."""

FORMATS = (".csv", ".jsonl", ".parquet")
AT_ONCE = 1024  # images that are looked at before they are classified, a worker


def find_images(patterns):
    """Expand files, folders and globs to image files.

    Parameters
    ----------
    patterns : list of str
        A file is taken as it is; of a folder, and those below it, the files with the
        suffix of an image; a glob such as ``"photos/**/*.jpg"`` gives its matches.

    Returns
    -------
    paths : list of Path
        Each once, those of a folder sorted.

    Raises
    ------
    ValueError
        If a pattern stands for no file.
    """
    found = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = images_below(path)
        elif path.exists():
            matches = [path]
        else:
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            matches = [match for match in matches if match.is_file()]
        if not matches:
            kind = "holds no images" if path.is_dir() else "is no file, folder or glob"
            raise ValueError(
                f"PATH={pattern!r} {kind}; pass image files, folders or globs such as "
                "'photos/**/*.jpg'."
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def make_classifier(model, prompt_template, **params):
    """The estimator for a model: zero-shot or class-conditional.

    Parameters
    ----------
    model : str or None
        As in the estimators; None: Stable Diffusion 2.
    prompt_template : list of str or None
        None: the model's own.
    **params
        Of the estimator.

    Returns
    -------
    clf : estimator
        Not fitted.

    Raises
    ------
    ValueError
        If there is a template and the model takes no text.
    """
    clf = ZeroShotDiffusionClassifier(**params)
    if model is not None:
        clf.set_params(model=model)
    backbone = load_backbone(clf.model, device=clf.device, dtype=clf.dtype)
    if backbone.kind == "class":
        if prompt_template:
            raise ValueError(
                f"--prompt-template is for text-to-image models; --model={model} is "
                "conditioned on classes. Drop it."
            )
        return ConditionalDiffusionClassifier(model=clf.model, **params)
    if prompt_template:
        clf.set_params(prompt_template=prompt_template)
    return clf


def classify_files(clf, paths, quiet=False):
    """Classify image files; those that can't be read are told.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    paths : list of Path
        The files.
    quiet : bool, default=False
        Without a progress bar.

    Yields
    ------
    row : dict
        With the keys :data:`COLUMNS`, and ``log_proba`` (n_classes,). Of a file that
        can't be read: its path and the error.
    """
    step = AT_ONCE * effective_n_jobs(clf.n_jobs)
    with ProgressBar(len(paths), not quiet) as bar:
        for start in range(0, len(paths), step):
            group, wrong = paths[start : start + step], {}
            for path in group:
                try:
                    read_image(path, 0)
                except ImageError as error:
                    wrong[path] = str(error).removeprefix(f"X[0] ({path}) ")
            good = [path for path in group if path not in wrong]
            answers = _answers(clf, good, bar)
            for path in group:
                row = dict.fromkeys(COLUMNS) | {"path": str(path)}
                if path in wrong:
                    row["error"] = wrong[path]
                    bar.update(1, 0)
                else:
                    row |= _answer(clf.classes_, *next(answers))
                yield row


def _answers(clf, paths, bar):
    """Evaluations and log posterior of each image, as soon as its group is done."""
    if not paths:
        return
    for n_images, n_done, (costs, rows) in clf._groups(paths, paths, keep_answer):
        bar.update(n_images, n_done)
        yield from zip(costs, rows, strict=True)


def _answer(classes, cost, log_proba):
    order = np.argsort(-log_proba, kind="stable")
    answer = {
        "label": classes[order[0]].item(),
        "probability": float(np.exp(log_proba[order[0]])),
        "evaluations": int(cost),
        "log_proba": log_proba,
    }
    if len(order) > 1:
        answer["runner_up"] = classes[order[1]].item()
        answer["runner_up_probability"] = float(np.exp(log_proba[order[1]]))
    return answer


def check_output(path):
    """Raise unless rows can be written to a path.

    Parameters
    ----------
    path : Path or None
        None: standard output.

    Raises
    ------
    ValueError
        If the suffix is none of :data:`FORMATS`, or there is no such folder.
    ImportError
        If Parquet is asked for and pyarrow is missing.
    """
    if path is None:
        return
    if path.suffix not in FORMATS:
        raise ValueError(f"--output={path} must end in one of {', '.join(FORMATS)}.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output={path}: there is no such folder; make it first.")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ImportError(
            f"--output={path} needs pyarrow: pip install "
            "'diffusion-sklearn[parquet]', or write .csv or .jsonl."
        )


@contextmanager
def row_writer(path):
    """Write rows as they come; Parquet at the end, also after an interruption.

    Parameters
    ----------
    path : Path or None
        Ends in one of :data:`FORMATS`. None: CSV on standard output.

    Yields
    ------
    write : callable
        Takes a row, a dict with the keys :data:`COLUMNS`.
    """
    if path is not None and path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        rows = []
        try:
            yield lambda row: rows.append({name: row[name] for name in COLUMNS})
        finally:
            schema = pyarrow.schema(
                (name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()
            )
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)
        return
    file = sys.stdout if path is None else path.open("w", newline="", encoding="utf-8")
    try:
        if path is not None and path.suffix == ".jsonl":

            def write(row):
                kept = {name: row[name] for name in COLUMNS}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")
                file.flush()

        else:
            table = csv.DictWriter(
                file, COLUMNS, extrasaction="ignore", lineterminator="\n"
            )
            table.writeheader()

            def write(row):
                table.writerow(row)
                file.flush()

        yield write
    finally:
        if path is not None:
            file.close()
