"""Kept errors: the same answers, with no evaluation done twice."""

import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ErrorStore,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.engine._cache import ErrorCache
from diffusion_sklearn.engine._store import RECORD
from tests.models import tiny_dit

IMAGES = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def clf(dit_folder, tmp_path):
    return ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=12, pruning=None, memory=tmp_path / "kept"
    )


@pytest.mark.parametrize("pruning", [None, 0.9, ((4, 2),)])
def test_same_answers_and_nothing_twice(clf, pruning):
    clf.set_params(pruning=pruning, classes=["ant", "bee", "cat"])
    plain = clone(clf).set_params(memory=None).fit().denoising_errors(IMAGES)
    for _ in range(2):
        result = clf.fit().denoising_errors(IMAGES)
        np.testing.assert_array_equal(result.errors, plain.errors)
        np.testing.assert_array_equal(result.log_proba, plain.log_proba)


def test_evaluations_are_only_those_that_are_new(clf):
    first = clf.fit(classes=["ant", "bee"]).denoising_errors(IMAGES[:3])
    assert first.n_evaluations.tolist() == [24, 24, 24]
    # One more image, one more class: only their errors are computed.
    both = clf.fit(classes=["ant", "bee", "eel"]).denoising_errors(IMAGES)
    assert both.n_evaluations.tolist() == [12, 12, 12, 36]
    plain = clf.set_params(memory=None).fit(classes=["ant", "bee", "eel"])
    np.testing.assert_allclose(
        both.errors, plain.denoising_errors(IMAGES).errors, rtol=1e-6
    )


def test_budgets_nest_with_anytime_timesteps(clf):
    clf.set_params(timesteps="anytime", n_trials=5, classes=["ant", "bee"])
    assert clf.fit().denoising_errors(IMAGES).n_evaluations.tolist() == [10] * 4
    clf.set_params(n_trials=8)
    assert clf.fit().denoising_errors(IMAGES).n_evaluations.tolist() == [6] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"target": "sample"},
        {"random_state": 1},
        {"dtype": "float64"},
        {"image_size": 16},
        {"timesteps": [3, 500]},
    ],
)
def test_other_settings_are_other_errors(clf, change):
    clf.set_params(classes=["ant", "bee"]).fit().predict(IMAGES[:1])
    result = clf.set_params(**change).fit().denoising_errors(IMAGES[:1])
    assert result.n_evaluations.tolist() == [24]


def test_other_weights_are_other_errors_and_names_do_not_matter(clf):
    clf.set_params(classes=["ant", "bee"]).fit().predict(IMAGES[:1])
    same = clf.set_params(model=tiny_dit()).fit().denoising_errors(IMAGES[:1])
    assert same.n_evaluations.tolist() == [0]
    other = tiny_dit()
    other.transformer.proj_out_2.bias.data += 1e-3
    result = clf.set_params(model=other).fit().denoising_errors(IMAGES[:1])
    assert result.n_evaluations.tolist() == [24]


@pytest.mark.slow
def test_kept_across_processes(clf, dit_folder):
    code = (
        "import sys, numpy as np\n"
        "from diffusion_sklearn import ConditionalDiffusionClassifier\n"
        "images = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3), 'uint8')\n"
        "ConditionalDiffusionClassifier(model=sys.argv[1], n_trials=12, pruning=None,\n"
        "    memory=sys.argv[2]).fit(classes=['ant', 'bee']).predict(images)\n"
    )
    subprocess.run([sys.executable, "-c", code, dit_folder, clf.memory], check=True)
    result = clf.fit(classes=["ant", "bee"]).denoising_errors(IMAGES)
    assert result.n_evaluations.tolist() == [0] * 4


