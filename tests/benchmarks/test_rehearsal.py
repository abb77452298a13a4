"""The rehearsal runs at a tiny size, and its real sizes are the published ones."""

import json
import shutil
import sys
from importlib.util import find_spec

import pytest

from benchmarks import _published, rehearsal
from benchmarks._published import CAT, MODELS, count_weights, write_tokenizer
from docs._ext.results import write_pages
from tests.benchmarks.test_benchmarks import RESULTS_PAGES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", MODELS)
def test_published_numbers_of_weights(model, monkeypatch):
    count_weights(model, "real")  # raises
    weights = {**MODELS[model]["weights"], "vae": 84.0}
    monkeypatch.setitem(MODELS[model], "weights", weights)
    with pytest.raises(AssertionError, match=r"vae of .*: 83.65 million weights"):
        count_weights(model, "real")


def test_published_operations():
    """Of DiT-XL/2, 118.64 billion multiplications and additions (Peebles and Xie)."""
    assert rehearsal.teraflops("dit", "real") == pytest.approx(2 * 0.11864, rel=1e-3)


@pytest.mark.skipif(
    find_spec("open_clip") is None,
    reason="needs open_clip: pip install open_clip_torch",
)
def test_vocabulary_is_that_of_clip(tmp_path, monkeypatch):
    write_tokenizer(tmp_path / "right", {"pad_token": "!"}, "real")  # raises
    monkeypatch.setattr(_published, "CAT", CAT[::-1])
    with pytest.raises(AssertionError, match="tokens of 'a photo of a cat'"):
        write_tokenizer(tmp_path / "wrong", {"pad_token": "!"}, "real")


def test_tiny_rehearsal(monkeypatch, tmp_path, capsys):
    """Write, classify, kill, resume and compare; and the page of the result."""
    output = tmp_path / "speed" / "rehearsal.json"
    output.parent.mkdir()
    flags = ["--size", "tiny", "--quick", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", ["rehearsal.py", *flags])
    rehearsal.main()
    rows = json.loads(output.read_text("utf-8"))["rows"]
    assert {row["model"] for row in rows} == {one["name"] for one in MODELS.values()}
    for row in rows:
        assert 0 < row["kept"] < 12 and row["kept"] + row["resumed"] == 12
        assert row["difference"] < 1e-5 < row["classes_apart"]
        assert row["load_peak"] > 0 and row["seconds_per_evaluation"] > 0
    assert "errors differ from the plain loop by" in capsys.readouterr().out

    (tmp_path / "results").mkdir()
    for name in ("rehearsal", "index"):
        template = f"{name}.rst.jinja"
        shutil.copy(RESULTS_PAGES / template, tmp_path / "results" / template)
    write_pages(docs=tmp_path, results=tmp_path)
    page = (tmp_path / "results" / "rehearsal.rst").read_text("utf-8")
    assert "Stable Diffusion XL" in page and "encode photos, GPU" not in page


def test_a_lost_error_is_noticed(monkeypatch, tmp_path):
    """Where the second run finds nothing in memory."""
    run = rehearsal.run_command_line

    def forgetful(arguments):
        shutil.rmtree(arguments[arguments.index("--memory") + 1])
        return run(arguments)

    monkeypatch.setattr(rehearsal, "run_command_line", forgetful)
    flags = ["--size", "tiny", "--quick", "--model", "dit"]
    monkeypatch.setattr(sys, "argv", ["rehearsal.py", *flags])
    with pytest.raises(AssertionError, match="evaluations were kept and 12 done again"):
        rehearsal.main()
