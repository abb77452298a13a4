"""Write the pages of docs/results from benchmarks/results/*/*.json.

A page is a template ``docs/results/<name>.rst.jinja``. Its variables are the keys of
``<name>.json``; ``table`` and ``pivot`` turn rows into tables. A template without a
JSON file gives no page. Templates and JSON files hold all numbers, no page is edited.
"""

import json
import string
from pathlib import Path

from jinja2 import Environment, StrictUndefined

DOCS = Path(__file__).parent.parent
RESULTS = DOCS.parent / "benchmarks" / "results"


class _Formatter(string.Formatter):
    """str.format that rejects None, and writes a setting with the conversion !t."""

    def convert_field(self, value, conversion):
        if conversion == "t" and value is not None:  # nested tuples, as in a call
            return f"``{_as_tuple(value)}``"
        return super().convert_field(value, None if conversion == "t" else conversion)

    def format_field(self, value, format_spec):
        if value is None:
            raise TypeError("None has no format.")
        return super().format_field(value, format_spec)


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def format_cell(pattern, row):
    """Format a pattern with the values of a row; empty where a value is missing."""
    try:
        return _Formatter().vformat(pattern, (), row)
    except (KeyError, TypeError):
        return ""


def list_table(rows):
    """Rows of text, the first of them the headings, as a list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        for number, value in enumerate(row):
            bullet = "   * - " if number == 0 else "     - "
            lines.append((bullet + value).rstrip())
    return "\n".join(lines)


def table(rows, columns):
    """Rows of a JSON file as a table.

    Parameters
    ----------
    rows : list of dict
        From a JSON file.
    columns : dict
        Heading to format pattern, such as ``{"accuracy": "{accuracy:.1%}"}``. A column
        with no value at all is left out.

    Returns
    -------
    text : str
        reStructuredText.
    """
    cells = {
        heading: [format_cell(pattern, row) for row in rows]
        for heading, pattern in columns.items()
    }
    cells = {heading: values for heading, values in cells.items() if any(values)}
    return list_table([list(cells), *zip(*cells.values(), strict=True)])


def pivot(rows, row, column, pattern):
    """Rows of a JSON file as a table of one key by another.

    Parameters
    ----------
    rows : list of dict
        From a JSON file.
    row, column : str
        Keys whose values name the rows and the columns, in order of appearance.
    pattern : str
        Format pattern of a cell.

    Returns
    -------
    text : str
        reStructuredText.
    """
    headings = list(dict.fromkeys(str(one[column]) for one in rows))
    cells = {}
    for one in rows:
        line = cells.setdefault(str(one[row]), dict.fromkeys(headings, ""))
        line[str(one[column])] = format_cell(pattern, one)
    body = [[name, *line.values()] for name, line in cells.items()]
    return list_table([["", *headings], *body])


def machine_line(result):
    """How a result was measured, as a sentence."""
    machine = result["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    settings = ", ".join(
        f"{key} = {value}" for key, value in result.get("settings", {}).items()
    )
    settings = f" ({settings})" if settings else ""
    return (
        f"Measured with ``{result['command']}``{settings} on {where}, "
        f"torch {machine['torch']}."
    )


def write_pages(docs=DOCS, results=RESULTS):
    """Write a page for each template with a result, and the index.

    Parameters
    ----------
    docs, results : Path
        The folders of the documentation and of the JSON files.

    Returns
    -------
    names : list of str
        Pages that were written.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"table": table, "pivot": pivot}
    files = {path.stem: path for path in sorted(results.glob("*/*.json"))}
    groups = {}
    for name, path in files.items():
        template = docs / "results" / f"{name}.rst.jinja"
        if not template.exists():
            raise FileNotFoundError(f"{path} has no page: write {template}.")
        groups.setdefault(path.parent.name, []).append(name)
        result = json.loads(path.read_text("utf-8"))
        text = environment.from_string(template.read_text("utf-8")).render(
            **result, measured=machine_line(result)
        )
        _write(docs / "results" / f"{name}.rst", text)
    for path in (docs / "results").glob("*.rst"):
        if path.stem not in files and path.stem != "index":
            path.unlink()  # its result is gone
    template = docs / "results" / "index.rst.jinja"
    text = environment.from_string(template.read_text("utf-8")).render(groups=groups)
    _write(docs / "results" / "index.rst", text)
    return list(files)


def _write(path, text):
    """Write a page if it has changed, so that Sphinx reads only those again."""
    text = text.rstrip() + "\n"
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def setup(app):
    """Write the pages before Sphinx looks for sources."""
    app.connect("builder-inited", lambda app: write_pages())
    return {"parallel_read_safe": True}