def test_what_was_computed_before_a_failure_is_kept(clf, monkeypatch):
    clf.set_params(batch_size=1, n_trials=2).fit(classes=["ant", "bee"])
    cls = type(clf.backbone_)
    predict, calls = cls.predict_with_variance, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("power cut")
        return predict(self, *args)

    monkeypatch.setattr(cls, "predict_with_variance", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        clf.predict(IMAGES)
    monkeypatch.setattr(cls, "predict_with_variance", predict)
    result = clf.denoising_errors(IMAGES)
    assert result.n_evaluations.tolist() == [0, 2, 4, 4]


def test_prompts_are_the_key_and_an_ensemble_adds_only_new_ones(sd_folder, tmp_path):
    clf = ZeroShotDiffusionClassifier(
        model=sd_folder, n_trials=3, pruning=None, memory=str(tmp_path)
    )
    clf.fit(classes=["a", "b"]).predict(IMAGES[:1])
    clf.set_params(prompt_template=["a photo of a {}.", "{}"])
    result = clf.fit(classes=["a", "b"]).denoising_errors(IMAGES[:1])
    assert result.n_evaluations.tolist() == [6]


def test_changed_weights_and_configs_are_noticed(clf):
    pipeline = tiny_dit()
    clf.set_params(model=load_backbone(pipeline), classes=["ant", "bee"])
    clf.fit().predict(IMAGES[:1])
    assert clf.denoising_errors(IMAGES[:1]).n_evaluations.tolist() == [0]
    pipeline.transformer.proj_out_2.bias.data.mul_(0.5)
    with pytest.raises(ValueError, match=r"after fit \(transformer\); call fit"):
        clf.denoising_errors(IMAGES[:1])
    assert clf.fit().denoising_errors(IMAGES[:1]).n_evaluations.tolist() == [24]
    pipeline.vae.register_to_config(scaling_factor=0.18)
    with pytest.raises(ValueError, match=r"call load_backbone\(backbone.pipeline"):
        clf.denoising_errors(IMAGES[:1])
    clf.set_params(model=load_backbone(pipeline)).fit()
    assert clf.denoising_errors(IMAGES[:1]).n_evaluations.tolist() == [24]


@pytest.fixture
def counted(monkeypatch):
    """Rows of all forward passes, of both ways to call the network."""
    cls, rows = type(load_backbone(tiny_dit())), []

    def count(run):
        def counting(self, noised, *args):
            rows.append(len(noised))
            return run(self, noised, *args)

        return counting

    for name in ("predict", "predict_with_variance"):
        monkeypatch.setattr(cls, name, count(getattr(cls, name)))
    return rows


def test_one_pass_gives_all_losses(clf):
    clf.set_params(classes=["ant", "bee"]).fit().predict(IMAGES)
    for loss in ("l1", "l2", "huber", "vlb", "l2+vlb"):
        clf.set_params(loss=loss)
        result = clf.denoising_errors(IMAGES)
        assert result.n_evaluations.tolist() == [0] * 4
        plain = clone(clf).set_params(memory=None).fit().denoising_errors(IMAGES)
        np.testing.assert_array_equal(result.errors, plain.errors)


def test_a_grid_costs_its_largest_cell_once(clf, counted):
    """Budgets, losses and temperatures, three folds: every evaluation is done once."""
    images = np.random.RandomState(1).randint(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    y = np.array(["ant", "bee"] * 10)
    clf.set_params(timesteps="anytime")
    grid = {"n_trials": [4, 12], "loss": ["l1", "l2"], "temperature": [0.5, 1.0]}

    def search(classifier):
        search = GridSearchCV(classifier, grid, scoring="neg_log_loss", cv=3)
        return search.fit(images, y).cv_results_["mean_test_score"]

    kept = search(clf)
    assert sum(counted) == 20 * 2 * 12
    np.testing.assert_array_equal(search(clf), kept)
    assert sum(counted) == 20 * 2 * 12
    np.testing.assert_allclose(search(clone(clf).set_params(memory=None)), kept)


def test_without_memory_nothing_is_written(clf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clf.set_params(memory=None).fit(classes=["ant", "bee"]).predict(IMAGES)
    assert not any(tmp_path.iterdir())


def test_pairs_are_kept_too(sd_folder, tmp_path):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, n_trials=3, memory=tmp_path)
    scores = clf.score_pairs(IMAGES, ["a cat", "a dog"])
    assert ErrorStore(tmp_path).info()["n_evaluations"] == 4 * 2 * 3
    np.testing.assert_array_equal(clf.score_pairs(IMAGES, ["a cat", "a dog"]), scores)
    np.testing.assert_array_equal(
        clf.score_pairs(IMAGES, ["a dog", "a cat"]), scores[:, ::-1]
    )
    assert ErrorStore(tmp_path).info()["n_evaluations"] == 4 * 2 * 3


KILLED = r"""
import os, signal, sys
import numpy as np, torch
from diffusion_sklearn import Backbone, ConditionalDiffusionClassifier

model, folder = sys.argv[1:]
images = np.random.RandomState(0).randint(0, 256, (100, 8, 8, 3), "uint8")


def run(memory, out, log, order=slice(None), killed_at=None):
    torch.set_num_threads(1)
    predict, passes = Backbone.predict_with_variance, []

    def logged(self, noised, *args):
        passes.append(1)
        if len(passes) == killed_at:  # in the middle of a pass
            os.kill(os.getpid(), signal.SIGKILL)
        with open(log, "a") as file:
            file.write(f"{len(noised)}\n")
        return predict(self, noised, *args)

    Backbone.predict_with_variance = logged
    clf = ConditionalDiffusionClassifier(
        model=model, n_trials=4, pruning=None, memory=memory, batch_size=16
    ).fit(classes=["ant", "bee"])
    np.save(out, clf.predict_proba(images[order])[order])


def fork(*args):
    child = os.fork()
    if child == 0:
        run(*args)
        os._exit(0)
    return child


os.chdir(folder)
for killed_at in (1, 2, 5, 9, 13):
    child = fork("killed", "killed.npy", "killed.log", slice(None), killed_at)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
children = [
    fork("killed", "killed.npy", "killed.log"),
    fork("shared", "one.npy", "shared.log"),
    fork("shared", "two.npy", "shared.log", slice(None, None, -1)),
    fork(None, "plain.npy", "plain.log"),
]
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_killed_and_shared_runs_end_with_the_right_answers(dit_folder, tmp_path):
    """Five times SIGKILL, at counted passes; and two processes on one store at once."""
    subprocess.run([sys.executable, "-c", KILLED, dit_folder, tmp_path], check=True)
    plain = np.load(tmp_path / "plain.npy")
    for name in ("killed", "one", "two"):
        # Of other batches: float32 rounds them otherwise.
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), plain, rtol=1e-3)
    rows = [int(line) for line in (tmp_path / "killed.log").read_text().split()]
    assert sum(rows) == 800  # the pass that was killed never ran, the others are kept
    # Each kept at least what it computed itself; nothing was computed three times.
    for name in ("killed", "shared"):
        info = ErrorStore(tmp_path / name).info()
        assert info["n_images"] == 100
        assert 800 <= info["n_evaluations"] <= 1600


def test_info_and_clear(clf, dit_folder):
    store = ErrorStore(clf.memory)
    empty = {"n_images": 0, "n_evaluations": 0, "models": {}, "max_bytes": float("inf")}
    assert empty.items() <= store.info().items()
    clf.fit(classes=["ant", "bee"]).predict(IMAGES)
    full = store.info()
    assert Path(full["path"]).parent == clf.memory
    assert (full["n_images"], full["n_evaluations"]) == (4, 96)
    assert full["models"] == {str(dit_folder): 96}
    assert full["bytes"] <= sum(p.stat().st_size for p in clf.memory.iterdir())
    store.clear()
    assert empty.items() <= store.info().items()
    assert clf.denoising_errors(IMAGES).n_evaluations.tolist() == [24] * 4


@pytest.mark.slow
def test_a_limit_forgets_what_was_not_asked_for_longest(clf):
    images = np.random.RandomState(2).randint(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    store = ErrorStore(clf.memory, max_bytes=150_000)
    clf.set_params(memory=store, n_trials=100, classes=["ant", "bee"]).fit()
    for image in images:
        clf.predict(image[None])
        assert store.info()["bytes"] <= 150_000
    # The limit stays with the folder.
    assert ErrorStore(store.folder).info()["max_bytes"] == 150_000
    assert clf.denoising_errors(images[-1:]).n_evaluations.tolist() == [0]
    assert clf.denoising_errors(images[:1]).n_evaluations.tolist() == [200]


def test_a_store_is_a_parameter_like_others(clf):
    store = ErrorStore(clf.memory, max_bytes=10**9)
    clf.set_params(memory=store, classes=["ant", "bee"])
    clone(clf).fit().predict(IMAGES)
    result = pickle.loads(pickle.dumps(clf.fit())).denoising_errors(IMAGES)
    assert result.n_evaluations.tolist() == [0] * 4
    assert repr(store) == f"ErrorStore({str(store.folder)!r}, max_bytes=1000000000)"


DAMAGE = {
    "cut short": lambda data: data[: len(data) // 2],
    "cut to a stump": lambda data: data[:50],
    "foreign": lambda data: b"no database at all " * 1000,
    "empty pages": lambda data: data[:4096] + bytes(len(data) - 4096),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_set_aside(clf, kind):
    expected = clf.fit(classes=["ant", "bee"]).predict_proba(IMAGES)
    path = clf.memory / "errors.sqlite"
    for left in ("errors.sqlite-wal", "errors.sqlite-shm"):
        assert not (clf.memory / left).exists()
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.warns(RuntimeWarning, match=r"can't be used .* a new one is begun"):
        result = clf.denoising_errors(IMAGES)
    assert result.n_evaluations.tolist() == [24] * 4
    np.testing.assert_array_equal(np.exp(result.log_proba), expected)
    assert clf.denoising_errors(IMAGES).n_evaluations.tolist() == [0] * 4
    assert len(list(clf.memory.glob("errors.sqlite.unusable-*"))) == 1


def test_a_flipped_bit_is_never_a_number(clf):
    expected = clf.fit(classes=["ant", "bee"]).predict_proba(IMAGES)
    with sqlite3.connect(clf.memory / "errors.sqlite") as connection:
        ((row, data),) = connection.execute("SELECT rowid, records FROM errors LIMIT 1")
        wrong = bytes([data[0], *data[1:20], data[20] ^ 1, *data[21:]])
        connection.execute("UPDATE errors SET records=? WHERE rowid=?", (wrong, row))
    connection.close()
    with pytest.warns(RuntimeWarning, match="damaged entry; it is dropped"):
        result = clf.denoising_errors(IMAGES)
    assert sum(result.n_evaluations) == len(data) // RECORD.itemsize
    np.testing.assert_array_equal(np.exp(result.log_proba), expected)
    assert not clf.denoising_errors(IMAGES).n_evaluations.any()


def test_formats_and_other_programs(clf):
    clf.fit(classes=["ant", "bee"]).predict(IMAGES)
    path = clf.memory / "errors.sqlite"

    def set_pragma(name, value):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA {name} = {value}")
        connection.close()

    set_pragma("user_version", 0)
    with pytest.warns(RuntimeWarning, match="of an older format"):
        assert clf.denoising_errors(IMAGES).n_evaluations.tolist() == [24] * 4
    set_pragma("user_version", 1000)
    with pytest.raises(OSError, match=r"memory=.* newer diffusion_sklearn: update it"):
        clf.predict(IMAGES)
    set_pragma("application_id", 1)
    with pytest.warns(RuntimeWarning, match="belongs to another program"):
        assert clf.denoising_errors(IMAGES).n_evaluations.tolist() == [24] * 4


def test_a_folder_that_can_not_be_written(clf, tmp_path):
    (tmp_path / "file").write_text("here")
    clf.set_params(memory=tmp_path / "file").fit(classes=["ant", "bee"])
    with pytest.raises(OSError, match=r"memory='.*file' can't be used .*pass a folder"):
        clf.predict(IMAGES)


@pytest.mark.parametrize("max_bytes", [0, -1, "1GB", float("nan")])
def test_a_limit_that_is_none(tmp_path, max_bytes):
    with pytest.raises(ValueError, match=f"max_bytes={max_bytes!r} must be a positive"):
        ErrorStore(tmp_path, max_bytes)


def test_damage_in_the_middle_of_a_run(clf, monkeypatch):
    """A new database is begun, and what is computed from then on is right in it."""
    clf.set_params(classes=["bee", "ant"], batch_size=8)
    clf.fit().predict(IMAGES[:1])
    path, expected = clf.memory / "errors.sqlite", clf.predict_proba(IMAGES[:2])
    write, calls = ErrorCache._write, []

    def damaged(self, records, rows):
        calls.append(1)
        if len(calls) == 2:
            path.write_bytes(b"no database at all " * 1000)
            raise sqlite3.DatabaseError("database disk image is malformed")
        write(self, records, rows)

    monkeypatch.setattr(ErrorCache, "_write", damaged)
    clf.set_params(n_trials=20, classes=["ant", "bee", "cat"]).fit()
    with pytest.warns(RuntimeWarning, match="a new one is begun"):
        result = clf.denoising_errors(IMAGES[:2])
    again = clf.denoising_errors(IMAGES[:2])
    assert 0 < again.n_evaluations.sum() < result.n_evaluations.sum()
    np.testing.assert_allclose(again.errors, result.errors, rtol=1e-5)
    clf.set_params(n_trials=12, classes=["ant", "bee"]).fit()
    np.testing.assert_allclose(clf.predict_proba(IMAGES[:2]), expected, rtol=1e-4)


def test_a_full_disk_loses_nothing_of_the_run(clf, monkeypatch):
    expected = clf.fit(classes=["ant", "bee"]).predict_proba(IMAGES)
    clf.set_params(memory=clf.memory / "small")
    connect = sqlite3.connect

    def tiny_disk(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 14")
        return connection

    monkeypatch.setattr(sqlite3, "connect", tiny_disk)
    clf.set_params(n_trials=100).fit(classes=["ant", "bee"])
    with pytest.warns(RuntimeWarning, match="is full.* the run goes on"):
        proba = clf.predict_proba(IMAGES)
    clf.set_params(memory=None)
    np.testing.assert_array_equal(proba, clf.predict_proba(IMAGES))
    assert expected.shape == proba.shape
