"""Tables of rows in CSV, JSON lines or Parquet, written as the rows come."""

import csv
import json
import os
import sys
from contextlib import contextmanager, nullcontext

from diffusion_sklearn._versions import import_optional

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
PYTHON_TYPES = {"string": str, "double": float, "int64": int}
ROW_GROUP = 64  # rows of Parquet written at a time


def printable(text):
    r"""Text as one line of UTF-8; other bytes of a file name as ``\udce9``.

    Parameters
    ----------
    text : str or Path

    Returns
    -------
    text : str
    """
    text = str(text).encode("utf-8", "backslashreplace").decode()
    return text.replace("\r", "\\r").replace("\n", "\\n")


def problem_of(path, error):
    """What is wrong with an image file, as one line without the path.

    Parameters
    ----------
    path : str or Path
        The file.
    error : ImageError
        Raised when it was read with the index 0.

    Returns
    -------
    text : str
    """
    return printable(str(error).removeprefix(f"X[0] ({path}) "))


def check_writable(path, flag, fail):
    """Fail unless a file can be written.

    Parameters
    ----------
    path : Path
    flag : str
        The option that names it.
    fail : callable
        Takes the message.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        fail(f"{flag}={path}: there is no such folder; make it first.")
    elif path.is_dir():
        fail(f"{flag}={path} is a folder; name a file.")
    elif not os.access(path if path.exists() else folder, os.W_OK):
        fail(f"{flag}={path} can't be written; check its permissions.")


def check_new(path, resume):
    """Raise if a table or report exists and is not to be resumed.

    Parameters
    ----------
    path : Path
    resume : bool

    Raises
    ------
    ValueError
        If it exists and `resume` is False.
    """
    if path.exists() and not resume:
        raise ValueError(
            f"{path} exists and is not overwritten; add --resume to go on where it "
            "ends, delete it, or pass another --output."
        )


def check_output(args):
    """Raise unless rows can be written to ``--output``.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments: `output` and `resume` are used.

    Raises
    ------
    ValueError
        If the suffix is none of :data:`FORMATS`, the file can't be written, or it
        exists and is not to be resumed.
    ImportError
        If pyarrow is needed and missing.
    """
    path = args.output
    if path is None:
        if args.resume:
            raise ValueError("--resume goes on with a table; pass its --output too.")
        return
    if path.suffix not in FORMATS:
        raise ValueError(f"--output={path} must end in one of {', '.join(FORMATS)}.")
    check_writable(path, "--output", _raise)
    check_new(path, args.resume)
    if path.suffix == ".parquet":
        import_optional("pyarrow", "parquet", ", or pass an --output in .csv or .jsonl")


def _raise(message):
    raise ValueError(message)


def read_rows(path, columns=COLUMNS):
    """Read a table; the incomplete last line of a killed run is cut off the file.

    Parameters
    ----------
    path : Path
    columns : dict of str to str
        As :data:`COLUMNS`.

    Returns
    -------
    rows : list of dict
        Empty if there is no such file.

    Raises
    ------
    ValueError
        If the file is no such table.
    """
    if not path.exists():
        return []
    if path.suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    else:
        data = path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        os.truncate(path, len(data))
        # Names of files may have what str.splitlines breaks a line at.
        lines = data.decode().split("\n")[:-1]
        rows = (
            csv.DictReader(lines) if path.suffix == ".csv" else map(json.loads, lines)
        )
        rows = list(rows)
    if any(row.keys() != columns.keys() for row in rows):
        raise ValueError(f"{path} has other columns than {', '.join(columns)}.")
    types = [(name, PYTHON_TYPES[kind]) for name, kind in columns.items()]
    empty = ("", None)
    return [
        {k: None if row[k] in empty else kind(row[k]) for k, kind in types}
        for row in rows
    ]


@contextmanager
def row_writer(path, columns=COLUMNS, rows=(), as_json=False):
    """Write rows one by one; the table is complete also after an interruption.

    Parameters
    ----------
    path : Path or None
        Ends in one of :data:`FORMATS`. None: CSV on standard output.
    columns : dict of str to str
        Names and types.
    rows : list of dict
        Those that the file has.
    as_json : bool, default=False
        Lines of JSON on standard output.

    Yields
    ------
    write : callable
        Takes a row, a dict with the keys `columns`.
    """
    if path is not None and path.suffix == ".parquet":
        with _parquet_writer(path, columns, rows) as write:
            yield write
        return

    def write(row):
        if table is None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            table.writerow(row)
        file.flush()

    output, table = nullcontext(sys.stdout), None
    if path is not None:
        output = path.open("a", newline="", encoding="utf-8", errors="backslashreplace")
    with output as file:
        if not as_json and (path is None or path.suffix == ".csv"):
            table = csv.DictWriter(file, columns, lineterminator="\n")
            if path is None or not file.tell():
                table.writeheader()
        yield write


@contextmanager
def _parquet_writer(path, columns, rows):
    """Write row groups to a file beside `path`, which replaces it at the end."""
    import pyarrow
    from pyarrow import parquet

    types = pyarrow.type_for_alias
    schema = pyarrow.schema((name, types(kind)) for name, kind in columns.items())
    partial, group = path.with_name(f"{path.name}.partial"), list(rows)
    writer = parquet.ParquetWriter(partial, schema)

    def flush():
        if group:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
            group.clear()

    def write(row):
        group.append(row)
        if len(group) >= ROW_GROUP:
            flush()

    try:
        yield write
    finally:
        flush()
        writer.close()
        partial.replace(path)
