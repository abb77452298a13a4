"""What the benchmarks compare is the same thing twice."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("_common", "accuracy_vs_cost", "growth", "gpu", "vs_loop"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("model", ["fashion-dit", "fashion-scenes"])
def test_the_plain_loop_gives_the_same_labels(model, monkeypatch):
    import vs_loop
    from _common import make_task

    monkeypatch.setattr(vs_loop, "PETS", ((5, 4), (20, 1)))
    clf, images, _ = make_task(model, 4, n_trials=20, pruning=vs_loop.PETS)
    found = clf.classes_[vs_loop.paper_loop(clf, images)]
    np.testing.assert_array_equal(found, clf.predict(images))
    assert (clf.denoising_errors(images).n_evaluations == 5 * 10 + 15 * 4).all()


@pytest.mark.parametrize("pruning", [None, 0.9, ((5, 4), (20, 1)), ((6, 3), 0.9)])
def test_replaying_a_table_is_what_the_engine_does(pruning, monkeypatch):
    import accuracy_vs_cost as benchmark
    from _common import make_task

    monkeypatch.setattr(benchmark, "N_TRIALS", 25)
    errors, _, trials = benchmark.table("fashion-dit", 10, 5, 0)
    clf, images, _ = make_task(
        "fashion-dit", 5, first=10, n_trials=25, pruning=pruning, random_state=0
    )
    result = clf.denoising_errors(images)
    choice, cost = benchmark.replay(pruning, errors, trials)
    np.testing.assert_array_equal(choice, result.log_proba.argmax(axis=1))
    np.testing.assert_array_equal(cost, result.n_evaluations)
    done = ~np.isnan(result.errors)
    np.testing.assert_allclose(
        errors[:, :10][done], result.errors[done], rtol=1e-4, atol=1e-6
    )


def test_tiny_networks_of_the_gpu_benchmark(monkeypatch, capsys, tmp_path):
    import gpu

    flags = ["--size", "tiny", "--quick", "--device", "cpu", "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *flags, "--json", str(tmp_path / "g")])
    gpu.main()
    assert "U-Net" in capsys.readouterr().out
    assert (tmp_path / "g").exists()


def test_captions_of_the_growth_benchmark_differ():
    from growth import captions

    assert len(set(captions(100))) == 100
