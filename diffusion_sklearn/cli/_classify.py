"""The command ``classify``: image files in, a table of labels out."""

import csv
import glob
import json
import sys
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils import gen_batches

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ImageError,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.cli._arguments import BUDGET
from diffusion_sklearn.engine._progress import ProgressBar
from diffusion_sklearn.images._folders import images_below
from diffusion_sklearn.images._pixels import read_square

COLUMNS = {
    "path": "string",
    "label": "string",
    "probability": "double",
    "runner_up": "string",
    "runner_up_probability": "double",
    "evaluations": "int64",
    "error": "string",
}
"""Columns of the table, and their types in Parquet."""

FORMATS = (".csv", ".jsonl", ".parquet")
GROUP_SIZE = 64  # images read and classified at a time, for each worker


def run_classify(args):
    """Classify image files and write a row for each.

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
    check_output(args.output)
    paths = find_images(args.paths)
    clf = make_classifier(args).fit(classes=_read_classes(args))
    skipped = {}
    with row_writer(args.output) as write:
        for row, _ in classify_files(clf, paths, args.quiet):
            write(row)
            if row["error"]:
                skipped[row["path"]] = row["error"]
    return skipped, len(paths)


def _read_classes(args):
    """The options ``--classes`` and ``--classes-file`` as a list."""
    if args.classes is None:
        classes = args.classes_file.read_text("utf-8").splitlines()
        return [name.strip() for name in classes if name.strip()]
    for name in args.classes:
        if ("/" in name or "." in name) and Path(name).exists():
            raise ValueError(
                f"--classes has {name!r}, which is a path; put paths before --classes."
            )
    if len(args.classes) > 1:
        return args.classes
    return [name.strip() for name in args.classes[0].split(",")]


def find_images(patterns):
    """Expand files, folders and globs to image files.

    Parameters
    ----------
    patterns : list of str
        Files; folders, which stand for the image files in them and below; and globs
        such as ``"photos/**/*.jpg"``.

    Returns
    -------
    paths : list of Path
        Without duplicates; those of a folder sorted.

    Raises
    ------
    ValueError
        If a pattern matches no file.
    """
    paths = []
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
        paths += matches
    return list(dict.fromkeys(paths))


def make_classifier(args, **budget):
    """Make the estimator that suits the model: zero-shot or class-conditional.

    Parameters
    ----------
    args : Namespace
        The parsed arguments; options that the user set override `budget`.
    **budget
        Defaults of `n_trials`, `pruning` and `loss`.

    Returns
    -------
    clf : estimator
        Not fitted.

    Raises
    ------
    ValueError
        If there is a prompt template and the model is class-conditional.
    """
    names = ("timesteps", "batch_size", "device", "dtype", "n_jobs", "memory")
    params = {name: getattr(args, name) for name in names} | BUDGET | budget
    params |= {name: value for name, value in vars(args).items() if name in BUDGET}
    params |= {
        "model": args.model or ZeroShotDiffusionClassifier().model,
        "random_state": args.seed,
    }
    backbone = load_backbone(params["model"], device=args.device, dtype=args.dtype)
    if backbone.kind == "class" and args.prompt_template:
        raise ValueError(
            f"--prompt-template is for text-to-image models; --model={args.model} is "
            "conditioned on classes. Drop it."
        )
    if backbone.kind == "class":
        return ConditionalDiffusionClassifier(**params)
    template = args.prompt_template or "auto"
    return ZeroShotDiffusionClassifier(prompt_template=template, **params)


def classify_files(clf, paths, quiet=False):
    """Classify image files; rows of unreadable files hold the error.

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
        With the keys :data:`COLUMNS`.
    log_proba : ndarray of shape (n_classes,) or None
        Log posterior; None if the file can't be read.
    """
    size = clf.image_size or clf.backbone_.image_size
    group_size = GROUP_SIZE * effective_n_jobs(clf.n_jobs)
    with ProgressBar(len(paths), not quiet) as bar:
        for group in gen_batches(len(paths), group_size):
            images, errors = [], {}
            for path in paths[group]:
                try:
                    images.append(read_square(path, size, 0))
                except ImageError as error:
                    errors[path] = str(error).removeprefix(f"X[0] ({path}) ")
            predictions = _predict_rows(clf, images)
            for path in paths[group]:
                row, log_proba = dict.fromkeys(COLUMNS) | {"path": str(path)}, None
                if path in errors:
                    row["error"] = errors[path]
                else:
                    prediction, log_proba = next(predictions)
                    row |= prediction
                bar.update([row["evaluations"] or 0])
                yield row, log_proba


def _predict_rows(clf, images):
    """Label, probability and cost of each image, with its log posterior."""
    if not images:
        return
    result = clf.denoising_errors(images)
    for cost, log_proba in zip(result.n_evaluations, result.log_proba, strict=True):
        best = np.argsort(-log_proba, kind="stable")[:2]
        labels, proba = clf.classes_[best].tolist(), np.exp(log_proba[best]).tolist()
        row = {
            "label": labels[0],
            "probability": proba[0],
            "runner_up": labels[1],
            "runner_up_probability": proba[1],
            "evaluations": int(cost),
        }
        yield row, log_proba


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
        If pyarrow is needed and missing.
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
    """Write rows one by one; Parquet at the end, also after an interruption.

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

        rows, types = [], pyarrow.type_for_alias
        schema = pyarrow.schema((name, types(kind)) for name, kind in COLUMNS.items())
        try:
            yield rows.append
        finally:
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)
        return

    def write(row):
        if table is None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            table.writerow(row)
        file.flush()

    output, table = nullcontext(sys.stdout), None
    if path is not None:
        output = path.open("w", newline="", encoding="utf-8")
    with output as file:
        if path is None or path.suffix == ".csv":
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
        yield write
