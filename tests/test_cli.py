"""The demo, as a user would run it."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from diffusion_sklearn.cli import main


def test_demo(tmp_path, capsys):
    output = tmp_path / "demo.png"
    status = main(
        ["demo", "--n-images", "12", "--n-trials", "20", "--output", str(output)]
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "photo  true        predicted   probability" in printed
    accuracy = float(re.search(r"accuracy +([\d.]+)%", printed)[1])
    assert accuracy >= 50
    assert re.search(r"95 % interval [\d.]+% to [\d.]+%", printed)
    assert re.search(r"[\d.]+ images a second", printed)
    assert re.search(r"\d+ network evaluations an image, of 200", printed)
    with Image.open(output) as picture:
        assert picture.size[0] > 1000 and len(picture.getcolors(10**6)) > 50


def test_demo_of_scenes(tmp_path, capsys):
    """It shows a pair of scenes that CLIP gets wrong and diffusion right."""
    output = tmp_path / "demo.png"
    flags = ["--model", "fashion-scenes", "--n-images", "40", "--n-trials", "10"]
    assert main(["demo", *flags, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    n_shown = int(re.search(r"diffusion right in (\d+) of 20:", printed)[1])
    assert n_shown >= 1
    shown = re.findall(r"^scene \d  (?:a|an) .* (\d\.\d+) +(\d\.\d+)$", printed, re.M)
    assert len(shown) == 2 * min(n_shown, 3)
    for pair in zip(shown[::2], shown[1::2], strict=True):
        assert all(float(ours) > 0.5 for ours, _ in pair)
        assert any(float(clip) <= 0.5 for _, clip in pair)
    scores = dict(re.findall(r"^(diffusion|CLIP|chance) +([\d.]+)%", printed, re.M))
    assert float(scores["diffusion"]) > float(scores["CLIP"])
    with Image.open(output) as picture:
        assert picture.size[0] > 1000 and len(picture.getcolors(10**6)) > 50


@pytest.mark.parametrize(
    "flag",
    [
        "--n-images=0",
        "--n-images=2000",
        "--n-trials=0",
        "--output=no/such/a.png",
        "--output=a.xyz",
    ],
)
def test_bad_flags_are_named(flag, capsys):
    with pytest.raises(SystemExit) as error:
        main(["demo", flag])
    assert error.value.code == 2
    assert flag in capsys.readouterr().err


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "diffusion_sklearn", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.match(r"\d+\.\d+", done.stdout)
