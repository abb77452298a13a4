"""The page on GPUs names every test that needs one."""

import re

from benchmarks._common import ROOT


def test_page_names_all_tests():
    tests = (ROOT / "tests" / "gpu" / "test_gpu.py").read_text("utf-8")
    names = re.findall(r"^def (test_\w+)", tests, re.MULTILINE)
    page = (ROOT / "docs" / "reference" / "gpu.rst").read_text("utf-8")
    assert sorted(names) == sorted(re.findall(r"``(test_\w+)``", page))
