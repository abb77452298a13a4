"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

import logging
import sys
from pkgutil import resolve_name

from diffusion_sklearn.cli._arguments import make_parser

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
"""Errors that are reported without a traceback."""


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None: those of the process.

    Returns
    -------
    status : int
        0 on success, 1 after an error, 3 when some images could not be read, 130 after
        Ctrl-C. Invalid arguments exit with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = make_parser().parse_args(argv)
    args.command_line = argv
    if getattr(args, "verbose", False):
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("diffusion_sklearn").setLevel(logging.INFO)
    try:
        # Each command is a module, imported only when it runs.
        name = args.command.replace("-", "_")
        run = resolve_name(f"diffusion_sklearn.cli._{name}:run_{name}")
        skipped, n_images = run(args) or ({}, 0)
    except KeyboardInterrupt:
        _report(f"interrupted. {_how_to_resume(args)}")
        return INTERRUPTED
    except EXPECTED as error:
        _report(f"error: {error}")
        return 1
    if not skipped:
        return 0
    _report(f"{len(skipped)} of {n_images} images could not be read:")
    for path, error in skipped.items():
        _report(f"  {path}: {error}")
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


def _report(text):
    print(f"diffusion-sklearn: {text}", file=sys.stderr)
