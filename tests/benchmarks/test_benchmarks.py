"""The benchmarks run, and compare equal things."""

import json
import shutil
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.base import clone

from benchmarks import _common, _families
from benchmarks._common import make_task
from benchmarks.accuracy import (
    _replay,
    _tables,
    accuracy_vs_cost,
    compositional,
    defaults,
    few_shot,
    objectives,
    race,
    robustness,
    weights_from_few,
)
from benchmarks.accuracy import paper as paper_benchmark
from benchmarks.accuracy._shifts import SHIFTS, shift
from benchmarks.accuracy.paper import NETWORKS, to_patches
from benchmarks.speed import (
    families,
    gpu,
    growth,
    many_classes,
    overhead,
    parts,
    scaling,
    vs_loop,
    vs_revision,
)
from benchmarks.speed.growth import different_scenes
from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.datasets import (
    load_fashion_photos,
    load_fashion_winoground,
    make_fashion_scenes,
)
from diffusion_sklearn.engine import _errors
from diffusion_sklearn.engine._trials import Trials
from diffusion_sklearn.metrics import winoground_scores
from docs._ext.results import write_pages

pytestmark = pytest.mark.slow

RESULTS_PAGES = _common.ROOT / "docs" / "results"


@pytest.mark.parametrize("model", ["fashion-dit", "fashion-scenes"])
def test_the_plain_loop_gives_the_same_labels(model, monkeypatch):
    monkeypatch.setattr(vs_loop, "PETS", ((5, 4), (20, 1)))
    how = {"n_trials": 20, "pruning": vs_loop.PETS, "target": "epsilon"}
    clf, images, _ = make_task(model, 4, **how)
    labels = clf.classes_[vs_loop.paper_loop(clf, images)]
    result = clf.denoising_errors(images)
    np.testing.assert_array_equal(labels, clf.classes_[result.log_proba.argmax(1)])
    assert (result.n_evaluations == 5 * 10 + 15 * 4).all()


