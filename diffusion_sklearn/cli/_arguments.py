"""The commands and their options, with an example for each command.

Parsing is click's. Commands share most of their options, which in click are objects in
a list; Typer reads options from the signatures of functions, so that each command would
repeat them all. A command is imported only when it runs: help and completion take the
time of importing click.
"""

import os
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import click

from diffusion_sklearn import __version__
from diffusion_sklearn.datasets._specs import list_datasets

PROGRAM = "diffusion-sklearn"

BUDGET = {"n_trials": 100, "pruning": 0.99, "loss": "l2"}
"""Defaults where neither an option nor the data set has a value."""

STATUS = {
    0: "success",
    1: "an error, which is printed",
    2: "invalid arguments",
    3: "some images could not be read",
    130: "interrupted by Ctrl-C",
    141: "the reader of the standard output is gone, as with | head",
    143: "terminated by SIGTERM",
}
"""Exit status of all commands."""

COMPLETION = (
    'bash   eval "$(_DIFFUSION_SKLEARN_COMPLETE=bash_source diffusion-sklearn)"',
    'zsh    eval "$(_DIFFUSION_SKLEARN_COMPLETE=zsh_source diffusion-sklearn)"',
    "fish   _DIFFUSION_SKLEARN_COMPLETE=fish_source diffusion-sklearn | source",
)
"""Lines for the start file of a shell, which completes commands and options then."""


class _Formatter(click.HelpFormatter):
    """Help with coloured headings and options, where it goes to a terminal."""

    def write_usage(self, prog, args="", prefix="usage: "):
        super().write_usage(prog, args, click.style(prefix, bold=True))

    def write_heading(self, heading):
        super().write_heading(click.style(heading.lower(), bold=True))

    def write_dl(self, rows, *args, **kwargs):
        rows = [(click.style(name, fg="cyan"), text) for name, text in rows]
        super().write_dl(rows, *args, **kwargs)


class _Context(click.Context):
    formatter_class = _Formatter


class _Command(click.Command):
    """A command; ``--classes`` of "classify" takes all values up to an option."""

    context_class = _Context

    def parse_args(self, ctx, args):
        spread, option = [], None
        for token in args:
            if token.startswith("-"):
                option = token
            elif option == "--classes" and spread[-1] != option:
                spread.append(option)
            spread.append(token)
        return super().parse_args(ctx, spread if self.name == "classify" else args)

    def format_epilog(self, ctx, formatter):
        for heading, lines in self.epilog:
            with formatter.section(heading):
                formatter.write("".join(f"  {line}\n" for line in lines))


class _Group(click.Group):
    context_class, format_epilog = _Context, _Command.format_epilog

    def list_commands(self, ctx):
        return list(self.commands)


class _Parsed(click.ParamType):
    """A value that a function parses; the name of the type says what it is."""

    def __init__(self, name, parse):
        self.name, self.convert_text = name, parse

    def convert(self, value, param, ctx):
        try:
            return self.convert_text(value)
        except ValueError:
            self.fail(f"{value!r} is not {self.name}.", param, ctx)


def use_color():
    """Whether to colour: None, on a terminal alone; False where NO_COLOR is set."""
    return False if os.environ.get("NO_COLOR") else None


def parse(argv):
    """Parse the command line.

    Parameters
    ----------
    argv : list of str

    Returns
    -------
    args : SimpleNamespace
        The options, with the name of the command as ``command``, and as ``fail`` a
        function that raises an error about an argument. Those of :data:`BUDGET` are
        there only if the user set them.

    Raises
    ------
    click.UsageError
        If an argument is not possible.
    """
    help_names = {"help_option_names": ["-h", "--help"]}
    args = COMMANDS.main(
        argv, PROGRAM, standalone_mode=False, color=use_color(), **help_names
    )
    if isinstance(args, int):  # after --help and --version
        raise SystemExit(args)
    return args


def _collect(**options):
    """The options of a command as a namespace."""
    ctx = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    for name in BUDGET.keys() & options.keys():
        if ctx.get_parameter_source(name) is default:
            del options[name]
    return SimpleNamespace(command=ctx.info_name, fail=ctx.fail, **options)


