"""Help, completion, colours, JSON, and the commands models, cost and compare."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import scan_cache_dir
from PIL import Image

from diffusion_sklearn import CLIPZeroShotClassifier, ConditionalDiffusionClassifier
from diffusion_sklearn.cli import _cost, _models, main
from diffusion_sklearn.cli._arguments import COMMANDS, COMPLETION, STATUS
from diffusion_sklearn.cli._compare import is_contrastive
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.inspection import compare_classifiers

CLASSES = ["bag", "sneaker", "trouser"]
COST = ["cost", "--json", "--images", "1000", "--model", "fashion-dit"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder with a subfolder of four photos for each of three classes."""
    folder, data = tmp_path_factory.mktemp("photos"), load_fashion_photos()
    for name in CLASSES:
        (folder / name).mkdir()
        for k, image in enumerate(data.images[data.names == name][:4]):
            Image.fromarray(image).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture
def few_passes(monkeypatch):
    """One forward pass is enough for a test."""
    monkeypatch.setattr(_cost, "MAX_PASSES", 1)


def test_help_of_every_command_imports_no_heavy_library():
    code = """
import sys
from diffusion_sklearn.cli import main
from diffusion_sklearn.cli._arguments import COMMANDS
for command in COMMANDS.commands:
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
heavy = "torch", "diffusers", "transformers", "sklearn", "scipy", "numpy", "PIL", "rich"
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("example:\n") == len(COMMANDS.commands) >= 8
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_commands_and_exit_status(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "..." not in printed.partition("commands:")[2]  # no description is cut
    for status, meaning in STATUS.items():
        assert re.search(rf"^  {status} +{re.escape(meaning)}$", printed, re.M)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "argv, message",
    [
        (["evalate"], "Did you mean 'evaluate'? See diffusion-sklearn --help."),
        (["demo", "--modle", "a"], "Did you mean '--model'? See diffusion-sklearn"),
        (["classify"], "Missing argument 'PATH...'"),
        (["classify", "a", "--pruning", "x"], "'x' is not a confidence, stages"),
        (["classify", "a", "--classes", "b", "--classes-file", "c"], "not allowed"),
        (["classify", "a", "--json", "--output", "a.csv"], "--json goes to standard"),
        (["compare", "a", "a", "."], "A=a and B=a are the same"),
        (["compare", "a", "b", ".", "--output", "c.xyz"], "c.xyz must end in one of"),
        (["cost", "--images", "3"], "pass the number of --classes"),
        ([*COST, "--classes", "1"], "'--classes': 1 is not in the range"),
        ([*COST, "--classes", "3", "--sample", "a"], "name the classes"),
    ],
)
def test_invalid_arguments_are_told_in_a_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith("diffusion-sklearn: error: ")
    assert printed.count("\n") == 1 and printed.endswith("--help.\n")


def test_an_error_is_told_in_a_line(monkeypatch, capsys):
    """Those of torch may have several."""

    def fail(args):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("diffusion_sklearn.cli._models.run_models", fail)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "diffusion-sklearn: error: first second\n"


def in_a_terminal(*argv, **environment):
    """What is printed where standard output and standard error are a terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusion_sklearn", *argv],
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    process.wait()
    os.close(theirs)
    with open(ours, "rb") as file:
        return os.read(file.fileno(), 2**16).decode()


