"""Runs that stop, outputs that can't be written, and names in other encodings."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.cli import _scores, _table, main
from diffusion_sklearn.datasets import get_dataset_spec, load_fashion_photos
from diffusion_sklearn.datasets._specs import SPECS

MODEL = ["--model", "fashion-dit", "--n-trials", "4", "--quiet"]
CLASSES = ["--classes", "bag", "coat"]
CAFE = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def photos(tmp_path):
    """Two folders; in the first a file name that is not UTF-8."""
    images = load_fashion_photos().images
    paths = [f"set/bag/{CAFE}", "set/bag/z.png", "set/coat/a.png", "set/coat/b.png"]
    for k, name in enumerate(paths):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[k]).save(tmp_path / name, "PNG")
    return tmp_path / "set"


def run(*argv, stdout=subprocess.PIPE, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "diffusion_sklearn", *map(str, argv)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def read(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def labels_of(rows):
    return [(Path(row["path"]).name, row["label"]) for row in rows]


class Stops:
    """`denoising_errors` that stops at the second call."""

    def __init__(self, monkeypatch, stop, size=2):
        self.real, self.calls = ConditionalDiffusionClassifier.denoising_errors, []
        self.stop = stop
        monkeypatch.setattr("diffusion_sklearn.cli._classify.GROUP_SIZE", size)
        monkeypatch.setattr(
            ConditionalDiffusionClassifier,
            "denoising_errors",
            lambda clf, images: self(clf, images),
        )

    def __call__(self, clf, images):
        self.calls.append(len(images))
        if len(self.calls) == 2:
            self.stop()
        return self.real(clf, images)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_file_names_that_are_not_utf8(suffix, photos, tmp_path, capsys):
    output = tmp_path / f"rows{suffix}"
    argv = ["classify", str(photos), *CLASSES, *MODEL]
    assert main([*argv, "--output", str(output)]) == 0
    rows = read(output)
    names = [r"caf\udce9.png", "z.png", "a.png", "b.png"]
    assert [name for name, _ in labels_of(rows)] == names
    assert main(argv) == 0
    assert r"caf\udce9.png,bag" in capsys.readouterr().out


def test_evaluate_file_names_that_are_not_utf8(photos, tmp_path, capsys):
    (photos / "coat" / os.fsdecode(b"\xff\n.png")).write_bytes(b"no image")
    output = tmp_path / "ev"
    assert main(["evaluate", str(photos), *MODEL, "--output", str(output)]) == 3
    report = json.loads((output / "evaluation.json").read_text())
    assert report["n_images"] == 4
    (path,) = report["skipped"]
    assert path.endswith(r"\udcff\n.png")
    assert len(read(output / "predictions.csv")) == 5


@pytest.mark.slow  # a process of its own
def test_terminal_that_is_not_utf8(photos):
    path = photos / "bag" / "写真.png"
    (photos / "bag" / "z.png").rename(path)
    done = run("classify", path, *CLASSES, *MODEL, PYTHONIOENCODING="ascii")
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert r"\u5199\u771f.png,coat," in out


@pytest.mark.slow  # a process of its own
def test_head_ends_quietly(photos):
    read_end, write_end = os.pipe()
    process = run("classify", photos, *CLASSES, *MODEL, stdout=write_end)
    os.close(write_end)
    os.close(read_end)  # before the first row
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_lose_no_row(number, suffix, photos, tmp_path, capsys, monkeypatch):
    output = tmp_path / f"rows{suffix}"
    stops = Stops(monkeypatch, lambda: os.kill(os.getpid(), number))
    handler = signal.getsignal(signal.SIGTERM)
    # A shell ignores Ctrl-C in its background jobs, of which the tests may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    argv = ["classify", str(photos), *CLASSES, *MODEL, "--output", str(output)]
    try:
        assert main(argv) == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert f"are in {output}; --resume goes on" in capsys.readouterr().err
    assert len(read(output)) == 2
    assert main(argv) == 1
    assert "exists and is not overwritten; add --resume" in capsys.readouterr().err
    assert len(read(output)) == 2
    stops.calls[:] = [None, None]
    assert main([*argv, "--resume"]) == 0
    assert stops.calls[2:] == [1, 2]  # the first again, then the other two
    rows = labels_of(read(output))
    assert len(rows) == len(set(rows)) == 4
    output.unlink()
    assert main(argv) == 0
    assert labels_of(read(output)) == rows
    assert not list(tmp_path.glob("*.partial"))


def test_resume_after_a_killed_run(photos, tmp_path, capsys):
    """Its last row may be incomplete."""
    argv = ["classify", str(photos), *CLASSES, *MODEL, "--output"]
    for suffix in (".csv", ".jsonl"):
        output = tmp_path / f"rows{suffix}"
        assert main([*argv, str(output)]) == 0
        whole, rows = output.read_bytes(), read(output)
        for cut in (len(whole), len(whole) - 9, whole.find(b"\n") + 1, 1):
            output.write_bytes(whole[:cut])
            assert main([*argv, str(output), "--resume"]) == 0
            assert labels_of(read(output)) == labels_of(rows)
            assert output.read_bytes().count(b"\n") == whole.count(b"\n")
    assert main(["classify", str(photos), *CLASSES, *MODEL, "--resume"]) == 1
    assert "pass its --output too" in capsys.readouterr().err
    other = ["--classes", "shirt", "sneaker", "--output", str(output), "--resume"]
    assert main(["classify", str(photos), *MODEL, *other]) == 1
    assert "has the labels ['bag'" in capsys.readouterr().err
    of_another_model = dict(read(output)[0], probability=0.5)
    output.write_text(json.dumps(of_another_model) + "\n")
    assert main([*argv, str(output), "--resume"]) == 1
    assert "the model or an option has changed" in capsys.readouterr().err
    assert len(read(output)) == 1
    output.write_text('{"path": "a"}\n')
    assert main([*argv, str(output), "--resume"]) == 1
    assert "has other columns than" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_resume_with_breaks_of_lines_in_file_names(suffix, photos, tmp_path):
    """str.splitlines breaks a line at more than a line feed."""
    for k, mark in enumerate("\x0c\x1c\x85\u2028"):
        shutil.copy(photos / "bag" / "z.png", photos / "bag" / f"{k}{mark}.png")
    output = tmp_path / f"rows{suffix}"
    argv = ["classify", str(photos), *CLASSES, *MODEL, "--output", str(output)]
    assert main(argv) == 0
    whole = output.read_bytes()
    assert main([*argv, "--resume"]) == 0
    assert output.read_bytes() == whole


def test_parquet_has_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(_table, "ROW_GROUP", 2)
    row = dict.fromkeys(_table.COLUMNS) | {"label": "bag", "probability": 0.5}
    output = tmp_path / "rows.parquet"
    with _table.row_writer(output) as write:
        for k in range(4):
            write(row | {"path": str(k)})
        assert (tmp_path / "rows.parquet.partial").stat().st_size > 100
        write(row | {"path": "4"})
    assert parquet.ParquetFile(output).num_row_groups == 3
    assert [r["path"] for r in _table.read_rows(output)] == [*"01234"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_output_that_is_a_folder(name, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / name).mkdir()
    argv = ["classify", str(photos), *CLASSES, *MODEL]
    assert main([*argv, "--output", str(tmp_path / name)]) == 1
    assert f"{name} is a folder; name a file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "parquet", "evaluate"])
def test_output_that_cannot_be_opened(kind, photos, tmp_path, monkeypatch, capsys):
    """It is found before the first evaluation."""
    stops = Stops(monkeypatch, lambda: None)
    argv = ["classify", str(photos), *CLASSES, *MODEL, "--output"]
    if kind == "csv":
        output = tmp_path / "rows.csv"
        output.symlink_to(tmp_path / "no" / "rows.csv")
    elif kind == "parquet":
        output = tmp_path / f"{'x' * 240}.parquet"  # too long with .partial
    else:
        output = tmp_path / "file"
        output.touch()
        argv = ["evaluate", str(photos), *MODEL, "--output"]
    assert main([*argv, str(output)]) == 1
    assert not stops.calls
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "classes, message",
    [
        (["bag, coat,"], "classes [3] are empty"),
        (["bag", " ", "coat"], "classes [2] are empty"),
        ([""], "classes [1] are empty"),
        (b"bag\n\ncoat\n", "classes [2] are empty"),
        (b"\xef\xbb\xbf\nbag\ncoat\n", "classes [1] are empty"),
        (b"bag\ncaf\xe9\n", "is not in UTF-8"),
        ("bag\ncoat\n".encode("utf-16"), "is not in UTF-8"),
        ("bag\ncoat\n".encode("utf-16-be"), "is not in UTF-8"),
    ],
)
def test_classes_that_are_no_names(classes, message, photos, tmp_path, capsys):
    option = ["--classes", *classes]
    if isinstance(classes, bytes):
        (tmp_path / "classes.txt").write_bytes(classes)
        option = ["--classes-file", str(tmp_path / "classes.txt")]
    assert main(["classify", str(photos), *MODEL, *option]) == 1
    assert message in capsys.readouterr().err


def test_byte_order_marks_are_stripped(photos, tmp_path, capsys):
    printed = []
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "classes.txt").write_bytes(mark + b"bag\r\ncoat\r\n")
        option = ["--classes-file", str(tmp_path / "classes.txt")]
        assert main(["classify", str(photos), *MODEL, *option]) == 0
        printed.append(capsys.readouterr().out)
        (tmp_path / "names.tsv").write_bytes(mark + b"bag\tbag\ncoat\tcoat\n")
        option = ["--names", str(tmp_path / "names.tsv")]
        option += ["--output", str(tmp_path / f"ev{len(mark)}")]
        assert main(["evaluate", str(photos), *MODEL, *option]) == 0
        capsys.readouterr()
    assert printed[0] == printed[1] and printed[0].count("bag") > 3


@pytest.mark.slow  # a process of its own
def test_warnings_are_told_without_their_code(photos):
    """What a folder holds beside images that can be read."""
    code = """
