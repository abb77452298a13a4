"""What the page does, without a browser and without Gradio."""

import base64
import csv
import io
import shlex
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffusion_sklearn.app import _functions as page
from diffusion_sklearn.app import _photos, _settings
from diffusion_sklearn.app._templates import templates
from diffusion_sklearn.cli import main

CLASSES = "red bag\nblue bag\ngreen sandal"
SETTINGS = _settings.Settings("fashion-scenes", "fashion-clip", CLASSES, n_trials=10)


def png(color=(225, 45, 45), side=32):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color).save(buffer, "png")
    return buffer.getvalue()


def zip_of(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return [str(path)]


@pytest.fixture(scope="module")
def photo():
    return _photos.example_photos("fashion-scenes")[0][0]


def test_the_race_ends_with_the_prediction(photo):
    *looks, (html, ranking) = page.classify(SETTINGS, [photo])
    clf = SETTINGS.fit()
    result = clf.denoising_errors([photo.square])
    proba, cost = np.exp(result.log_proba[0]), result.n_evaluations[0]
    best, second = proba.argsort()[::-1][:2]
    assert ranking == [clf.classes_[proba.argsort()[::-1]].tolist()]
    assert f"<strong>{clf.classes_[best]}</strong> wins with {proba[best]:.1%}" in html
    assert f"ahead of {clf.classes_[second]} with {proba[second]:.1%}" in html
    assert f"{cost} of 30 evaluations" in html
    assert looks and all(order is None for _, order in looks)
    assert html.count('class="dropped"') == (2 if cost < 30 else 0)


def test_a_class_that_was_dropped_is_grey(photo):
    look = next(SETTINGS.fit()._iter_looks([photo.square]))
    n_done = np.array([[4, 9, 9]])
    racing = page._cards([photo], look, n_done, 30, "no CLIP")
    assert racing.count('class="dropped') == 1
    assert "2 of 3 classes left" in racing


def test_names_are_escaped(photo):
    settings = _settings.Settings("fashion-scenes", None, "<b>red bag\nblue bag")
    with pytest.raises(ValueError, match="<b>red"):  # a word that the model never saw
        next(page.classify(settings, [photo]))
    assert "&lt;b&gt;" in page._bars("t", ["<b>", "c"], np.array([0.4, 0.6]))
    assert "<b>" not in templates.figure(_photos.Photo("<b>.png", photo.square))


def test_errors_are_escaped():
    """Gradio shows them as HTML."""
    reason = 'no gradio (pip install "diffusion-sklearn[app]")'
    gradio = pytest.importorskip("gradio", reason=reason)
    from diffusion_sklearn.app._page import shown

    @shown
    def fail():
        yield page.compare(SETTINGS, None, "a <x> & 'b'", "a <x> & 'b'")

    with pytest.raises(gradio.Error) as error:
        next(fail())
    assert error.value.message.startswith("Both classes are \"a &lt;x&gt; &amp; 'b'\"")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"classes": "red bag"}, "1 classes: type 2 to 50"),
        ({"classes": "red bag\nteapot"}, "teapot"),
        ({"template": "no place"}, "every template needs"),
        ({"n_trials": 10**6}, "1000000 trials: set 1 to 250"),
    ],
)
def test_wrong_settings(photo, changes, message):
    settings = replace(SETTINGS, **changes)
    with pytest.raises(ValueError, match=message):
        next(page.classify(settings, [photo]))


def test_command_and_python_give_the_same(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo.square).save(photo.file)
    proba = SETTINGS.fit().predict_proba([photo.square])[0]
    clip = page._clip_answers(SETTINGS, SETTINGS.fit(), [photo.square])

    command = SETTINGS.command([photo.file], SETTINGS.names)
    program, *words = shlex.split(command)
    assert program == "diffusion-sklearn"
    assert main(words) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    np.testing.assert_allclose(float(row["probability"]), proba.max(), rtol=1e-6)

    code = SETTINGS.code(
        "predict_proba(photos)", photos=[photo.file], classes=SETTINGS.names
    )
    exec(code.replace("print", "results.append"), {"results": (results := [])})
    np.testing.assert_allclose(results, [[proba], clip], rtol=1e-6)


def test_classes_with_commas_go_into_a_file():
    command = SETTINGS.command(["a.png"], ["a bag, red", "a bag, blue"])
    assert command.endswith("--classes-file classes.txt")


