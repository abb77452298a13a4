"""What can be typed: the commands, their options, an example each."""

import argparse
from pathlib import Path

from diffusion_sklearn import __version__
from diffusion_sklearn.cli._demo import DEMOS
from diffusion_sklearn.datasets._specs import list_datasets

BUDGET = {"n_trials": 100, "pruning": 0.99, "loss": "l2"}
"""What holds where neither an option nor a data set says otherwise."""


def make_parser():
    """Describe the commands.

    Returns
    -------
    parser : argparse.ArgumentParser
        Its result has the name of the command as ``command``, and as ``fail`` what to
        call with a message about an argument.
    """
    parser = argparse.ArgumentParser(
        prog="diffusion-sklearn",
        description="Conditional diffusion models as scikit-learn classifiers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text, example):
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  diffusion-sklearn {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(fail=command.error)
        return command

    demo = add(
        "demo",
        "classify 100 images that ship, with a model that ships",
        "--model fashion-scenes",
    )
    demo.add_argument(
        "--model",
        choices=list(DEMOS),
        default="fashion-dit",
        help="fashion-dit classifies photos, fashion-scenes matches captions",
    )
    demo.add_argument(
        "--n-images", type=int, default=100, help="at most 1,000 photos or 800 scenes"
    )
    demo.add_argument(
        "--n-trials", type=int, default=None, help="trials for a class or caption"
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("diffusion-sklearn-demo.png"),
        help="where the picture goes",
    )

    classify = add(
        "classify",
        "classify image files, one row for each",
        "photos/ --classes cat dog --output labels.csv",
    )
    classify.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image files, folders, or globs such as 'photos/**/*.jpg'",
    )
    named = classify.add_mutually_exclusive_group(required=True)
    named.add_argument(
        "--classes", nargs="+", action="extend", metavar="NAME", help="the classes"
    )
    named.add_argument(
        "--classes-file", type=Path, metavar="F", help="the classes, one a line"
    )
    classify.add_argument(
        "--output",
        type=Path,
        default=None,
        metavar="F",
        help="a .csv, .jsonl or .parquet file; default: CSV on standard output",
    )
    _add_model_options(classify)

    evaluation = add(
        "evaluate",
        "classify a folder with a subfolder for each class, and score the answers",
        "test_images/ --model fashion-dit --output evaluation\n"
        "  diffusion-sklearn evaluate --dataset pets --max-images 500 "
        "--baseline openai/clip-vit-large-patch14",
    )
    labelled = evaluation.add_mutually_exclusive_group(required=True)
    labelled.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    labelled.add_argument(
        "--dataset",
        choices=list_datasets(),
        metavar="NAME",
        help="a data set of the paper, with its prompts, trials, pruning and loss: "
        + ", ".join(list_datasets()),
    )
    evaluation.add_argument(
        "--names",
        type=Path,
        default=None,
        metavar="F",
        help="lines of subfolder, tab, name of the class; default: subfolders are "
        "called after their class, with underscores for spaces",
    )
    evaluation.add_argument(
        "--output",
        type=Path,
        default=Path("evaluation"),
        metavar="DIR",
        help="for evaluation.json, predictions.csv and confusion_matrix.png",
    )
    _add_dataset_options(evaluation)
    _add_model_options(evaluation)

    info = add(
        "info",
        "versions, devices, bundled models, and what a memory holds",
        "--memory errors/",
    )
    info.add_argument("--memory", type=Path, default=None, metavar="DIR")

    clear = add(
        "clear-memory",
        "forget the errors that a memory holds",
        "errors/",
    )
    clear.add_argument("memory", type=Path, metavar="DIR")
    return parser


def _add_dataset_options(command):
    add = command.add_argument_group("with --dataset").add_argument
    add(
        "--dataset-folder",
        type=Path,
        metavar="DIR",
        help="its images on disk, a subfolder for each class; default: from the Hub",
    )
    add("--split", help="default: the one that the paper used")
    add("--data-home", type=Path, metavar="DIR", help="where sets of the Hub are kept")
    add("--max-images", type=int, metavar="N", help="at most N images, at random")
    add(
        "--baseline",
        action="append",
        default=[],
        metavar="CLIP",
        help="Hub id, folder or bundled name of a CLIP to compare with; repeatable",
    )
    add("--json", type=Path, metavar="F", help="where the table goes as JSON")


def _add_model_options(command):
    add = command.add_argument
    add("--model", default=None, help="Hub id, folder or bundled name")
    add(
        "--prompt-template",
        action="append",
        metavar="T",
        help="a text with {} for the class; several: their errors are averaged",
    )
    add(
        "--n-trials",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="default: 100",
    )
    add(
        "--pruning",
        type=parse_pruning,
        default=argparse.SUPPRESS,
        metavar="P",
        help="a confidence (default: 0.99), stages such as 25:5,50:2, or none",
    )
    add(
        "--loss",
        default=argparse.SUPPRESS,
        help="l2 (default), l1, huber, vlb or l2+vlb",
    )
    add("--timesteps", default="even", help="even (default), anytime or random")
    add("--seed", type=int, default=0, help="of the trials (default: 0)")
    add("--batch-size", type=_int_or_auto, default="auto", metavar="N")
    add("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1, mps, auto")
    add("--dtype", default="auto", help="float32, bfloat16, float16 or auto")
    add(
        "--n-jobs", type=int, default=None, metavar="N", help="processes; -1: all cores"
    )
    add(
        "--memory",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder that keeps what is computed, for the next run",
    )
    add("--quiet", action="store_true", help="no progress bar")
    add("--verbose", action="store_true", help="model, device, dtype and batch size")


def parse_pruning(text):
    """Read the option ``--pruning``.

    Parameters
    ----------
    text : str
        "none", a confidence, or stages as trials:classes, with commas between them.

    Returns
    -------
    pruning : None, float or tuple
        As in the estimators.
    """
    if text.lower() == "none":
        return None
    parts = []
    for part in text.split(","):
        if ":" in part:
            done, keep = part.split(":")
            parts.append((int(done), int(keep)))
        else:
            parts.append(float(part))
    if len(parts) == 1 and isinstance(parts[0], float):
        return parts[0]
    return tuple(parts)


parse_pruning.__name__ = "confidence, stages or none"  # argparse shows it


def _int_or_auto(text):
    return text if text == "auto" else int(text)


_int_or_auto.__name__ = "int or auto"
