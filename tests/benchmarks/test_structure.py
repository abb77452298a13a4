"""Limits on the structure of the package, and the script that reports them."""

import subprocess
import sys

import pytest

from benchmarks import structure

SOURCE = '''"""Docstring
of two lines."""

import os  # counts

SIZE = 3
"""Of something."""


def f():
    """Docstring."""
    text = """two
    lines"""
    return text
'''


@pytest.fixture(scope="module")
def frames():
    return structure.frames_to_network()


def test_few_frames_from_predict_to_the_network(frames):
    assert len(frames) <= structure.MAX_FRAMES
    assert frames[0].endswith("predict")
    assert frames[-1].endswith("DiTBackbone.forward")


def test_few_modules_at_the_root():
    modules = structure.root_modules()
    assert "__init__.py" in modules
    assert len(modules) <= structure.MAX_ROOT_MODULES


def test_lines_of_code_by_folder():
    assert structure.count_lines(SOURCE) == 6
    sources = {
        "diffusion_sklearn/__init__.py": SOURCE,
        "diffusion_sklearn/a/b.py": SOURCE,
        "diffusion_sklearn/a/c/d.py": SOURCE,
    }
    assert structure.lines_by_folder(sources) == {".": 6, "a": 12}
    here = structure.sources_here()
    assert structure.lines_by_folder(here)["."] < 300


def test_sources_of_a_commit(tmp_path, monkeypatch):
    package = tmp_path / "diffusion_sklearn"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n", "utf-8")
    (package / "data.txt").write_text("no code\n", "utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (package / "a.py").write_text("x = 1\ny = 2\n", "utf-8")
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    assert structure.sources_at("HEAD") == {"diffusion_sklearn/a.py": "x = 1\n"}


@pytest.mark.parametrize("limit", ["MAX_FRAMES", "MAX_ROOT_MODULES", None])
def test_a_broken_limit_is_an_error(limit, frames, monkeypatch, capsys):
    monkeypatch.setattr(structure, "frames_to_network", lambda: frames)
    monkeypatch.setattr(structure, "lint_imports", lambda: (True, "kept"))
    monkeypatch.setattr(sys, "argv", ["structure.py"])
    if limit is not None:
        monkeypatch.setattr(structure, limit, 1)
    with pytest.raises(SystemExit) as stop:
        structure.main()
    assert stop.value.code == (0 if limit is None else 1)
    printed = capsys.readouterr().out
    assert "DiTBackbone.forward" in printed and "__init__.py" in printed
    assert "total" in printed


@pytest.mark.parametrize("code", [0, 1])
def test_verdict_of_import_linter(code, tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.ruff]\n", "utf-8")
    assert structure.lint_imports()[0] is True
    project.write_text("[tool.importlinter]\n", "utf-8")
    tool = tmp_path / "lint-imports"
    tool.write_text(f"#!/bin/sh\necho the verdict\nexit {code}\n", "utf-8")
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert structure.lint_imports() == (code == 0, "the verdict\n")