def test_captions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pair, captions = _photos.example_pairs()[0]
    settings = _settings.Settings("fashion-scenes", "fashion-clip", n_trials=25)
    html = page.match_captions(settings, pair, captions)
    assert "Diffusion model: right on both" in html
    assert "CLIP: right on" in html
    assert "100 network evaluations" in html
    command = replace(settings, template="{}").command(
        [photo.file for photo in pair], captions, pruning="none"
    )
    for photo in pair:
        Image.fromarray(photo.square).save(photo.file)
    assert main(shlex.split(command)[1:]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    for row, caption in zip(rows, captions, strict=True):
        assert row.split(",")[1] == caption
        assert f"{float(row.split(',')[2]):.1%}" in html
    swapped = page.match_captions(settings, pair, captions[::-1])
    assert "Diffusion model: wrong on both" in swapped
    with pytest.raises(ValueError, match="two images"):
        page.match_captions(settings, [pair[0], None], captions)


def test_folder_with_labels(tmp_path):
    files = {
        f"top/{photo.name}": base64.b64decode(photo.source.partition(",")[2])
        for photo in _photos.example_folder("fashion-scenes")[:4]
    }
    files |= {"top/bag/broken.png": b"none", "top/notes.txt": b"none"}
    photos = _photos.read_folder(zip_of(tmp_path / "a.zip", files), "fashion-scenes")
    assert len(photos) == 5
    settings = replace(SETTINGS, classes="")
    *_, html = page.classify_folder(settings, photos)
    assert "top/bag/broken.png is no image; remove it or convert it" in html
    assert "4 images, 1 that can't be read" in html
    assert "Accuracy" in html and "Confusion matrix" in html
    csv = base64.b64decode(html.partition("text/csv;base64,")[2].split('"')[0])
    assert (
        csv.decode().splitlines()[0]
        == "path,folder,label,probability,evaluations,error"
    )
    assert len(csv.decode().splitlines()) == 6
    other = replace(SETTINGS, classes="red bag\nblue bag")
    *_, html = page.classify_folder(other, photos)
    assert "Accuracy" not in html


@pytest.mark.parametrize(
    "name", ["../up.png", "/etc/up.png", "a/../../up.png", "C:\\a.png"]
)
def test_zip_that_leads_out(tmp_path, name):
    with pytest.raises(ValueError, match="outside of its folder"):
        _photos.read_folder(zip_of(tmp_path / "a.zip", {name: png()}), "fashion-scenes")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_zip_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(_photos, "MAX_BYTES", 2**16)
    one = zip_of(tmp_path / "one.zip", {"a.png": bytes(2**20)})
    with pytest.raises(ValueError, match="unpacks to too much"):
        _photos.read_folder(one, "fashion-scenes")
    monkeypatch.setattr(_photos, "MAX_UNPACKED", 2**17)
    many = {f"{k}.png": bytes(2**15) for k in range(9)}
    with pytest.raises(ValueError, match="unpacks to too much"):
        _photos.read_folder(zip_of(tmp_path / "many.zip", many), "fashion-scenes")
    files = {f"{k}.png": b"" for k in range(_photos.MAX_FILES + 1)}
    with pytest.raises(ValueError, match="201 files"):
        _photos.read_folder(zip_of(tmp_path / "files.zip", files), "fashion-scenes")
    (tmp_path / "none.zip").write_bytes(b"PK none")
    with pytest.raises(ValueError, match="can't be read"):
        _photos.read_folder([str(tmp_path / "none.zip")], "fashion-scenes")


def test_photos_that_cannot_be_read(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"none")
    with pytest.raises(ValueError, match=r"^bad.png is no image"):
        _photos.read_photos([str(bad)], "fashion-scenes")
    with pytest.raises(ValueError, match="9 photos"):
        _photos.read_photos([str(bad)] * 9, "fashion-scenes")


def test_a_class_conditional_model():
    photo, classes = _photos.example_photos("fashion-dit")[0]
    settings = _settings.Settings("fashion-dit", "fashion-clip", classes, n_trials=5)
    *_, (html, ranking) = page.classify(settings, [photo])
    assert len(ranking[0]) == 10 and "of 50 evaluations" in html
    assert "ConditionalDiffusionClassifier(model='fashion-dit'" in settings.code("x")


def test_without_gradio():
    command = (
        "import sys; sys.modules['gradio'] = None; "
        "from diffusion_sklearn.cli import main; sys.exit(main(['app']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('pip install "diffusion-sklearn[app]"')
    assert "Traceback" not in done.stderr