@pytest.mark.parametrize("argv", [["demo", "--help"], ["demo", "--seed"]])
def test_colours_on_a_terminal_alone(argv):
    assert "\x1b[" in in_a_terminal(*argv)
    assert "\x1b[" not in in_a_terminal(*argv, NO_COLOR="1")
    command = [sys.executable, "-m", "diffusion_sklearn", *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "\x1b[" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words, expected",
    [
        ("e", ["evaluate"]),
        ("evaluate --base", ["--baseline"]),
        ("classify --model fashion-s", ["fashion-scenes"]),
        ("compare fashion-c", ["fashion-clip"]),
        ("demo --model fashion-d", ["fashion-dit"]),
        ("demo --model _", []),  # no folder of bytecode
    ],
)
def test_completion(words, expected, monkeypatch, capsys):
    monkeypatch.setenv("_DIFFUSION_SKLEARN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"diffusion-sklearn {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.split()
    assert [line.removeprefix("plain,") for line in lines] == expected


def test_values_of_classes_end_at_an_option(photos, capsys):
    path = str(photos / "bag" / "0.png")
    flags = ["--model", "fashion-dit", "--n-trials", "4", "--quiet", "--json"]
    argv = ["classify", path, "--classes", "bag", "trouser", *flags]
    assert main([*argv, "--classes", "sneaker"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["path"] == path and row["label"] == "bag"
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=4)
    proba = clf.fit(classes=CLASSES).predict_proba([path])
    np.testing.assert_allclose(row["probability"], proba.max(), rtol=1e-5)


def test_json_of_info_and_clear_memory(photos, tmp_path, capsys):
    memory = str(tmp_path / "kept")
    flags = ["--model", "fashion-dit", "--n-trials", "4", "--quiet", "--memory", memory]
    argv = ["classify", str(photos / "bag"), "--classes", "bag", "trouser"]
    assert main([*argv, *flags]) == 0
    capsys.readouterr()
    assert main(["info", "--memory", memory, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["versions"]["torch"] and "fashion-dit" in info["models"]
    assert main(["clear-memory", memory, "--json"]) == 0
    cleared = json.loads(capsys.readouterr().out)
    assert cleared == {"n_evaluations": info["memory"]["n_evaluations"]}
    assert cleared["n_evaluations"] >= 8


def test_json_of_demo(tmp_path, capsys):
    output = tmp_path / "demo.png"
    argv = ["demo", "--n-images", "4", "--n-trials", "5", "--json"]
    assert main([*argv, "--output", str(output)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_images"] == 4 and report["picture"] == str(output)
    assert report["evaluations"]["mean"] <= report["evaluations"]["without_pruning"]
    assert 0 <= report["accuracy"]["low"] <= report["accuracy"]["value"] <= 1


def test_models(sd_folder, clip_folder, tmp_path, monkeypatch, capsys):
    """Those that ship, and those in the cache that can be used."""
    commits = {"models--org--sd": "a" * 40, "models--org--clip": "b" * 40}
    for folder, name in ((sd_folder, "sd"), (clip_folder, "clip")):
        repo = tmp_path / f"models--org--{name}"
        commit = commits[repo.name]
        shutil.copytree(folder, repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
    shutil.copytree(
        tmp_path / "models--org--sd" / "snapshots" / ("a" * 40),
        tmp_path / "models--org--sd" / "snapshots" / ("c" * 40),
    )
    for name, file, text in (
        ("models--org--video", "model_index.json", '{"_class_name": "VideoPipeline"}'),
        ("models--org--bert", "config.json", '{"model_type": "bert"}'),
        ("datasets--org--data", "config.json", '{"model_type": "clip"}'),
    ):
        (tmp_path / name / "snapshots" / ("d" * 40)).mkdir(parents=True)
        (tmp_path / name / "snapshots" / ("d" * 40) / file).write_text(text)
    scan = partial(scan_cache_dir, tmp_path)
    monkeypatch.setattr(_models, "scan_cache_dir", scan)
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    cached = {name for name, row in rows.items() if row["from"] == "cache"}
    assert cached == {"org/sd", f"org/sd@{'c' * 40}", "org/clip"}
    assert rows["org/sd"]["kind"] == "text-to-image"
    assert rows["org/sd"]["family"] == "StableDiffusionPipeline"
    folder = tmp_path / "models--org--sd" / "snapshots" / ("a" * 40)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert rows["org/sd"]["bytes"] == size > 0
    assert rows["org/clip"]["kind"] == rows["fashion-clip"]["kind"] == "CLIP"
    assert rows["fashion-dit"]["kind"] == "class-conditional"
    assert rows["fashion-resnet"]["kind"] == "supervised network"
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^fashion-scenes +text-to-image +StableDiff.* MB +bund", printed, re.M
    )


def cost(capsys, *argv):
    assert main([*COST, *argv]) == 0
    return json.loads(capsys.readouterr().out)


def test_cost_without_a_race_is_exact(few_passes, photos, capsys):
    for pruning, expected in (("none", 80), ("3:2,6:1", 3 * 10 + 3 * 2), ("2:4", 44)):
        flags = ["--n-trials", "8", "--pruning", pruning]
        report = cost(capsys, "--classes", "10", *flags, "--batch-size", "7")
        total, measured = report["extrapolated"], report["measured"]
        assert total["evaluations_an_image"] == [expected] * 2
        assert total["evaluations"] == [1000 * expected] * 2
        seconds = expected * measured["seconds_an_evaluation"]
        seconds += measured["seconds_an_encoding"]
        np.testing.assert_allclose(total["seconds"], 1000 * seconds)
        assert report["batch_size"] == 7 and report["dtype"] == "float32"
        stages = None if pruning == "none" else eval(f"({{{pruning}}})")
        stages = stages and tuple(stages.items())
        clf = ConditionalDiffusionClassifier(
            model="fashion-dit", n_trials=8, pruning=stages
        ).fit(classes=load_fashion_photos().target_names)
        path = photos / "bag" / "0.png"
        assert clf.denoising_errors([path]).n_evaluations.tolist() == [expected]
    assert measured["peak_bytes"] > measured["weights_bytes"] > 10**6


def test_cost_of_a_race(few_passes, photos, tmp_path, capsys):
    """Bounds; with a sample, the mean of its images."""
    low, high = cost(capsys, "--classes", "10")["extrapolated"]["evaluations_an_image"]
    assert (low, high) == (10, 1000)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    flags = ["--classes-file", str(tmp_path / "classes.txt"), "--n-trials", "20"]
    report = cost(capsys, *flags, "--sample", str(photos))
    paths = sorted(photos.rglob("*.png"))[:4]
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=20)
    counts = clf.fit(classes=CLASSES).denoising_errors(paths).n_evaluations
    total, measured = report["extrapolated"], report["measured"]
    assert total["evaluations_an_image"] == [counts.mean()] * 2
    assert measured["n_sample"] == 4
    assert total["seconds"] == [1000 * measured["seconds_an_image"]] * 2
    assert main([*COST[:1], *COST[2:], *flags, "--sample", str(photos)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"evaluations an image .* mean of 4 images, measured", printed)
    assert main([*COST, "--classes", "11"]) == 1
    assert "fashion-dit has 10" in capsys.readouterr().err


def test_cost_of_conditions_of_several_tensors(few_passes, sd3_folder, capsys):
    report = cost(capsys, "--classes", "5", "--model", str(sd3_folder))
    assert report["n_classes"] == 5


def test_cost_of_prompts(few_passes, sd_folder, capsys):
    flags = ["--model", sd_folder, "--pruning", "none", "--n-trials", "3"]
    templates = ["--prompt-template", "a {}", "--prompt-template", "one {}"]
    one = cost(capsys, "--classes", "5", *flags)
    two = cost(capsys, "--classes", "5", *flags, *templates)
    assert one["extrapolated"]["evaluations_an_image"] == [15, 15]
    assert two["extrapolated"]["evaluations_an_image"] == [30, 30]


def test_compare(photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "figure.png"
    argv = ["compare", "fashion-dit", "fashion-clip", str(photos)]
    argv += ["--n-trials", "4", "--quiet"]
    (photos / "bag" / "broken.png").write_bytes(b"no image")
    try:
        assert main([*argv, "--json", "--output", str(output)]) == 3
        captured = capsys.readouterr()
        assert main(argv) == 3
    finally:
        (photos / "bag" / "broken.png").unlink()
    assert "1 of 13 images could not be read" in captured.err
    assert "broken.png: is no image" in captured.err
    report, printed = json.loads(captured.out), capsys.readouterr().out
    paths = sorted(photos.rglob("*.png"))
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=4)
    clip = CLIPZeroShotClassifier(model="fashion-clip")
    fitted = {"a": clf.fit(classes=CLASSES), "b": clip.fit(classes=CLASSES)}
    result = compare_classifiers(fitted, paths, [path.parent.name for path in paths])
    assert report["n_images"] == 12
    accuracy = [model["accuracy"]["value"] for model in report["models"]]
    assert accuracy == result.accuracy.tolist()
    difference = report["difference"]
    assert difference["value"] == result.difference[0, 1]
    assert [difference["low"], difference["high"]] == result.interval[0, 1].tolist()
    assert difference["p_value"] == result.p_value[0, 1]
    first, second = result.correct
    assert report["only_a_correct"] == (first & ~second).sum()
    assert f"{result.accuracy[0]:.2%}" in printed and "McNemar's test: p = " in printed
    with Image.open(output) as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 5


def test_compare_without_an_image_that_can_be_read(tmp_path, capsys):
    for name in ("bag", "coat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no image")
    assert main(["compare", "fashion-dit", "fashion-clip", str(tmp_path)]) == 1
    assert "none of its images can be read" in capsys.readouterr().err


def test_a_model_is_diffusion_or_clip(sd_folder, clip_folder, tmp_path, capsys):
    names = ("fashion-dit", "fashion-clip", sd_folder, clip_folder, "open_clip:RN50/x")
    assert [*map(is_contrastive, names)] == [False, True, False, True, True]
    assert main(["compare", "no/such", "fashion-clip", str(tmp_path)]) == 1
    assert "sub-folders" in capsys.readouterr().err


def test_page_of_the_command_line():
    """It lists every exit status and how to complete commands."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "command_line.rst"
    text = page.read_text("utf-8")
    listed = re.findall(r"^   \* - (\d+)\n     - (.*)$", text, re.M)
    assert [int(status) for status, _ in listed] == list(STATUS)
    for line in COMPLETION:
        assert line.partition(" ")[2].strip() in text
