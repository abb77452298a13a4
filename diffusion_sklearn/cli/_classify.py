"""The command ``classify``: image files in, a table of labels out."""

import glob
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs
from scipy.special import logsumexp
from sklearn.utils import gen_batches

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ImageError,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.classifiers._prompts import read_prompts
from diffusion_sklearn.cli._arguments import BUDGET
from diffusion_sklearn.cli._table import (
    COLUMNS,
    check_output,
    printable,
    problem_of,
    read_rows,
    row_writer,
)
from diffusion_sklearn.datasets._load import read_text
from diffusion_sklearn.engine._progress import ProgressBar
from diffusion_sklearn.images._folders import images_below
from diffusion_sklearn.images._pixels import read_square

SAME_PROBABILITY = 0.05  # largest difference that a device or dtype makes
GROUP_SIZE = 16  # images between two writings of rows, for each worker


def run_classify(args):
    """Classify image files and write a row for each.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.

    Returns
    -------
    skipped : dict of str to str
        Error of each file that could not be read, by path.
    n_images : int
        Number of files.
    """
    if args.classes and args.classes_file is not None:
        args.fail("--classes-file is not allowed with --classes; pass one of them.")
    if args.json and args.output is not None:
        args.fail("--json goes to standard output; pass an --output in .jsonl instead.")
    check_output(args)
    paths = find_images(args.paths)
    classes = read_classes(args)
    rows = read_rows(args.output) if args.resume else []
    unknown = {row["label"] for row in rows} - {*classes, None}
    if unknown:
        raise ValueError(
            f"--resume: {args.output} has the labels {sorted(unknown)!r}, which are "
            "none of the classes; pass those that it was begun with."
        )
    done = {row["path"]: row for row in rows}
    clf = make_classifier(args).fit(classes=classes)
    repeated = [p for p in paths if done.get(printable(p), {}).get("label")][:1]
    for row, _ in classify_files(clf, repeated, quiet=True):
        check_same(row, done[row["path"]], args.output)
    paths = [path for path in paths if printable(path) not in done]
    with row_writer(args.output, rows=rows, as_json=args.json) as write:
        for row, _ in classify_files(clf, paths, args.quiet):
            write(row)
            rows.append(row)
    return {row["path"]: row["error"] for row in rows if row["error"]}, len(rows)


def check_same(row, before, output):
    """Raise unless the first image has the row that was written before.

    Parameters
    ----------
    row, before : dict
        With the keys :data:`COLUMNS`.
    output : Path
        The table, for the message.

    Raises
    ------
    ValueError
        If labels or probabilities differ by more than the rounding of another device.
    """
    close = abs((row["probability"] or 0) - before["probability"]) < SAME_PROBABILITY
    if row["label"] != before["label"] or not close:
        one, other = (
            f"{r['label']!r} with probability {r['probability']}" for r in (before, row)
        )
        raise ValueError(
            f"--resume: {output} has {one} for {row['path']}, which is now {other}. "
            "The image, the model or an option has changed: pass the command that the "
            "table was begun with, or another --output."
        )


