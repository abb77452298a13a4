"""Examples run from the shipped files, on little data."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize(
    "script, flags",
    [
        ("examples/plot_cross_validation.py", ["--n-scenes", 40]),
        ("examples/plot_samples.py", ["--steps", 2]),
    ],
)
def test_examples_draw_their_figure(script, flags, monkeypatch, tmp_path, capsys):
    output = tmp_path / "figure.png"
    run(script, monkeypatch, *flags, "--output", output)
    with Image.open(output) as figure:
        assert len(figure.convert("RGB").getcolors(10**6)) > 100
    assert str(output) in capsys.readouterr().out


def test_a_backbone_of_ones_own(monkeypatch, capsys):
    run("examples/plot_own_backbone.py", monkeypatch)
    printed = capsys.readouterr().out
    assert float(printed.split("digits: ")[1].split()[0]) > 0.95
    assert float(printed.split("side: ")[1].split("%")[0]) > 90