import sys, warnings
from diffusion_sklearn.cli import _classify, main
real = _classify.images_below
def images_below(folder):
    warnings.warn("1 file can't be read: a.heic", UserWarning)
    return real(folder)
_classify.images_below = images_below
main(sys.argv[1:])
"""
    argv = [sys.executable, "-c", code, "classify", photos, *CLASSES, *MODEL]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stderr == "diffusion-sklearn: 1 file can't be read: a.heic\n"
    assert len(done.stdout.splitlines()) == 5


def test_main_in_a_thread(photos, capsys):
    """Signals are handled in the main thread alone."""
    status = []
    argv = ["classify", str(photos / "bag"), *CLASSES, *MODEL]
    thread = threading.Thread(target=lambda: status.append(main(argv)))
    thread.start()
    thread.join()
    assert status == [0]


def test_resume_of_an_evaluation(photos, tmp_path, capsys, monkeypatch):
    stops = Stops(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    output = tmp_path / "ev"
    argv = ["evaluate", str(photos), *MODEL, "--output", str(output)]
    assert main(argv) == 143
    assert len(read(output / "predictions.csv")) == 2
    assert main(argv) == 1
    assert "exists and is not overwritten; add --resume" in capsys.readouterr().err
    assert main([*argv, "--n-trials", "5", "--resume"]) == 1
    assert "were made with other timesteps, budget" in capsys.readouterr().err
    stops.calls[:] = [None, None]
    assert main([*argv, "--resume"]) == 0
    assert stops.calls[2:] == [2]
    report = json.loads((output / "evaluation.json").read_text())
    assert main([*argv[:-1], str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    for name in ("scores", "n_images", "confusion_matrix", "evaluations", "skipped"):
        assert report[name] == whole[name]


def test_resume_of_an_evaluation_under_another_name(
    photos, tmp_path, capsys, monkeypatch
):
    """Its images would be counted twice."""
    monkeypatch.chdir(tmp_path)
    argv = [*MODEL, "--output", "ev", "--resume"]
    assert main(["evaluate", "set", *argv]) == 0
    whole = Path("ev/predictions.csv").read_bytes()
    assert main(["evaluate", str(photos), *argv]) == 1
    assert "has 4 files that are none of the images" in capsys.readouterr().err
    assert Path("ev/predictions.csv").read_bytes() == whole
    Path("set/coat/new.png").write_bytes(Path("set/coat/a.png").read_bytes())
    assert main(["evaluate", "set", *argv]) == 0
    assert json.loads(Path("ev/evaluation.json").read_text())["n_images"] == 5


def test_results_of_another_evaluation_are_no_class(photos, monkeypatch):
    monkeypatch.chdir(photos)
    for output in ("one", "two"):
        assert main(["evaluate", ".", *MODEL, "--output", output]) == 0
    for output in ("one", "two"):
        report = json.loads(Path(output, "evaluation.json").read_text())
        assert report["classes"] == ["bag", "coat"] and report["n_images"] == 4


def test_rank_is_the_place_of_the_true_class(photos, tmp_path, capsys):
    for name in ("dress", "shirt", "sandal", "sneaker"):  # without images
        (photos / name).mkdir()
    output = tmp_path / "ev"
    assert main(["evaluate", str(photos), *MODEL, "--output", str(output)]) == 0
    rows = read(output / "predictions.csv")
    classes = sorted(path.name for path in photos.iterdir())
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=4)
    paths = sorted(photos.rglob("*.png"))
    proba = clf.fit(classes=classes).predict_log_proba(paths)
    order = np.argsort(-proba, axis=1, kind="stable")
    ranks = [
        order[k].tolist().index(classes.index(path.parent.name))
        for k, path in enumerate(paths)
    ]
    assert [int(row["rank"]) for row in rows] == ranks
    scores = json.loads((output / "evaluation.json").read_text())["scores"]
    assert scores["acc5"]["value"] == np.mean(np.array(ranks) < 5)
    assert scores["acc1"]["value"] == np.mean(np.array(ranks) == 0)


def test_classes_of_several_model_classes(photos, tmp_path, capsys, monkeypatch):
    """As ObjectNet's of ImageNet's; the likeliest member counts, as in the paper."""
    spec = get_dataset_spec("mnist")
    labels = {"labels": ("bag", "coat"), "class_names": ("a bag", "upper body")}
    ids = ((8,), (4, 2, 6))  # coat, pullover, shirt
    spec = type(spec)(name="mine", class_ids=ids, n_classes=2, **labels)
    monkeypatch.setitem(SPECS, "mnist", spec)
    argv = ["evaluate", "--dataset", "mnist", "--dataset-folder", str(photos)]
    argv += [*MODEL, "--pruning", "none", "--output", str(tmp_path / "ev")]
    assert main(argv) == 1
    assert "needs a model of ImageNet's 1,000 classes" in capsys.readouterr().err
    check = "diffusion_sklearn.cli._evaluate.check_imagenet"
    monkeypatch.setattr(check, lambda *_: None)
    assert main(argv) == 0
    rows = read(tmp_path / "ev" / "predictions.csv")
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=4, pruning=None)
    paths = sorted(photos.rglob("*.png"))
    proba = clf.fit(classes=[2, 4, 6, 8]).predict_proba(paths)
    best = np.stack([proba[:, 3], proba[:, :3].max(axis=1)], axis=1)
    best /= best.sum(axis=1, keepdims=True)
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, best.max(axis=1), rtol=1e-4)
    names = np.array(["bag", "coat"])[best.argmax(axis=1)]
    assert [row["label"] for row in rows] == names.tolist()


def test_two_classes_of_one_name():
    """As "missile" and "sunglasses" of ImageNet: the first wins, as in the paper."""
    from diffusion_sklearn.cli._classify import combine

    members = [np.array([0]), np.array([1]), np.array([0])]
    log_proba = combine(np.log([[0.75, 0.25]]), members)
    np.testing.assert_allclose(np.exp(log_proba), [[3 / 7, 1 / 7, 3 / 7]])
    assert log_proba.argmax() == 0
    assert _scores.score(*map(np.array, (["a"], ["a"], [0], ["a", "b"])))[0]