def read_classes(args):
    """Names of the classes from ``--classes``, ``--classes-file`` or ``--prompts``.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.

    Returns
    -------
    classes : list of str

    Raises
    ------
    ValueError
        If there are none, or one is blank or a path.
    """
    if args.classes:
        option = f"--classes={list(args.classes)!r}"
        classes = args.classes
        for name in classes:
            if ("/" in name or "." in name) and Path(name).exists():
                raise ValueError(
                    f"--classes has {name!r}, which is a path; put paths before "
                    "--classes."
                )
        if len(classes) == 1:
            classes = classes[0].split(",")
    elif args.classes_file is not None:
        option = f"--classes-file={args.classes_file}"
        classes = read_text(args.classes_file).rstrip().splitlines()
    elif args.prompts is not None:
        labels = read_prompts(args.prompts)
        return [label for label in labels if isinstance(label, str)]
    else:
        raise ValueError(
            "Name the classes: pass --classes, --classes-file or --prompts."
        )
    classes = [name.strip() for name in classes]
    blank = [k for k, name in enumerate(classes, 1) if not name]
    if blank:
        raise ValueError(
            f"{option}: the names of the classes {blank[:5]} are empty; drop the "
            "blank line or the comma too many."
        )
    return classes


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
    args : SimpleNamespace
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
    params = {name: getattr(args, name, None) for name in names} | BUDGET | budget
    params |= {name: value for name, value in vars(args).items() if name in BUDGET}
    params |= {
        "model": args.model or ZeroShotDiffusionClassifier().model,
        "random_state": args.seed,
    }
    backbone = load_backbone(params["model"], device=args.device, dtype=args.dtype)
    if backbone.kind == "class":
        if args.prompt_template or args.prompts:
            raise ValueError(
                "--prompt-template and --prompts are for text-to-image models; "
                f"--model={args.model} is conditioned on classes. Drop them."
            )
        return ConditionalDiffusionClassifier(**params)
    return ZeroShotDiffusionClassifier(
        prompt_template=args.prompt_template or "auto", prompts=args.prompts, **params
    )


def classify_files(clf, paths, quiet=False, classes=None, members=None):
    """Classify image files; rows of unreadable files hold the error.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    paths : list of Path
        The files.
    quiet : bool, default=False
        Without a progress bar.
    classes : ndarray of shape (n_classes,), default=None
        Labels to choose from; None: ``clf.classes_``.
    members : list of n_classes ndarrays of int, default=None
        Places in ``clf.classes_`` of what each class consists of.

    Yields
    ------
    row : dict
        With the keys :data:`COLUMNS`.
    log_proba : ndarray of shape (n_classes,) or None
        Log posterior; None if the file can't be read.
    """
    if not paths:
        return
    classes = clf.classes_ if classes is None else classes
    size = clf.image_size or clf.backbone_.image_size
    group_size = GROUP_SIZE * effective_n_jobs(clf.n_jobs)
    with ProgressBar(len(paths), not quiet) as bar:
        for group in gen_batches(len(paths), group_size):
            images, errors = [], {}
            for path in paths[group]:
                try:
                    images.append(read_square(path, size, 0))
                except ImageError as error:
                    errors[path] = problem_of(path, error)
            predictions = _predict_rows(clf, images, classes, members)
            for path in paths[group]:
                row, log_proba = dict.fromkeys(COLUMNS), None
                row["path"] = printable(path)
                if path in errors:
                    row["error"] = errors[path]
                else:
                    prediction, log_proba = next(predictions)
                    row |= prediction
                bar.update([row["evaluations"] or 0])
                yield row, log_proba


def _predict_rows(clf, images, classes, members):
    """Label, probability and cost of each image, with its log posterior."""
    if not images:
        return
    result = clf.denoising_errors(images)
    log_probas = combine(result.log_proba, members)
    for cost, log_proba in zip(result.n_evaluations, log_probas, strict=True):
        best = np.argsort(-log_proba, kind="stable")[:2]
        labels, proba = classes[best].tolist(), np.exp(log_proba[best]).tolist()
        row = {
            "label": labels[0],
            "probability": proba[0],
            "runner_up": labels[1],
            "runner_up_probability": proba[1],
            "evaluations": int(cost),
        }
        yield row, log_proba


def combine(log_proba, members):
    """Log posterior of classes that consist of several of the model's.

    Parameters
    ----------
    log_proba : ndarray of shape (n_images, n_model_classes)
    members : list of n_classes ndarrays of int, or None
        Places in the columns of `log_proba`. A class is as probable as its likeliest
        member, as in the paper. None: the columns are the classes.

    Returns
    -------
    log_proba : ndarray of shape (n_images, n_classes)
    """
    if members is None:
        return log_proba
    best = [log_proba[:, columns].max(axis=1) for columns in members]
    best = np.stack(best, axis=1)  # (n, k)
    return best - logsumexp(best, axis=1, keepdims=True)
