"""Tables and JSON on standard output."""

import json
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text


class _Console(Console):
    """Colours on a terminal only, and not with NO_COLOR; else no line is broken."""

    def __init__(self):
        width = None if sys.stdout.isatty() else 10_000
        super().__init__(width=width, highlight=False)

    def on_broken_pipe(self):
        raise  # for main


def print_table(columns, rows):
    """Print a table.

    Parameters
    ----------
    columns : list of str
        Names of the columns. Those of int and float are aligned to the right.
    rows : list of sequence
        A float is shown with 3 significant digits, None as nothing.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        is_number = all(isinstance(value, (int, float)) for value in values)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    _Console().print(table)


def _cell(value):
    if isinstance(value, float):
        return Text(f"{value:.3g}")
    return Text("" if value is None else str(value))


def print_json(value):
    """Print a value as JSON.

    Parameters
    ----------
    value : dict or list
    """
    print(json.dumps(value, indent=1, ensure_ascii=False))


def format_seconds(seconds):
    """Format a duration.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    text : str
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1000:.2g} ms"
