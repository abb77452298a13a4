"""The reports in HTML: complete, and without a reference to anything outside."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from diffusion_sklearn.cli import _report, main
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.metrics import expected_calibration_error
from tests.models import slow


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.cells, self.open = [], [], []
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data

    def texts(self, tag):
        pairs = zip(self.tags, self.cells, strict=True)
        return [text.strip() for (name, _), text in pairs if name == tag]

    def images(self):
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]


def check_self_contained(page):
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:image/png;base64,").startswith("data:")
    assert "url(" not in page.source and "@import" not in page.source
    for uri in page.images():
        data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        Image.open(io.BytesIO(data)).load()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Output folder of an evaluation, some of whose labels are wrong."""
    folder, data = tmp_path_factory.mktemp("set"), load_fashion_photos()
    subfolders = {"bag": "<b>bag", "shirt": "shirt", "t-shirt": "t-shirt & co"}
    for name, subfolder in subfolders.items():
        (folder / subfolder).mkdir()
        for k, image in enumerate(data.images[data.names == name][:8]):
            Image.fromarray(image).save(folder / subfolder / f"{k}.png")
    names = folder / "names.tsv"
    names.write_text("".join(f"{sub}\t{name}\n" for name, sub in subfolders.items()))
    output = tmp_path_factory.mktemp("out") / "evaluation"
    argv = ["evaluate", str(folder), "--model", "fashion-dit", "--n-trials", "8"]
    assert main([*argv, "--quiet", "--output", str(output)]) == 0
    return output


def test_evaluation(evaluated):
    report = json.loads((evaluated / "evaluation.json").read_text())
    lines = (evaluated / "predictions.csv").read_text().splitlines()
    page = Page(evaluated / "report.html")
    check_self_contained(page)
    headings = ["Confusion matrix", "Reliability", "Most certain mistakes"]
    assert page.texts("h2") == headings
    matrix = np.array(report["confusion_matrix"])
    cells = [text for text in page.texts("td") if text.isdigit()]
    assert cells[-9:] == [str(n) for n in matrix.ravel()]
    n_wrong = matrix.sum() - np.trace(matrix)
    assert n_wrong > 0 and len(page.images()) == min(n_wrong, 12)
    wrong = [row.split(",") for row in lines[1:]]
    wrong = [float(row[2]) for row in wrong if row[1] != row[-2]]
    meters = [float(a["value"]) for tag, a in page.tags if tag == "meter"]
    assert meters[::2] == sorted(wrong, reverse=True)[:12]
    low = report["scores"]["acc1"]["low"]
    assert f"interval {low:.2%} to" in page.source
    assert f"{report['evaluations']['mean']:.0f} an image" in page.source
    assert "<b>" not in page.source and "&lt;b&gt;bag" in page.source


def test_evaluation_as_json(evaluated, tmp_path, capsys):
    folder = json.loads((evaluated / "evaluation.json").read_text())["folder"]
    argv = ["evaluate", folder, "--model", "fashion-dit", "--n-trials", "1", "--quiet"]
    argv += ["--output", str(tmp_path / "out")]
    assert main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "evaluation.json").read_text())


def test_calibration_error():
    """That of the metric, whatever the bins that the curve shows."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], 200)
    y = np.array([rng.choice(3, p=p) for p in proba])
    bins = _report.reliability_bins(proba.max(axis=1), proba.argmax(axis=1) == y)
    gaps = [b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins]
    expected = expected_calibration_error(y, proba, n_bins=_report.N_BINS)
    np.testing.assert_allclose(sum(gaps) / 200, expected)
    assert all(b["low"] <= b["accuracy"] <= b["high"] for b in bins)


def test_many_classes(tmp_path):
    """Their most frequent confusions are listed."""
    classes = [f"c{k}" for k in range(40)]
    matrix = 5 * np.eye(40, dtype=int)
    matrix[3, 7], matrix[8, 2] = 4, 9
    row = {"label": "c1", "target": "c1", "probability": 0.5}
    sections = _report.evaluation_sections([row], {}, classes, matrix)
    assert sections[0]["rows"] == [("c8", ("c2", 9)), ("c3", ("c7", 4))]
    _report.write_report(tmp_path / "a.html", "many", [], sections)
    assert Page(tmp_path / "a.html").texts("td") == ["c2", "9", "c7", "4"]


def test_names_that_are_not_utf8(tmp_path):
    _report.write_report(tmp_path / "a.html", "caf\udce9", [], [])
    assert Page(tmp_path / "a.html").texts("h1") == [r"caf\udce9"]


def test_evidence_is_red_where_positive():
    image = np.full((8, 8), 128, np.uint8)
    evidence = np.zeros((8, 8))
    evidence[0, 0], evidence[7, 7] = 1, -1
    drawn = _report.draw_evidence(image, evidence).astype(int)
    assert drawn[0, 0, 0] > drawn[0, 0, 2] and drawn[7, 7, 0] < drawn[7, 7, 2]
    assert (drawn[3, 3] == 128).all()


@pytest.mark.parametrize(
    "model, n", [("fashion-dit", 20), *slow(("fashion-scenes", 60))]
)
def test_demo(model, n, tmp_path, capsys):
    output = tmp_path / "demo.png"
    argv = ["demo", "--model", model, "--n-images", str(n), "--n-trials", "1"]
    assert main([*argv, "--json", "--output", str(output)]) == 0
    result = json.loads(capsys.readouterr().out)
    page = Page(tmp_path / "demo.html")
    assert result["report"] == str(tmp_path / "demo.html")
    check_self_contained(page)
    assert page.texts("h2") == ["Mistakes and their evidence", "All images"]
    n_mistakes = int(re.search(r"(\d+) of \d+\. Red", page.source)[1])
    assert n_mistakes > 0
    assert len(page.images()) == n + 2 * n_mistakes
    if model == "fashion-dit":
        assert n_mistakes == round(n * (1 - result["accuracy"]["value"]))
    assert "network evaluations an image" in page.source