@pytest.fixture(scope="module")
def errors_and_classifier():
    """A table of 25 trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy_vs_cost, "N_TRIALS", 25)
        errors, _, clf = accuracy_vs_cost.table("fashion-dit", 10, 5, 0)
    return errors, clf


@pytest.mark.parametrize(
    "family, pruning",
    [
        ("race by a test", None),
        ("race by a test", 0.9),
        ("staged", ((5, 4), (20, 1))),
        ("race by a test on top of stages", ((6, 3), 0.9)),
        ("race by prediction", 0.9),
    ],
)
def test_replaying_a_table_is_what_the_engine_does(
    family, pruning, errors_and_classifier, monkeypatch
):
    monkeypatch.setattr(accuracy_vs_cost, "N_TRIALS", 25)
    errors, of_table = errors_and_classifier
    covariance = "auto" if family == "race by prediction" else None
    how = {"n_trials": 25, "pruning": pruning, "trial_covariance": covariance}
    clf, images, _ = make_task("fashion-dit", 5, first=10, **how)
    result = clf.denoising_errors(images)
    choice, cost = accuracy_vs_cost.replay(family, pruning, errors, of_table)
    np.testing.assert_array_equal(choice, result.log_proba.argmax(axis=1))
    np.testing.assert_array_equal(cost, result.n_evaluations)
    done = ~np.isnan(result.errors)
    weighted = result.errors * fitted_plan(clf).weights
    np.testing.assert_allclose(
        errors[:, :10][done], weighted[done], rtol=1e-4, atol=1e-6
    )


def test_accuracy_vs_cost_benchmark(monkeypatch, capsys, tmp_path):
    files = "--json", str(tmp_path / "c.json"), "--figure", str(tmp_path / "c.png")
    flags = ["--n-images", "1", "--only", "fashion-dit", *files]
    monkeypatch.setattr(sys, "argv", ["accuracy_vs_cost.py", *flags])
    accuracy_vs_cost.main()
    study = json.loads((tmp_path / "c.json").read_text("utf-8"))["rows"]["fashion-dit"]
    rows = {row["family"]: row for row in study["table"]}
    full = rows["full budget"]
    assert (full["evaluations"], full["n_differ"], full["gain"]) == (1000, 0, 0)
    assert rows["the paper's stages for Pets"]["evaluations"] == 25 * 10 + 75 * 5
    assert 40 <= rows["race by a test (0.99)"]["evaluations"] <= 400
    assert 20 <= rows["the default"]["evaluations"] <= 400
    costs = {
        name: len({one["evaluations"] for one in curve})
        for name, curve in study["curves"].items()
    }
    assert costs["staged"] == costs["successive halving"] == 8
    assert costs["opposite noise"] > 5
    assert "of full budget" in capsys.readouterr().out


def test_what_a_cheap_setting_may_lose():
    """The cheapest that keeps accuracy and agreement, on tables made by hand."""
    clf = accuracy_vs_cost.make_task("fashion-dit", 1)[0]
    truth = np.zeros(20, int)
    errors = np.ones((20, 11, 100))
    errors[:, 0] = 0.9  # right, at every trial,
    few = ((2 * np.arange(5) + 1) * 100) // 10  # but for the five of a small budget
    errors[:10, 0, few] = 2.0
    others = np.ones((20, 11, 100))
    others[:, 0] = 0.9
    tables = (errors, truth, clf), (others, truth, clf)
    assert accuracy_vs_cost.choose("fewer trials", [5, 100], tables) == 100
    assert accuracy_vs_cost.choose("fewer trials", [5], tables) is None
    # As accurate, but without agreement with the second table.
    unsure = np.where(np.arange(20) < 10, 1, 0)
    tables = (errors, unsure, clf), (others, unsure, clf)
    assert accuracy_vs_cost.choose("fewer trials", [5], tables) is None
    errors[:10, 0, few] = 0.9
    assert accuracy_vs_cost.choose("fewer trials", [5, 100], tables) == 5


def test_opposite_noise():
    """Of the second trial of each pair; the timesteps of both are the same."""
    trials = accuracy_vs_cost.PairedTrials(np.array([3, 3, 7, 7]), seed=1)
    noise = trials.noise((4, 2, 2))
    np.testing.assert_array_equal(noise[1::2], -noise[::2])
    plain = Trials(trials.timesteps, seed=1).noise((4, 2, 2))
    np.testing.assert_array_equal(noise[::2], plain[::2])


def test_vs_loop_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(vs_loop, "PETS", ((5, 4), (20, 1)))
    rows = vs_loop.compare("fashion-dit", 1, 2, 3, None)
    assert [row["how"] for row in rows] == ["plain loop", "the same stages", "default"]
    assert rows[1]["same_labels"] == 1 and rows[1]["evaluations"] == 110
    assert rows[2]["gain"] == rows[2]["accuracy"] - rows[1]["accuracy"]
    vs_loop.print_row(rows[2])
    assert "+-" in capsys.readouterr().out


def test_overhead_benchmark(monkeypatch):
    monkeypatch.setattr(overhead, "BATCHES", (64,))
    rows = overhead.compare("fashion-dit", 1, 1)
    assert [row["against"] for row in rows] == list(overhead.KINDS)


def test_growth_benchmark():
    rows = list(growth.of_classes(2, [2]))
    assert rows[1]["evaluations"] == 200 and rows[0]["evaluations"] < 200
    few = list(growth.of_images_at_once(2, [1]))
    assert [row["images_in_a_call"] for row in few] == [1, 1]
    assert growth.measure_memory(20, n_before=10)["mib_more"] < 100


def test_parts_benchmark(monkeypatch):
    for name in ("fast_kernels", "kept_memory"):  # to be put back
        monkeypatch.setattr(_errors, name, getattr(_errors, name))
    for how in reversed(parts.PARTS):  # the plain network last: it patches
        assert parts.measure("fashion-dit", how, 1) > 0
    assert type(_errors.fast_kernels(None)).__name__ == "nullcontext"


def test_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(_common, "module_of", lambda file: "json.tool")
    monkeypatch.setattr(subprocess, "run", run := Mock())
    run.return_value.stdout = "[1]"
    assert _common.run_in_process("a.py", "--b") == [1]
    (command,), options = run.call_args
    assert command == [sys.executable, "-m", "json.tool", "--b"]
    assert options["check"] and options["cwd"] == _common.ROOT


def test_comparison_with_a_revision(monkeypatch, tmp_path):
    """Ratios of each pair of runs, and a page that shows them."""
    old = tmp_path / "old"
    numbers = iter(
        [(2.0, 100), (1.0, 90), (4.0, 100), (1.0, 110), (2.0, 100), (2.0, 100)]
    )

    def run(checkout, task, n_images):
        assert checkout == (old if run.turn % 2 == 0 else vs_revision.ROOT)
        run.turn += 1
        seconds, peak = next(numbers)
        return {"wall": seconds, "cpu": seconds, "peak": peak, "labels": ["a", "b"]}

    run.turn = 0
    monkeypatch.setattr(vs_revision, "run", run)
    row = vs_revision.compare("fashion-dit", old, 2, 3)
    assert row["wall_ratio"] == 0.5 and row["wall_ratio_range"] == [0.25, 1]
    assert row["peak_ratio"] == 1 and row["same_labels"] == 1

    monkeypatch.setattr(sys, "argv", ["vs_revision.py"])
    args = _common.make_parser("").parse_args(
        ["--json", str(tmp_path / "speed" / "vs_revision.json")]
    )
    (tmp_path / "speed").mkdir()
    (tmp_path / "results").mkdir()
    _common.write(vs_revision.__file__, args, [row], revision="abc", n_rounds=3)
    for name in ("vs_revision", "index"):
        template = f"{name}.rst.jinja"
        shutil.copy(RESULTS_PAGES / template, tmp_path / "results" / template)
    write_pages(docs=tmp_path, results=tmp_path)
    page = (tmp_path / "results" / "vs_revision.rst").read_text("utf-8")
    assert "0.50 (0.25 to 1.00)" in page and "``abc``" in page


def test_run_of_a_checkout():
    """The script that both versions run."""
    result = vs_revision.run(vs_revision.ROOT, "fashion-dit, one by one", 2)
    assert len(result["labels"]) == 2
    assert min(result["wall"], result["cpu"], result["peak"]) > 0


def test_tiny_networks_of_the_gpu_benchmark(monkeypatch, capsys, tmp_path):
    flags = ["--size", "tiny", "--quick", "--device", "cpu", "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *flags, "--json", str(tmp_path / "g")])
    gpu.main()
    assert "U-Net" in capsys.readouterr().out
    assert (tmp_path / "g").exists()


PUBLISHED = {  # billions of weights of each network
    "Stable Diffusion 1.x, 2.x": 0.866,
    "Stable Diffusion XL": 2.57,
    "Stable Diffusion 3, 3.5": 2.03,
    "Flux": 11.9,
    "PixArt-Sigma": 0.611,
    "Sana": 0.592,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_real_size_have_the_published_number_of_weights(name, monkeypatch):
    monkeypatch.setattr(_families, "device_of_real_size", lambda: "meta")
    pipeline = _families.FAMILIES[name]("real")
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    n_weights = sum(p.numel() for p in network.parameters()) / 1e9
    assert n_weights == pytest.approx(PUBLISHED[name], rel=0.01)


def test_families_benchmark(monkeypatch, capsys, tmp_path):
    flags = ["--only", "DiT", "--rows", "2", "--json", str(tmp_path / "f.json")]
    monkeypatch.setattr(sys, "argv", ["families.py", *flags])
    families.main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("DiT")
    assert (tmp_path / "f.json").exists()


def test_objectives_benchmark():
    rows = objectives.study(10, 5)
    names = [row["objective"] for row in rows]
    assert names[:5] == list(objectives.LOSSES)
    assert len(set(names)) == 5 + 6 + 2 + len(objectives.SCALES)
    clf, images, truth = make_task("fashion-dit", 10, n_trials=5, pruning=None)
    for loss, row in zip(objectives.LOSSES, rows[:5], strict=True):
        assert row["accuracy"] == clf.set_params(loss=loss).score(images, truth)


def test_weightings_of_the_objectives_benchmark_are_those_of_the_estimators():
    """The squared errors, weighted, are those of `target` and of a name."""
    clf, images, truth = make_task("fashion-dit", 3, n_trials=5, pruning=None)
    squared = clf.denoising_errors(images).errors.astype(float)
    given = objectives.weightings(clf.backbone_)
    for name, target, weights in (
        ("error of the velocity", "velocity", None),
        ("error of the sample", "sample", None),
        ("exp(-7 t / T) on the sample", "sample", "exponential"),
        ("SNR, at most 5, on the sample", "sample", "min-snr"),
        ("SNR on the noise", "epsilon", "snr"),
        ("variational bound (ELBO)", "velocity", "elbo"),
    ):
        other = clone(clf).set_params(target=target, timestep_weights=weights)
        other.fit(classes=clf.classes_)
        row = objectives.measure(
            name, squared * given[name][clf.trials_.timesteps], truth, clf
        )
        proba = other.predict_proba(images)
        right = (other.classes_[proba.argmax(axis=1)] == truth).mean()
        assert row["accuracy"] == right
        expected = objectives.expected_calibration_error(
            truth, proba, classes=clf.classes_
        )
        assert row["calibration_error"] == pytest.approx(expected, abs=1e-2)


def test_captions_of_the_growth_benchmark_differ():
    assert len({scene.caption for scene in different_scenes(100)}) == 100


def test_many_classes_benchmark(monkeypatch, capsys, tmp_path):
    flags = ["--quick", "--json", str(tmp_path / "m.json")]
    monkeypatch.setattr(sys, "argv", ["many_classes.py", *flags])
    many_classes.main()
    rows = json.loads((tmp_path / "m.json").read_text("utf-8"))["rows"]
    assert [row["prefilter"] for row in rows] == [None, "gradient"] * 2
    assert rows[0]["evaluations"] == rows[1]["evaluations"]  # 10 classes: all of them
    assert rows[3]["evaluations"] > 48 + 20 and 0 <= rows[3]["lost"] <= 1
    assert capsys.readouterr().out.endswith("100,000 evaluations.\n")


def test_captions_of_the_many_classes_benchmark():
    few, more = many_classes.scenes_of(10), many_classes.scenes_of(1000)
    assert more[:10] == few and len(more) == 1000
    assert len({frozenset((s, s.mirrored)) for s in more}) == 1000
    every = many_classes.scenes_of(many_classes.N_ALL)
    assert len({scene.caption for scene in every}) == 14_400
    assert set(more) <= set(every)


def test_scaling_benchmark(monkeypatch, capsys, tmp_path):
    flags = ["--n-images", "4", "--backends", "loky", "--json", str(tmp_path / "s")]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *flags])
    monkeypatch.setattr(scaling.torch, "set_num_threads", lambda n: None)
    scaling.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-4] for line in printed[-2:]] == ["1", "2"]


def test_shifted_photos_are_other_photos_and_always_the_same():
    images = load_fashion_photos().images[:5]
    for name in SHIFTS:
        shifted = shift(images, name)
        assert shifted.shape == images.shape and shifted.dtype == np.uint8
        assert np.abs(shifted.astype(int) - images).mean() > 3
        np.testing.assert_array_equal(shifted, shift(images, name))
    pale = shift(images, "contrast").astype(float)
    spread = pale.std(axis=(1, 2)) / images.std(axis=(1, 2))
    np.testing.assert_allclose(spread, 0.6, atol=0.01)


@pytest.fixture
def paper(monkeypatch, tmp_path):
    """The benchmark, very small, with the photos that ship as training photos."""

    size = {"n_images": 30, "n_examples": 4, "n_trials": 5, "n_drawn": 2}
    size |= {"n_scaled": 3, "budgets": [1, 2], "n_labelled": 100}
    monkeypatch.setattr(paper_benchmark, "QUICK", size)
    columns = {k: paper_benchmark.COLUMNS[k] for k in ("items, new pairs", "captions")}
    monkeypatch.setattr(paper_benchmark, "COLUMNS", columns)
    monkeypatch.setattr(paper_benchmark, "OBJECTIVES", ("l2", "vlb"))
    shifts = {name: SHIFTS[name] for name in ("blur", "contrast")}
    monkeypatch.setattr(paper_benchmark, "SHIFTS", shifts)
    monkeypatch.setattr(paper_benchmark, "TIMESTEPS", [0, 500])
    photos = load_fashion_photos()
    for name, values in (("images", photos.images), ("labels", photos.target)):
        header = np.array([0x0800 + values.ndim, *values.shape], ">i4").tobytes()
        path = tmp_path / f"train-{name}-idx{values.ndim}-ubyte"
        path.write_bytes(header + values.astype(np.uint8).tobytes())

    def run(*parts):
        flags = ["--quick", "--data-home", str(tmp_path), "--only", *parts]
        monkeypatch.setattr(sys, "argv", ["paper.py", *flags, "--json", str(out)])
        paper_benchmark.main()
        rows = json.loads(out.read_text())["rows"]
        return {(r["table"], str(r["row"]), str(r["column"])): r for r in rows}

    out = tmp_path / "paper.json"
    return run


def test_zero_shot_tables_of_the_paper(paper):
    rows = paper("table-1", "table-3")
    names = load_fashion_photos().target_names
    scenes = make_fashion_scenes(30, split="held-out", n_items=1, random_state=1)
    labels = [scene.items[0] for scene in scenes.scenes]
    clip = CLIPZeroShotClassifier(model="fashion-clip").fit(classes=names)
    row = rows["1", "fashion-clip", "items, new pairs"]
    assert row["accuracy"] == pytest.approx(clip.score(scenes.images, labels))
    assert row["low"] <= row["accuracy"] <= row["high"] and row["n"] == 30
    clf = ZeroShotDiffusionClassifier(
        model="fashion-scenes", target="epsilon", n_trials=5
    )
    score = clf.fit(classes=names).score(scenes.images, labels)
    row = rows["1", "Diffusion Classifier", "items, new pairs"]
    assert row["accuracy"] == pytest.approx(score)
    # Ten labelled scenes of each caption are enough to be far above chance.
    assert rows["1", "Pixels (labelled)", "captions"]["accuracy"] > 0.4
    assert rows["1", "Features (labelled)", "captions"]["accuracy"] > 0.4
    assert rows["1", "Synthetic data", "captions"]["n"] == 30
    pairs = load_fashion_winoground()
    scores = clip.score_pairs(pairs.images[:4], pairs.captions[:4])
    expected = winoground_scores(scores).text
    assert rows["3", "fashion-clip", "all"]["accuracy"] == expected


@pytest.mark.filterwarnings("ignore:n_trials=1 leaves out timesteps")
def test_tables_of_labels_and_figures_of_the_paper(paper):
    rows = paper("tables-4-5", "figure-3", "figure-4")
    photos = load_fashion_photos()
    images, labels = photos.images[:30], photos.names[:30]
    for loss, key in (("l2", ("4", "Diffusion Classifier")), ("vlb", ("5", "vlb"))):
        clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=5, loss=loss)
        score = clf.fit(classes=photos.target_names).score(
            shift(images, "blur"), labels
        )
        assert rows[(*key, "blur")]["accuracy"] == score
    # Figure 6: a straight line through the logits, by hand.
    names = [f"fashion-{name}" for name in NETWORKS]
    clean, blurred = (
        [
            rows["4", name, column]["accuracy"]
            for name in ("Diffusion Classifier", *names)
        ]
        for column in ("photos", "blur")
    )
    x, y = (logit(np.clip(a, 0.5 / 30, 1 - 0.5 / 30)) for a in (clean, blurred))
    foretold = expit(np.polyval(np.polyfit(x[1:], y[1:], 1), x[0]))
    row = rows["figure 6", "Diffusion Classifier", "blur"]
    assert row["robustness"] == pytest.approx(expit(y[0]) - foretold, abs=1e-6)
    assert row["low"] < row["robustness"] < row["high"]
    # Figure 3 and 4: one trial at one timestep.
    clf.set_params(loss="l2", timesteps=[0, 500], n_trials=1, pruning=None)
    for n, key in (
        (3, ("figure 4", "0 (fashion-dit, photos)", "1")),
        (30, ("figure 3", "0", "fashion-dit, photos")),
    ):
        score = clf.fit(classes=photos.target_names).score(images[:n], labels[:n])
        assert rows[key]["accuracy"] == pytest.approx(score)


def test_patches_keep_every_pixel():
    image = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 251
    maps = to_patches(image.astype(np.uint8))[0] * 255  # (48, 8, 8)
    patch = maps[:, 2, 5].reshape(4, 4, 3)
    np.testing.assert_allclose(patch, image[0, 8:12, 20:24], rtol=1e-6)


def test_compositional_benchmark(monkeypatch, tmp_path, capsys):
    output = tmp_path / "table.json"
    flags = ["--n-scenes=8", "--n-examples=16", "--n-trials=3", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", ["compositional.py", *flags])
    compositional.main()
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 2 * 2 * (3 + 3 * 5)
    right = {(r["split"], r["question"], r["model"]): r["right"] for r in rows}
    for split in ("test", "held-out"):
        assert right[split, "colour among 6", "diffusion"] > 0.8
        theirs = right[split, "text score, all", "fashion-clip"]
        assert right[split, "text score, all", "diffusion"] > theirs
    assert "held-out combinations" in capsys.readouterr().out


def test_results_go_to_the_folder_of_the_group(monkeypatch, tmp_path):
    """With the machine, the command and the settings; not those of a part."""
    parser = _common.make_parser("A benchmark.")
    parser.add_argument("--only", nargs="+")
    monkeypatch.setattr(_common, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "results" / "speed"
    folder.mkdir(parents=True)
    file = tmp_path / "benchmarks" / "speed" / "vs_loop.py"
    for flags in (["--quick"], ["--only", "a"]):
        _common.write(file, parser.parse_args(flags), [])
    assert not list(folder.iterdir())

    monkeypatch.setattr(sys, "argv", ["vs_loop.py"])
    _common.write(file, parser.parse_args([]), [{"a": 1}], n_images=2)
    result = json.loads((folder / "vs_loop.json").read_text("utf-8"))
    assert result["command"] == "python -m benchmarks.speed.vs_loop"
    assert result["rows"] == [{"a": 1}] and result["settings"] == {"n_images": 2}
    assert result["machine"]["torch"]


def test_race_benchmark(monkeypatch, capsys, tmp_path):
    """Its replay is what the engine does; the table has a row for each race."""
    clf, errors, truth = race.make_table("fashion-dit", 6, None, 0, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    choice, cost = race.replay(clf, errors, None, 0.99)
    images = make_task("fashion-dit", 6)[1]
    result = clf.denoising_errors(images)
    np.testing.assert_array_equal(choice, result.log_proba.argmax(axis=1))
    np.testing.assert_array_equal(cost, result.n_evaluations)
    one = race.score(clf, errors, truth, None, pruning=0.99)
    assert one["evaluations"] == cost.mean() and one["n_differ"] == 0

    argv = ["race", "--quick", "--only", "fashion-dit", "--json", str(tmp_path / "j")]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(race, "LEARN_FROM", (2,))
    monkeypatch.setattr(race, "CONFIDENCES", (0.99,))
    monkeypatch.setattr(race, "SHIFTS", {"noise": None})
    race.main()
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert [row["race"] for row in rows][:2] == [
        "by prediction, 0.99",
        "by a test, 0.99",
    ]
    assert rows[0]["evaluations"] < rows[1]["evaluations"]


# What the defaults get.


def test_pair_errors_are_those_of_score_pairs_and_of_a_race():
    images, captions = _tables.make_scene_questions("relations", 3, "test")
    clf = ZeroShotDiffusionClassifier(
        model="fashion-scenes", prompt_template="{}", n_trials=10
    )
    errors, _ = _tables.pair_errors(clf, images, captions, with_null=True)
    assert errors.shape == (3, 5, 10)
    how = {"subtract_unconditional": True}
    expected = clf.score_pairs(images, captions, **how)[:, 0]
    plan = fitted_plan(clf.fit(classes=captions[0]))
    means = (errors * plan.weights).mean(axis=2) * plan.n_elements
    np.testing.assert_allclose(means[:, -1:] - means[:, :-1], expected, rtol=1e-4)

    # With an expert that is sure of another caption, it wins.
    prior = np.array([[0, 1e4, 0, 0]] * 3)
    for log_prior, choice in ((0, None), (prior, 1)):
        raced, log_proba = _tables.pair_errors(
            clf, images, captions, log_prior=log_prior, pruning=0.99
        )
        assert np.isnan(raced).any()
        for image, texts, one in zip(images, captions, log_proba, strict=True):
            label = clf.fit(classes=texts).predict(image)[0]
            assert one.argmax() == (texts.index(label) if choice is None else choice)


def test_tables_are_kept_and_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(_replay, "CHUNK", 2)
    monkeypatch.setattr(
        _tables,
        "pair_errors",
        Mock(side_effect=lambda clf, images, *_: (np.ones((len(images), 4, 5)), None)),
    )
    images, captions = _tables.make_scene_questions("relations", 4, "test")

    def first_questions(name, n, split, seed):
        return images[:n], captions[:n]

    monkeypatch.setattr(_tables, "make_scene_questions", first_questions)
    for n, calls in ((3, 2), (3, 2), (4, 3)):  # the second part was of one image
        assert len(_tables.scene_table("relations", n, "test", tmp_path)) == n
        assert _tables.pair_errors.call_count == calls
    images = 255 - images  # other images of the same captions: nothing is read
    assert len(_tables.scene_table("relations", 4, "test", tmp_path)) == 4
    assert _tables.pair_errors.call_count == 5


def test_the_gain_of_a_product_is_over_the_better_one():
    default = np.array([True, True, False, False] * 10)
    clip, product = np.zeros(40, bool), np.ones(40, bool)
    gain = defaults.gain_of(product, default, clip, 0.5)
    assert gain["better"] == "default" and gain["gain"] == 0.5
    assert 0.3 < gain["gain_low"] < 0.5 < gain["gain_high"] < 0.7
    gain = defaults.gain_of(default, clip, default, 0.5)
    assert gain["better"] == "fashion-clip" and gain["gain"] == 0


def test_weights_of_what_tells_are_refitted():
    clf, images, truth = make_task("fashion-dit", 20, n_trials=20, pruning=None)
    errors = clf.denoising_errors(images).errors.astype(float)
    truth = np.searchsorted(clf.classes_, truth)
    late = clf.trials_.timesteps >= 500
    noise = np.random.default_rng(0).normal(size=errors.shape)
    errors = np.where(late, noise, errors)  # they tell nothing
    fitted, window = robustness.refitted(clf, errors, truth)
    assert (fitted > 0).all() and fitted[~late].mean() > 2 * fitted[late].mean()
    assert window.any() and not window[late].any()
    for form, fit in weights_from_few.FORMS.items():
        weights = fit(clf, errors, truth)
        _, nats = weights_from_few.measure(clf, errors, truth, weights)
        if form == "weights 1":
            without = nats
        assert nats <= without


def test_only_the_rows_of_the_classes_are_learned():
    pipeline = load_backbone("fashion-dit").pipeline
    photos = load_fashion_photos()
    how = {"steps": 2, "learning_rate": 0.01, "start": 10}
    learned = few_shot.learn_rows(
        pipeline, photos.images[:20], photos.target[:20], **how
    )
    before, after = (x.transformer.state_dict() for x in (pipeline, learned))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 6 and all("embedding_table" in name for name in changed)
    for name in changed:
        torch.testing.assert_close(before[name][10], after[name][10])
