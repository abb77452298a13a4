"""The pages in docs: the code of the first one runs, and files they name are there."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(ROOT.glob("docs/*.rst"))
BLOCK = re.compile(r"^\.\. code-block:: python\n((?:   :.*\n)*)((?:\n|   .*\n)+)", re.M)
FOLDERS = "benchmarks|diffusion_sklearn|docs|examples|tests"
NAMED = re.compile(rf"``((?:{FOLDERS})/[\w./-]+)(?=``)")


def test_getting_started(capsys):
    text = (ROOT / "docs/getting_started.rst").read_text("utf-8")
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


def test_pages_name_files():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert len(set(NAMED.findall(text))) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page):
    named = set(NAMED.findall(page.read_text("utf-8")))
    named.discard("diffusion_sklearn/backbones/_name.py")  # a name to be chosen
    assert not [name for name in named if not (ROOT / name).exists()]
