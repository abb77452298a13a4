"""The command line, as a user would run it."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.cli import main
from diffusion_sklearn.cli._arguments import parse_pruning
from diffusion_sklearn.datasets import load_fashion_photos, make_fashion_scenes
from diffusion_sklearn.datasets._specs import SPECS
from diffusion_sklearn.metrics import clopper_pearson, winoground_scores

MODEL = ["--model", "fashion-dit", "--n-trials", "8"]
CLASSES = ["bag", "sneaker", "trouser"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder with a subfolder of six photos for each of three classes."""
    folder, data = tmp_path_factory.mktemp("photos"), load_fashion_photos()
    for name in CLASSES:
        (folder / name).mkdir()
        for k, image in enumerate(data.images[data.names == name][:6]):
            Image.fromarray(image).save(folder / name / f"{k}.png")
    return folder


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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


@pytest.mark.slow
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


def test_help_imports_no_heavy_library():
    code = """
import sys
from diffusion_sklearn.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = "torch", "diffusers", "transformers", "sklearn", "scipy", "numpy", "PIL"
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: diffusion-sklearn")
    assert done.stdout.splitlines()[-1] == "[]"


def test_each_file_is_decoded_once(photos, tmp_path, monkeypatch, capsys):
    paths, opened = sorted(photos.rglob("*.png")), []
    open_image = Image.open

    def counting(path, *args, **kwargs):
        opened.append(path)
        return open_image(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", counting)
    flags = [*MODEL, "--classes", *CLASSES, "--quiet"]
    assert main(["classify", str(photos), *flags]) == 0
    assert opened == paths


def test_classify(photos, tmp_path, capsys):
    output = tmp_path / "labels.csv"
    flags = [*MODEL, "--classes", *CLASSES, "--output", str(output)]
    assert main(["classify", str(photos), *flags]) == 0
    rows = read_csv(output)
    paths = sorted(photos.rglob("*.png"))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=8)
    result = clf.fit(classes=CLASSES).denoising_errors(paths)
    proba = np.sort(np.exp(result.log_proba), axis=1)
    assert [row["label"] for row in rows] == clf.predict(paths).tolist()
    values = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(values, proba[:, -1], rtol=1e-4)
    values = [float(row["runner_up_probability"]) for row in rows]
    np.testing.assert_allclose(values, proba[:, -2], rtol=1e-3, atol=1e-30)
    counts = [int(row["evaluations"]) for row in rows]
    assert counts == result.n_evaluations.tolist()
    assert all(row["label"] != row["runner_up"] in CLASSES for row in rows)
    bar = capsys.readouterr().err
    assert "18/18" in bar and re.search(r"[\d,]+ evaluations, [\d,]+ a second", bar)


def test_formats_say_the_same(photos, tmp_path, capsys):
    name = photos.name
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(CLASSES) + "\n\n")
    flags = [*MODEL, "--classes-file", str(classes), "--quiet"]
    some = [str(photos / "bag" / "0.png"), str(photos / "*" / "1.png")]
    tables = []
    for suffix in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"{name}.{suffix}"
        assert main(["classify", *some, *flags, "--output", str(output)]) == 0
        if suffix == "csv":
            table = read_csv(output)
        elif suffix == "jsonl":
            table = [json.loads(line) for line in output.read_text().splitlines()]
        else:
            table = parquet.read_table(output).to_pylist()
        assert [row.pop("error") or None for row in table] == [None] * 4
        tables.append([{k: str(v) for k, v in row.items()} for row in table])
    assert tables[0] == tables[1] == tables[2]
    assert capsys.readouterr().err == ""
    # Without --output: the same on standard output.
    assert main(["classify", *some, *flags]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == (tmp_path / f"{name}.csv").read_text().splitlines()


def test_bad_images_are_skipped_and_told(photos, tmp_path, capsys):
    for name in ("good.png", "bad.png", "empty.jpg"):
        data = (photos / "bag" / "0.png").read_bytes()
        size = {"good.png": len(data), "bad.png": len(data) // 2, "empty.jpg": 0}[name]
        (tmp_path / name).write_bytes(data[:size])
    output = tmp_path / "labels.jsonl"
    flags = [*MODEL, "--classes", "bag", "trouser", "--output", str(output)]
    assert main(["classify", str(tmp_path), *flags]) == 3
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [bool(row["error"]) for row in rows] == [True, True, False]
    assert [row["label"] for row in rows] == [None, None, "bag"]
    printed = capsys.readouterr().err
    assert "2 of 3 images could not be read" in printed
    assert str(tmp_path / "bad.png") in printed and "empty.jpg" in printed


def test_classify_zero_shot(tmp_path, capsys):
    scenes = make_fashion_scenes(4, split="test", n_items=1, random_state=1)
    for k, image in enumerate(scenes.images):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    classes = ["--classes", "red thing, never seen"]
    flags = ["--model", "fashion-scenes", "--n-trials", "5", "--quiet"]
    assert main(["classify", str(tmp_path), *flags, *classes]) == 1
    assert "never" in capsys.readouterr().err
    classes = ["--classes", "bag,dress", "--prompt-template", "a {}"]
    assert main(["classify", str(tmp_path), *flags, *classes]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    "flags, message",
    [
        (["no/such.png"], "PATH='no/such.png' is no file"),
        (["."], "holds no images"),
        ([sys.executable, "--output=a.xyz"], "--output=a.xyz must end in"),
        ([sys.executable, "--output=no/such/a.csv"], "there is no such folder"),
        ([sys.executable, "--loss=l3"], "loss"),
        ([sys.executable, "--classes", sys.executable], "put paths before --classes"),
        ([sys.executable, "--prompt-template={}"], "--prompt-template"),
        ([sys.executable, "--model=no/such"], "model='no/such'"),
    ],
)
def test_errors_name_the_argument(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["classify", *flags[:1], *MODEL, *flags[1:], "--classes", "bag", "trouser"]
    assert main(argv) == 1
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


def test_interruption_says_how_to_go_on(photos, tmp_path, monkeypatch, capsys):
    cls = ConditionalDiffusionClassifier
    denoising_errors, calls = cls.denoising_errors, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return denoising_errors(self, images)

    monkeypatch.setattr("diffusion_sklearn.cli._classify.GROUP_SIZE", 10)
    monkeypatch.setattr(cls, "denoising_errors", interrupted)
    output, memory = tmp_path / "labels.parquet", tmp_path / "kept"
    flags = [*MODEL, "--classes", *CLASSES, "--output", str(output)]
    argv = ["classify", str(photos), *flags, "--memory", str(memory)]
    assert main(argv) == 130
    assert f"kept in {memory}: the same command goes on" in capsys.readouterr().err
    assert parquet.read_table(output).num_rows == 10
    output.unlink()
    assert main(argv) == 0
    rows = parquet.read_table(output).to_pylist()
    assert [row["evaluations"] > 0 for row in rows] == [False] * 10 + [True] * 8
    calls.clear()
    calls.append(0)
    output.unlink()
    assert main(argv[:-2]) == 130
    assert "With --memory DIR, what is computed" in capsys.readouterr().err


def test_evaluate(photos, tmp_path, capsys):
    output = tmp_path / "scores"
    (photos / "bag" / "broken.png").write_bytes(b"no image")
    try:
        status = main(["evaluate", str(photos), *MODEL, "--output", str(output)])
    finally:
        (photos / "bag" / "broken.png").unlink()
    assert status == 3
    report = json.loads((output / "evaluation.json").read_text())
    rows = [row for row in read_csv(output / "predictions.csv") if not row["error"]]
    truth = [row["path"].split("/")[-2] for row in rows]
    labels = [row["label"] for row in rows]
    scores = report["scores"]
    assert scores.keys() == {"acc1", "mean_per_class_recall"}
    assert scores["acc1"]["value"] == accuracy_score(truth, labels)
    recall = scores["mean_per_class_recall"]
    np.testing.assert_allclose(recall["value"], balanced_accuracy_score(truth, labels))
    assert recall["low"] <= recall["value"] <= recall["high"]
    assert np.sum(report["confusion_matrix"]) == report["n_images"] == 18
    assert list(report["skipped"]) == [str(photos / "bag" / "broken.png")]
    # What is written is enough to do it again.
    names = dict(zip(report["classes"], report["names"], strict=True))
    known = {k: v for k, v in report["parameters"].items() if v is not None}
    clf = ConditionalDiffusionClassifier(**known, class_names=list(names.values()))
    clf.fit(classes=list(names))
    paths = [row["path"] for row in rows]
    assert clf.predict(paths).tolist() == labels
    assert report["fingerprint"] == clf.backbone_.fingerprint()
    assert report["versions"]["torch"]
    with Image.open(output / "confusion_matrix.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 50
    printed = capsys.readouterr()
    assert re.search(r"acc1 +[\d.]+%   95 % interval", printed.out)
    assert "1 of 19 images could not be read" in printed.err


def test_without_matplotlib_or_pyarrow(photos, tmp_path, monkeypatch, capsys):
    """The scores come without the figure; a table in Parquet is refused at once."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["evaluate", str(photos), *MODEL, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "evaluation.json").is_file()
    assert not (tmp_path / "confusion_matrix.png").exists()
    error = capsys.readouterr().err
    assert "no confusion_matrix.png" in error
    assert 'pip install "diffusion-sklearn[plot]"' in error
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    output = tmp_path / "labels.parquet"
    argv = ["classify", str(photos), *MODEL, "--classes", "bag", "coat"]
    assert main([*argv, "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert 'pip install "diffusion-sklearn[parquet]", or pass an --output' in error
    assert not output.exists()


def test_evaluate_with_names_and_five_best(tmp_path, capsys):
    data = load_fashion_photos()
    folder, names = tmp_path / "images", tmp_path / "names.tsv"
    for k, name in enumerate(data.target_names):
        (folder / f"n{k}").mkdir(parents=True)
        image = data.images[data.names == name][0]
        Image.fromarray(image).save(folder / f"n{k}" / "a.png")
    lines = [f"n{k}\t{name}\n" for k, name in enumerate(data.target_names)]
    flags = [*MODEL, "--quiet", "--output", str(tmp_path / "out")]
    argv = ["evaluate", str(folder), "--names", str(names), *flags]
    names.write_text("".join(lines[1:]))
    assert main(argv) == 1
    assert "lacks the sub-folders ['n0']" in capsys.readouterr().err
    names.write_text("".join(lines))
    assert main(argv) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["scores"]["acc5"]["value"] >= report["scores"]["acc1"]["value"] > 0.5
    assert main(["evaluate", str(tmp_path / "out"), *flags]) == 1
    assert "has 0 sub-folders" in capsys.readouterr().err


def test_info_and_clear_memory(photos, tmp_path, capsys, caplog):
    memory = str(tmp_path / "kept")
    flags = [*MODEL, "--classes", *CLASSES, "--quiet", "--memory", memory]
    assert main(["classify", str(photos / "bag"), *flags, "--verbose"]) == 0
    assert "fashion-dit on cpu, float32" in caplog.text
    capsys.readouterr()
    assert main(["info", "--memory", memory]) == 0
    printed = capsys.readouterr().out
    assert main(["info", "--memory", str(photos)]) == 1
    assert "has no kept errors" in capsys.readouterr().err
    for line in (r"torch +\d", "device +cpu", "bundled model +fashion-scenes"):
        assert re.search(line, printed)
    n = int(re.search(r"memory n_evaluations +(\d+)", printed)[1])
    assert n >= 6 * 3
    assert main(["clear-memory", memory]) == 0
    assert f"{n} evaluations forgotten" in capsys.readouterr().out
    assert main(["info", "--memory", str(tmp_path / "none")]) == 1


@pytest.mark.parametrize(
    "command", ["demo", "classify", "evaluate", "info", "clear-memory"]
)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  diffusion-sklearn {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, value",
    [
        ("none", None),
        ("0.9", 0.9),
        ("25:5", ((25, 5),)),
        ("25:5,50:2", ((25, 5), (50, 2))),
        ("25:5,0.99", ((25, 5), 0.99)),
    ],
)
def test_parse_pruning(text, value):
    assert parse_pruning(text) == value
    with pytest.raises(ValueError):
        parse_pruning(f"{text},x")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Folder with a subfolder of four scenes for each of three classes."""
    folder = tmp_path_factory.mktemp("scenes")
    data = make_fashion_scenes(200, split="test", n_items=1, random_state=2)
    items = [scene.items[0] for scene in data.scenes]
    for name in CLASSES:
        (folder / name).mkdir()
        some = [k for k, item in enumerate(items) if item == name][:4]
        for k in some:
            Image.fromarray(data.images[k]).save(folder / name / f"{k}.png")
    return folder


def test_evaluate_a_data_set_with_a_baseline(scenes, tmp_path, capsys, monkeypatch):
    """Both on the same images; what is printed is what scikit-learn counts."""
    spec = replace(SPECS["food-101"], labels=(), class_names=())  # any classes
    monkeypatch.setitem(SPECS, "food-101", spec)
    output, table = tmp_path / "out", tmp_path / "table.json"
    flags = ["--model", "fashion-scenes", "--baseline", "fashion-clip", "--quiet"]
    flags += ["--n-trials", "6", "--pruning", "2:2", "--prompt-template", "a {}"]
    flags += ["--dataset-folder", str(scenes), "--output", str(output)]
    flags += ["--memory", str(tmp_path / "kept"), "--json", str(table)]
    (scenes / "bag" / "broken.png").write_bytes(b"no image")
    try:
        assert main(["evaluate", "--dataset", "food-101", *flags]) == 3
    finally:
        (scenes / "bag" / "broken.png").unlink()
    printed = capsys.readouterr()
    report = json.loads(table.read_text())
    ours, clip = report["results"]
    assert ours["evaluations"]["mean"] == 3 * 2 + 2 * 4
    assert report["loss"] == "l2" and report["n_images"] == 12
    assert ours["prompts"] == clip["prompts"] == [[f"a {name}"] for name in CLASSES]
    rows = [row for row in read_csv(output / "predictions.csv") if not row["error"]]
    paths = [row["path"] for row in rows]
    truth = [path.split("/")[-2] for path in paths]
    right = accuracy_score(truth, [row["label"] for row in rows])
    assert ours["scores"]["acc1"]["value"] == right
    plain = CLIPZeroShotClassifier(model="fashion-clip", prompt_template="a {}")
    right = accuracy_score(truth, plain.fit(classes=CLASSES).predict(paths))
    value = clip["scores"]["acc1"]
    assert value["value"] == right
    low, high = clopper_pearson(round(12 * right), 12)
    assert (value["low"], value["high"]) == (low, high)
    assert "12 images, 3 classes (the paper: 101)" in printed.out
    line = (
        rf"fashion-clip +accuracy +{right:.2%} +95 % interval {low:.2%} to {high:.2%}"
    )
    assert re.search(line, printed.out)
    assert "1 of 13 images could not be read" in printed.err
    # Again, from what is kept.
    flags[flags.index(str(output))] = str(tmp_path / "again")
    assert main(["evaluate", "--dataset", "food-101", *flags]) == 0
    again = json.loads(table.read_text())["results"]
    assert again[0]["evaluations"]["mean"] == 0
    assert [r["scores"] for r in again] == [r["scores"] for r in report["results"]]


def test_evaluate_takes_the_schedule_of_the_data_set(sd_folder, tmp_path, capsys):
    """Prompts, stages, trials and loss are the paper's, but for what is typed."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        image = np.full((8, 8), len(name) * 40, np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / name / "a.png")
    argv = ["evaluate", "--dataset", "stl-10", "--model", sd_folder, "--quiet"]
    argv += ["--dataset-folder", str(tmp_path / "images"), "--max-images", "1"]
    first, argv = argv, [*argv, "--output", str(tmp_path / "0")]
    assert main([*first, "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["evaluations"]["mean"] == 3000 and report["n_images"] == 1
    assert report["parameters"]["loss"] == "l1"
    assert report["prompts"][0] == ["a photo of a airplane."]
    assert len(report["classes"]) == 10
    assert main([*argv, "--n-trials", "50"]) == 1
    assert "has a stage after 100 trials" in capsys.readouterr().err
    assert main([*argv, "--n-trials", "3", "--pruning", "none", "--loss", "l2"]) == 0
    report = json.loads((tmp_path / "0" / "evaluation.json").read_text())
    assert report["evaluations"]["mean"] == 30
    assert report["parameters"]["loss"] == "l2"


def test_evaluate_winoground(sd_folder, clip_folder, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    rows = []
    for k in range(4):
        row = {"caption_0": f"cat {k}", "caption_1": f"{k} dog"}
        row["collapsed_tag"] = ["Object", "Both"][k % 2]
        for i in (0, 1):
            row[f"image_{i}"] = f"ex_{k}_img_{i}"
            path = tmp_path / "images" / f"ex_{k}_img_{i}.png"
            Image.fromarray(pixels[2 * k + i]).save(path)
        rows.append(row)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "examples.jsonl").write_text(text)
    argv = ["evaluate", "--dataset", "winoground", "--dataset-folder", str(tmp_path)]
    argv += ["--n-trials", "4", "--quiet", "--output", str(tmp_path / "out")]
    argv += ["--baseline", clip_folder]
    assert main([*argv, "--model", "fashion-dit"]) == 1
    assert "winoground has captions" in capsys.readouterr().err
    assert main([*argv, "--model", sd_folder]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    captions = [[row["caption_0"], row["caption_1"]] for row in rows]
    clf = ZeroShotDiffusionClassifier(model=sd_folder, n_trials=4)
    clip = CLIPZeroShotClassifier(model=clip_folder)
    for model, result in zip((clf, clip), report["results"], strict=True):
        scores = model.score_pairs(pixels.reshape(4, 2, 8, 8, 3), captions)
        expected = winoground_scores(scores, [row["collapsed_tag"] for row in rows])
        assert result["scores"]["text score"]["value"] == expected.text
        both = result["scores"]["text score, Both"]
        assert (both["low"], both["high"]) == expected.tags["Both"].intervals["text"]
    assert re.search(r"text score, Object +[\d.]+%   95 % int", capsys.readouterr().out)


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "one of the arguments FOLDER --dataset is required"),
        (["a", "--dataset", "pets"], "not allowed with"),
        (["--dataset", "cats"], "'cats' is not one of 'food-101'"),
        (["a", "--baseline", "fashion-clip"], "--baseline goes with --dataset"),
        (["a", "--max-images", "3"], "--max-images goes with --dataset"),
        (["--dataset", "pets", "--json", "no/a.json"], "there is no such folder"),
    ],
)
def test_options_of_data_sets(flags, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(["evaluate", *flags])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
