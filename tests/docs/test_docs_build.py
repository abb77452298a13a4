"""The pages in docs: code runs, named files exist, tables are generated."""

import ast
import importlib
import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest

from docs._ext.results import RESULTS, format_cell, pivot, table, write_pages

ROOT = Path(__file__).parents[2]
GUIDE = sorted(ROOT.glob("docs/guide/*.rst"))
TEMPLATES = sorted(ROOT.glob("docs/results/*.jinja"))
PAGES = [
    *ROOT.glob("docs/*.rst"),
    *GUIDE,
    *sorted(ROOT.glob("docs/reference/*.rst")),
    *sorted(ROOT.glob("docs/development/*.rst")),
    *TEMPLATES,
]
BLOCK = re.compile(r"^\.\. code-block:: python\n((?:   :.*\n)*)((?:\n|   .*\n)+)", re.M)
FOLDERS = "benchmarks|diffusion_sklearn|docs|examples|tests"
NAMED = re.compile(rf"``((?:{FOLDERS})/[\w./-]+)(?=``)")
MODULE = re.compile(r"python -m (benchmarks(?:\.\w+)+)")


@pytest.mark.slow
def test_getting_started(capsys):
    text = (ROOT / "docs/guide/getting_started.rst").read_text("utf-8")
    blocks = [code for options, code in BLOCK.findall(text) if not options]
    assert len(blocks) == 3
    namespace = {}
    for code in blocks:
        exec(compile(textwrap.dedent(code), "getting_started.rst", "exec"), namespace)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "['ankle boot' 'pullover' 'trouser']"
    assert float(lines[2]) >= 0.7  # 20 photos, 10 classes
    assert "'loss'" in lines[3]
    assert float(lines[4]) == 1.0


def test_guide_is_short():
    assert sum(len(page.read_text("utf-8").split()) for page in GUIDE) <= 2500


def test_pages_name_files():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert len(set(NAMED.findall(text))) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text("utf-8")
    named = set(NAMED.findall(text))
    named.discard("diffusion_sklearn/backbones/_name.py")  # a name to be chosen
    named |= {f"{name.replace('.', '/')}.py" for name in MODULE.findall(text)}
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_benchmark_has_a_page():
    paths = [*ROOT.glob("benchmarks/*/*.py"), ROOT / "benchmarks" / "rehearsal.py"]
    scripts = {
        f"{path.stem}.rst.jinja" for path in paths if not path.name.startswith("_")
    }
    assert scripts == {path.name for path in TEMPLATES} - {"index.rst.jinja"}


@pytest.fixture
def docs(tmp_path):
    """A folder with the templates alone."""
    (tmp_path / "results").mkdir()
    for path in TEMPLATES:
        shutil.copy(path, tmp_path / "results")
    return tmp_path


def test_results_become_pages(docs):
    names = write_pages(docs=docs)
    assert {"paper", "vs_loop"} <= set(names)
    index = (docs / "results/index.rst").read_text("utf-8")
    for path in RESULTS.glob("*/*.json"):
        result = json.loads(path.read_text("utf-8"))
        page = (docs / f"results/{path.stem}.rst").read_text("utf-8")
        assert f"   {path.stem}\n" in index
        assert ".. list-table::" in page
        assert f"``{result['command']}``" in page
        assert result["machine"]["torch"] in page
        module = f"benchmarks.{path.parent.name}.{path.stem}"
        if path.stem == "rehearsal":  # not of speed alone
            module = "benchmarks.rehearsal"
        assert result["command"].split()[:3] == ["python", "-m", module]


def test_every_number_of_a_table_comes_from_the_file(docs):
    """Values that are changed in the file change in the page."""
    result = json.loads((RESULTS / "speed/vs_loop.json").read_text("utf-8"))
    result["rows"][0]["seconds_per_image"] = 12.3456
    result["machine"]["cpu"] = "A processor"
    results = docs / "json"
    (results / "speed").mkdir(parents=True)
    (results / "speed/vs_loop.json").write_text(json.dumps(result))
    stale = docs / "results/paper.rst"
    stale.write_text("from an earlier build")
    assert write_pages(docs, results) == ["vs_loop"]
    page = (docs / "results/vs_loop.rst").read_text("utf-8")
    assert "     - 12.346\n" in page and "A processor" in page
    assert not stale.exists()


def test_a_result_without_a_template_is_an_error(docs):
    (docs / "json/speed").mkdir(parents=True)
    (docs / "json/speed/new.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"new\.rst\.jinja"):
        write_pages(docs, docs / "json")


def test_cells_and_tables():
    assert format_cell("{a:.1%}", {"a": 0.123}) == "12.3%"
    assert format_cell("{a:.1%}", {"a": None}) == format_cell("{a}", {}) == ""
    setting = {"a": [[25, 5], [100, 1]], "b": 0.5, "c": None}
    assert format_cell("{a!t}", setting) == "``((25, 5), (100, 1))``"
    assert format_cell("{b!t}", setting) == "``0.5``"
    assert format_cell("{c!t}", setting) == ""
    rows = [
        {"x": "a, b", "y": "u.v", "n": 1},
        {"x": "a, b", "y": "w", "n": 2},
        {"x": "c", "y": "w", "n": 3},
    ]
    text = pivot(rows, "x", "y", "{n}")
    cells = [line.split("- ", 1)[-1].strip() for line in text.splitlines()[3:]]
    assert cells == ["* -", "u.v", "w", "a, b", "1", "2", "c", "-", "3"]
    text = table(rows, {"x": "{x}", "nothing": "{z}", "n": "{n}"})
    assert "nothing" not in text and text.count("   * - ") == 4


SCRIPTS = [*ROOT.glob("examples/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_exists(script):
    """Also of scripts that train for hours and are run by no test."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        ours = isinstance(node, ast.ImportFrom) and node.module is not None
        if ours and node.module.startswith("diffusion_sklearn"):
            module = importlib.import_module(node.module)
            for name in node.names:
                getattr(module, name.name)
