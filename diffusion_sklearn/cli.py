"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

import argparse
import logging
import sys
from pathlib import Path

from PIL import Image

from diffusion_sklearn import ErrorStore, __version__, show_versions
from diffusion_sklearn._classify import (
    check_output,
    classify_files,
    find_images,
    make_classifier,
    row_writer,
)
from diffusion_sklearn._database import FILE
from diffusion_sklearn._demo import DEMOS
from diffusion_sklearn._evaluate import evaluate
from diffusion_sklearn.backbones._loading import BUNDLED

SKIPPED, INTERRUPTED = 3, 130
"""Exit status when some images could not be read, and after Ctrl-C."""

EXPECTED = (
    ValueError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
    FloatingPointError,
)
"""Errors whose message is for the user, without a traceback."""


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None: those of the process.

    Returns
    -------
    status : int
        0 when all went well, 1 after an error, 3 when some images could not be read,
        130 after Ctrl-C. Arguments that can't be understood exit with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    args = parser.parse_args(argv)
    args.command_line = argv
    if getattr(args, "verbose", False):
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("diffusion_sklearn").setLevel(logging.INFO)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        _say(f"interrupted. {_how_to_resume(args)}")
        return INTERRUPTED
    except EXPECTED as error:
        _say(f"error: {error}")
        return 1


def make_parser():
    """Describe the commands.

    Returns
    -------
    parser : argparse.ArgumentParser
    """
    parser = argparse.ArgumentParser(
        prog="diffusion-sklearn",
        description="Conditional diffusion models as scikit-learn classifiers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, text, example):
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  diffusion-sklearn {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    demo = add(
        "demo",
        run_demo,
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
    demo.set_defaults(fail=demo.error)

    classify = add(
        "classify",
        run_classify,
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
        run_evaluate,
        "classify a folder with a subfolder for each class, and score the answers",
        "test_images/ --model fashion-dit --output evaluation",
    )
    evaluation.add_argument("folder", type=Path, metavar="FOLDER")
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
    _add_model_options(evaluation)

    info = add(
        "info",
        run_info,
        "versions, devices, bundled models, and what a memory holds",
        "--memory errors/",
    )
    info.add_argument("--memory", type=Path, default=None, metavar="DIR")

    clear = add(
        "clear-memory",
        run_clear,
        "forget the errors that a memory holds",
        "errors/",
    )
    clear.add_argument("memory", type=Path, metavar="DIR")
    return parser


def _add_model_options(command):
    add = command.add_argument
    add("--model", default=None, help="Hub id, folder or bundled name")
    add(
        "--prompt-template",
        action="append",
        metavar="T",
        help="a text with {} for the class; several: their errors are averaged",
    )
    add("--n-trials", type=int, default=100, metavar="N", help="default: 100")
    add(
        "--pruning",
        type=parse_pruning,
        default=0.99,
        metavar="P",
        help="a confidence (default: 0.99), stages such as 25:5,50:2, or none",
    )
    add("--loss", default="l2", help="l2 (default), l1, huber, vlb or l2+vlb")
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


def run_demo(args):
    """Classify images that ship."""
    run, n_trials, most = DEMOS[args.model]
    n_trials = n_trials if args.n_trials is None else args.n_trials
    if not 1 <= args.n_images <= most:
        args.fail(f"--n-images={args.n_images} must lie between 1 and {most}")
    if n_trials < 1:
        args.fail(f"--n-trials={n_trials} must be 1 or more")
    if args.output.suffix not in Image.registered_extensions():
        args.fail(f"--output={args.output} must end in .png or another image suffix")
    if not args.output.absolute().parent.is_dir():
        args.fail(f"--output={args.output}: there is no such folder")
    run(args.n_images, n_trials, args.output)
    return 0


def run_classify(args):
    """Classify image files."""
    check_output(args.output)
    paths = find_images(args.paths)
    for name in args.classes or ():
        if ("/" in name or "." in name) and Path(name).exists():
            raise ValueError(
                f"--classes has {name!r}, which is a path; put paths before --classes."
            )
    classes = args.classes
    if args.classes_file is not None:
        lines = args.classes_file.read_text("utf-8").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
    elif len(classes) == 1:
        classes = [name.strip() for name in classes[0].split(",")]
    clf = _make(args).fit(classes=classes)
    skipped = {}
    with row_writer(args.output) as write:
        for row in classify_files(clf, paths, args.quiet):
            write(row)
            if row["error"]:
                skipped[row["path"]] = row["error"]
    return _report_skipped(skipped, len(paths))


def run_evaluate(args):
    """Classify a labelled folder and score the answers."""
    report = evaluate(
        _make(args),
        args.folder,
        args.names,
        args.output,
        args.command_line,
        args.quiet,
    )
    print(f"{'images':<22} {report['n_images']}")
    for name, score in report["scores"].items():
        print(
            f"{name:<22} {score['value']:.2%}   95 % interval "
            f"{score['low']:.2%} to {score['high']:.2%}"
        )
    cost = report["evaluations"]
    print(
        f"{'evaluations':<22} {cost['mean']:.0f} an image, 95 % below "
        f"{cost['percentile_95']:.0f}"
    )
    print(f"{'seconds':<22} {report['seconds']:.1f}")
    print(f"{'written to':<22} {args.output}")
    skipped = report["skipped"]
    return _report_skipped(skipped, report["n_images"] + len(skipped))


def run_info(args):
    """Print versions, devices, bundled models and what a memory holds."""
    show_versions()
    for name, kind in BUNDLED.items():
        print(f"{'bundled model':<18} {name} ({kind})")
    if args.memory is not None:
        for name, value in _existing_store(args.memory).info().items():
            print(f"{'memory ' + name:<21} {value}")
    return 0


def run_clear(args):
    """Forget the errors that a memory holds."""
    store = _existing_store(args.memory)
    found = store.info()
    store.clear()
    print(f"{found['n_evaluations']} evaluations forgotten")
    return 0


def _existing_store(folder):
    if not (folder / FILE).is_file():
        raise ValueError(f"memory {folder} has no kept errors; check the path.")
    return ErrorStore(folder)


def _make(args):
    return make_classifier(
        args.model,
        args.prompt_template,
        n_trials=args.n_trials,
        pruning=args.pruning,
        loss=args.loss,
        timesteps=args.timesteps,
        random_state=args.seed,
        batch_size=args.batch_size,
        device=args.device,
        dtype=args.dtype,
        n_jobs=args.n_jobs,
        memory=args.memory,
    )


def _report_skipped(skipped, n):
    if not skipped:
        return 0
    _say(f"{len(skipped)} of {n} images could not be read:")
    for path, error in skipped.items():
        _say(f"  {path}: {error}")
    return SKIPPED


def _how_to_resume(args):
    if args.run not in (run_classify, run_evaluate):
        return "Nothing was lost."
    written = ""
    if args.output is not None and args.run is run_classify:
        written = f"The rows so far are in {args.output}. "
    if args.memory is None:
        return (
            f"{written}With --memory DIR, what is computed would be kept, and the same "
            "command would go on where it was interrupted."
        )
    return (
        f"{written}What was computed is kept in {args.memory}: the same command goes "
        "on from there."
    )


def _say(text):
    print(f"diffusion-sklearn: {text}", file=sys.stderr)
