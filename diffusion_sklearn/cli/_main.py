"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

import json
import logging
import sys
from pathlib import Path

from PIL import Image

from diffusion_sklearn import ErrorStore, show_versions
from diffusion_sklearn.backbones._loading import BUNDLED
from diffusion_sklearn.cli._arguments import BUDGET, make_parser
from diffusion_sklearn.cli._classify import (
    check_output,
    classify_files,
    find_images,
    make_classifier,
    row_writer,
)
from diffusion_sklearn.cli._compare import compare, print_table
from diffusion_sklearn.cli._demo import DEMOS
from diffusion_sklearn.cli._evaluate import evaluate
from diffusion_sklearn.datasets._load import load_dataset, read_table
from diffusion_sklearn.datasets._specs import get_dataset_spec
from diffusion_sklearn.engine._database import FILE

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
    args = make_parser().parse_args(argv)
    args.command_line = argv
    if getattr(args, "verbose", False):
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("diffusion_sklearn").setLevel(logging.INFO)
    try:
        return RUN[args.command](args)
    except KeyboardInterrupt:
        _say(f"interrupted. {_how_to_resume(args)}")
        return INTERRUPTED
    except EXPECTED as error:
        _say(f"error: {error}")
        return 1


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
    """Classify labelled images and score the answers."""
    if args.dataset is not None:
        return _run_dataset(args)
    options = ("dataset_folder", "split", "data_home", "max_images", "baseline", "json")
    for name in options:
        if getattr(args, name):
            args.fail(f"--{name.replace('_', '-')} goes with --dataset")
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


def _run_dataset(args):
    """Classify a data set of the paper, and with CLIP too; print a table."""
    spec = get_dataset_spec(args.dataset)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        args.fail(f"--json={args.json}: there is no such folder")
    data = load_dataset(
        args.dataset,
        folder=args.dataset_folder,
        split=args.split,
        data_home=args.data_home,
        max_images=args.max_images,
        class_names=None if args.names is None else read_table(args.names),
    )
    clf = _make(args, **{name: getattr(spec, name) for name in BUDGET})
    templates = args.prompt_template or spec.prompt_template
    if "prompt_template" in clf.get_params():
        clf.set_params(prompt_template=templates)
    table = compare(
        clf,
        data,
        args.baseline,
        templates,
        args.output,
        args.command_line,
        args.quiet,
    )
    if args.json is not None:
        args.json.write_text(json.dumps(table, indent=1), "utf-8")
    print_table(table)
    print(f"{'written to':<22} {args.output}")
    skipped = table["skipped"]
    return _report_skipped(skipped, table["n_images"] + len(skipped))


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


def _make(args, **budget):
    typed = {name: value for name, value in vars(args).items() if name in BUDGET}
    return make_classifier(
        args.model,
        args.prompt_template,
        **BUDGET | budget | typed,
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
    if args.command not in ("classify", "evaluate"):
        return "Nothing was lost."
    written = ""
    if args.output is not None and args.command == "classify":
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


RUN = {
    "demo": run_demo,
    "classify": run_classify,
    "evaluate": run_evaluate,
    "info": run_info,
    "clear-memory": run_clear,
}
