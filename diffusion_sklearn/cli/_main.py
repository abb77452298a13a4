"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

import logging
import os
import signal
import sys
import threading
import warnings
from pkgutil import resolve_name

import click

from diffusion_sklearn.cli._arguments import PROGRAM, parse, use_color

SKIPPED, PIPE_CLOSED = 3, 141
"""Exit status when some images could not be read, and when the reader of the standard
output is gone (``| head``)."""

EXPECTED = (
    ValueError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
    FloatingPointError,
)
"""Errors that are reported without a traceback."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Slurm, Docker and ``timeout`` send it."""


STOPPED = {KeyboardInterrupt: ("interrupted", 130), Terminated: ("terminated", 143)}
"""What is reported, and the exit status."""


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
        Ctrl-C, 141 when standard output is closed, 143 after SIGTERM. Invalid arguments
        exit with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = parse(argv)
    except click.UsageError as error:
        _exit_invalid(error)
    args.command_line = argv
    if getattr(args, "verbose", False):
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("diffusion_sklearn").setLevel(logging.INFO)
    if hasattr(sys.stdout, "reconfigure"):  # for terminals that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    format_before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{PROGRAM}: {message}\n"
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        # Each command is a module, imported only when it runs.
        name = args.command.replace("-", "_")
        run = resolve_name(f"diffusion_sklearn.cli._{name}:run_{name}")
        skipped, n_images = run(args) or ({}, 0)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt as stop:
        word, status = STOPPED[type(stop)]
        _report(f"{word}. {_how_to_resume(args)}")
        return status
    except click.UsageError as error:
        _exit_invalid(error)
    except EXPECTED as error:
        _report_error(error)
        return 1
    finally:
        warnings.formatwarning = format_before
        if in_main:
            signal.signal(signal.SIGTERM, handler)
    if not skipped:
        return 0
    _report(f"{len(skipped)} of {n_images} images could not be read:")
    for path, error in skipped.items():
        _report(f"  {path}: {error}")
    return SKIPPED


def _terminate(number, frame):
    signal.signal(number, signal.SIG_IGN)  # sent again while files are closed
    raise Terminated


def _how_to_resume(args):
    if args.command not in ("classify", "evaluate", "compare"):
        return "Nothing was lost."
    written = ""
    if args.command != "compare" and args.output is not None:
        written = f"The rows so far are in {args.output}; --resume goes on after them. "
    if args.memory is None:
        return (
            f"{written}With --memory DIR, what is computed would be kept, and the same "
            "command would go on where it was interrupted."
        )
    return (
        f"{written}What was computed is kept in {args.memory}: the same command goes "
        "on from there."
    )


def _exit_invalid(error):
    """Exit after an invalid argument, with where to look."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        raise SystemExit(2)
    message = error.format_message().rstrip()
    help_of = error.ctx.command_path if error.ctx else PROGRAM
    _report_error(f"{message} See {help_of} --help.")
    raise SystemExit(2)


def _report_error(error):
    label = click.style("error:", fg="red", bold=True)
    _report(f"{label} {' '.join(str(error).splitlines())}")


def _report(text):
    click.echo(f"{PROGRAM}: {text}", err=True, color=use_color())