def parse_pruning(text):
    """Parse the option ``--pruning``.

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
    parts = [
        tuple(map(int, part.split(":", 1))) if ":" in part else float(part)
        for part in text.split(",")
    ]
    return parts[0] if isinstance(parts[0], float) and len(parts) == 1 else tuple(parts)


def _bundled_names(ctx, param, incomplete):
    """Complete the name of a bundled model."""
    names = [path.name for path in files("diffusion_sklearn.bundled").iterdir()]
    models = [name for name in names if "." not in name and name[0] != "_"]
    return sorted(name for name in models if name.startswith(incomplete))


def _option(flag, text, type=None, **settings):
    return click.Option([flag], help=text, type=type, **settings)


def _many(flag, text, metavar):
    return _option(flag, text, multiple=True, metavar=metavar)


def _flag(flag, text):
    return _option(flag, text, is_flag=True)


def _file(flag, text, **settings):
    return _option(flag, text, FILE, **settings)


def _command(name, text, examples, *params):
    """Add a command, which runs ``run_name`` of the module ``_name``."""
    command = _Command(name, params=[*params], help=text, callback=_collect)
    command.epilog = [("example", [f"{PROGRAM} {name} {one}" for one in examples])]
    COMMANDS.add_command(command)


FILE = click.Path(path_type=Path)
PRUNING = _Parsed("a confidence, stages or none", parse_pruning)
INT_OR_AUTO = _Parsed("INTEGER|auto", lambda t: t if t == "auto" else int(t))
BUNDLED = {"shell_complete": _bundled_names}

JSON = _flag("--json", "print the result as JSON")
MODEL = _option("--model", "Hub id, folder or bundled name", **BUNDLED)
CLASSES_FILE = _file("--classes-file", "the classes, one a line")
PROMPTS = _file("--prompts", "CSV of prompt, classname and classidx; no template")
TEMPLATE = "text with {} for the class; repeatable: the errors are averaged"
STAGES = "a confidence (default: 0.99), stages such as 25:5,50:2, or none"
SETTINGS = (
    _many("--prompt-template", TEMPLATE, "TEXT"),
    _option("--n-trials", "default: 100", int),
    _option("--pruning", STAGES, PRUNING, metavar="CONFIDENCE|STAGES|none"),
    _option("--loss", "l2 (default), l1, huber, vlb or l2+vlb"),
    _option("--timesteps", "even (default), anytime or random", default="even"),
    _option("--seed", "of the trials (default: 0)", int, default=0),
    _option("--batch-size", "rows a forward pass", INT_OR_AUTO, default="auto"),
    _option("--device", "cpu, cuda, cuda:1, mps, auto", default="auto"),
    _option("--dtype", "float32, bfloat16, float16 or auto", default="auto"),
)
MODEL_OPTIONS = (MODEL, PROMPTS, *SETTINGS)
RUN_OPTIONS = (
    _option("--n-jobs", "processes; -1: all cores", int),
    _file("--memory", "folder that keeps every error computed, for the next run"),
    _flag("--quiet", "no progress bar"),
    _flag("--verbose", "model, device, dtype and batch size"),
)
RESUME = _flag("--resume", "go on with the rows of --output, of the same command")

COMMANDS = _Group(help="Conditional diffusion models as scikit-learn classifiers.")
COMMANDS.epilog = [
    ("exit status", [f"{status:<4} {meaning}" for status, meaning in STATUS.items()]),
    ("completion, in the start file of the shell", COMPLETION),
]
click.version_option(__version__, message="%(version)s")(COMMANDS)

# A command is an entry here and a function run_NAME(args) in the module _NAME.
DEMOS = click.Choice(["fashion-dit", "fashion-scenes"])
PICTURE = "diffusion-sklearn-demo.png"
_command(
    "demo",
    "Classify images that ship; write a picture and a report.",
    ["--model fashion-scenes"],
    _option("--model", "of photos or of captions", DEMOS, default="fashion-dit"),
    _option("--n-images", "at most 1,000 photos or 800 scenes", int, default=100),
    _option("--n-trials", "trials for each class or caption", int),
    _file("--output", "image file; the report is beside it (.html)", default=PICTURE),
    JSON,
)
_command(
    "classify",
    "Classify image files, one row for each.",
    ["photos/ --classes cat dog --output labels.csv"],
    click.Argument(["paths"], metavar="PATH...", nargs=-1, required=True),
    _many("--classes", "the classes", "NAME..."),
    CLASSES_FILE,
    _file("--output", "a .csv, .jsonl or .parquet file; default: CSV, printed"),
    _flag("--json", "print lines of JSON"),
    *MODEL_OPTIONS,
    *RUN_OPTIONS,
    RESUME,
)
DATASET = f"a data set of the paper, with its settings: {', '.join(list_datasets())}"
ON_DISK = "with --dataset: images on disk, a subfolder for each class; default: the Hub"
CLIP = "with --dataset: Hub id, folder or bundled name of a CLIP to compare; repeatable"
STDOUT = {"is_flag": False, "flag_value": "-", "metavar": "[FILE]"}
_command(
    "evaluate",
    "Classify and score a folder with a subfolder for each class.",
    [
        "test_images/ --model fashion-dit --output evaluation",
        "--dataset pets --max-images 500 --baseline openai/clip-vit-large-patch14",
    ],
    click.Argument(["folder"], type=FILE, required=False),
    _option("--dataset", DATASET, click.Choice(list_datasets()), metavar="NAME"),
    _file("--names", "lines of subfolder, tab, name of the class"),
    _file("--output", "folder for scores, rows and report.html", default="evaluation"),
    _file("--dataset-folder", ON_DISK),
    _option("--split", "with --dataset; default: the one that the paper used"),
    _file("--data-home", "with --dataset: where data sets of the Hub are written"),
    _option("--max-images", "with --dataset: size of a random sample", int),
    _many("--baseline", CLIP, "CLIP"),
    _file("--json", "write the result as JSON; without a FILE, print it", **STDOUT),
    *MODEL_OPTIONS,
    *RUN_OPTIONS,
    RESUME,
)
_command(
    "compare",
    "Compare two models on a folder as of evaluate.",
    ["fashion-scenes fashion-clip test_images/ --output comparison.png"],
    click.Argument(["a"], **BUNDLED),
    click.Argument(["b"], **BUNDLED),
    click.Argument(["folder"], type=FILE),
    _file("--output", "image file for the figure"),
    _option("--max-images", "size of a random sample", int),
    JSON,
    *SETTINGS,
    *RUN_OPTIONS,
)
SAMPLE = "images of the run, of which 4 are classified, given names; repeatable"
_command(
    "cost",
    "Estimate evaluations, time and memory of a run.",
    [
        "--classes 100 --images 10000 --model fashion-scenes",
        "--classes-file names.txt --sample photos/ --images 10000",
    ],
    _option("--classes", "number of classes", click.IntRange(2)),
    CLASSES_FILE,
    _option("--images", "number of images", click.IntRange(1), required=True),
    _many("--sample", SAMPLE, "PATH"),
    JSON,
    *MODEL_OPTIONS,
)
_command(
    "app",
    "Open a page in the browser.",
    ["--model fashion-dit"],
    _option("--model", "default: fashion-scenes", **BUNDLED),
    _option("--clip", "CLIP beside it; default: fashion-clip with bundled models"),
    _option("--host", "address to listen on (default: 127.0.0.1)", default="127.0.0.1"),
    _option("--port", "default: 7860", int, default=7860),
)
_command("models", "List the models that need no download.", ["--json"], JSON)
_command(
    "info",
    "Print versions, devices and bundled models.",
    ["--memory errors/"],
    _file("--memory", "print the contents of this memory folder too"),
    JSON,
)
_command(
    "clear-memory",
    "Delete the errors in a memory folder.",
    ["errors/"],
    click.Argument(["memory"], metavar="FOLDER", type=FILE),
    JSON,
)
