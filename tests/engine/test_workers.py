"""Workers of any joblib backend: the same answers, one model a process."""

import os
import warnings

import joblib
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from diffusion_sklearn import ConditionalDiffusionClassifier, ErrorStore
from diffusion_sklearn.backbones._sources import _loaded
from diffusion_sklearn.engine._workers import chunks

NAMES = ["ant", "bee", "cat"]
IMAGES = np.random.RandomState(0).randint(0, 256, (40, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def clf(dit_folder, as_it_was):
    return ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=6, prefilter=None
    ).fit(classes=NAMES)


@pytest.fixture
def expected(clf):
    return clf.predict_proba(IMAGES)


@pytest.fixture(scope="module")
def as_it_was():
    """Fresh workers, and an environment that Dask and Ray leave as it was."""
    environment = dict(os.environ)
    get_reusable_executor().shutdown(wait=True)
    yield
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def dask_client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as c,
        Client(c) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray", reason="Ray has no release for this Python")
    from ray.util.joblib import register_ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        register_ray()
        yield ray
        ray.shutdown()


def in_worker():
    return os.getpid(), len(_loaded), torch.get_num_threads()


@pytest.mark.slow
def test_loky(clf, expected):
    proba = clf.set_params(n_jobs=2).predict_proba(IMAGES)
    np.testing.assert_allclose(proba, expected, rtol=1e-4)
    # The model is loaded once a process, whose threads are not too many.
    tasks = Parallel(n_jobs=2)(delayed(in_worker)() for _ in range(20))
    assert os.getpid() not in {pid for pid, *_ in tasks}
    assert {n for _, n, _ in tasks} == {1}
    assert {n for *_, n in tasks} == {max(1, joblib.cpu_count() // 2)}


@pytest.mark.slow
def test_dask(clf, expected, dask_client):
    with joblib.parallel_config(backend="dask"):
        proba = clf.predict_proba(IMAGES)
    np.testing.assert_allclose(proba, expected, rtol=1e-4)
    workers = dask_client.run(in_worker)
    assert len({pid for pid, *_ in workers.values()}) == 2
    assert {n for _, n, _ in workers.values()} == {1}
    assert {n for *_, n in workers.values()} == {1}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(clf, expected, ray_cluster):
    with joblib.parallel_config(backend="ray", n_jobs=2):
        proba = clf.predict_proba(IMAGES)
    np.testing.assert_allclose(proba, expected, rtol=1e-4)


def deadly_images(folder, times):
    """Images of which one ends the worker that reads it, so many times."""
    parent = os.getpid()

    class Deadly:
        def __init__(self, path):
            self.path = path

        def __fspath__(self):
            if os.getpid() != parent:
                for k in range(times):
                    try:
                        open(f"{self.path}.{k}", "x").close()
                    except FileExistsError:
                        continue
                    os._exit(1)
            return str(self.path)

    paths = [folder / f"{k}.png" for k in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    os.PathLike.register(Deadly)
    return [*paths[:-1], Deadly(paths[-1])]


@pytest.mark.slow
def test_a_dead_worker_of_loky_is_an_error_and_what_was_done_is_kept(
    clf, expected, tmp_path
):
    images = deadly_images(tmp_path, times=1)
    clf.set_params(n_jobs=2, memory=tmp_path / "kept")
    with pytest.raises(RuntimeError, match=r"One of 2 workers died.* goes on where"):
        clf.predict(images)
    assert ErrorStore(clf.memory).info()["n_evaluations"] > 0
    np.testing.assert_allclose(clf.predict_proba(images), expected, rtol=1e-4)


@pytest.mark.slow
def test_dask_replaces_a_dead_worker(clf, expected, dask_client, tmp_path):
    images = deadly_images(tmp_path, times=1)
    with joblib.parallel_config(backend="dask"):
        proba = clf.predict_proba(images)
    np.testing.assert_allclose(proba, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_replaces_a_dead_worker_when_told_to(clf, expected, ray_cluster, tmp_path):
    images = deadly_images(tmp_path, times=2)
    with (
        joblib.parallel_config(backend="ray", n_jobs=2),
        pytest.raises(RuntimeError, match=r"died.*ActorDiedError"),
    ):
        clf.predict_proba(images)
    again = {"max_restarts": 3, "max_task_retries": 3}
    with joblib.parallel_config(backend="ray", n_jobs=2, ray_remote_args=again):
        proba = clf.predict_proba(images)
    np.testing.assert_allclose(proba, expected, rtol=1e-4)


@pytest.mark.slow
def test_inside_a_parallel_grid_search(clf):
    """Workers within workers: no deadlock, and one model a process."""
    y = np.array(["ant", "bee"] * 10)
    search = GridSearchCV(
        clone(clf).set_params(n_jobs=2), {"n_trials": [3, 6]}, cv=2, n_jobs=2
    )
    mean_scores = search.fit(IMAGES[:20], y).cv_results_["mean_test_score"]
    plain = clone(search).set_params(n_jobs=None, estimator__n_jobs=None)
    np.testing.assert_allclose(
        mean_scores, plain.fit(IMAGES[:20], y).cv_results_["mean_test_score"]
    )
    tasks = Parallel(n_jobs=2)(delayed(in_worker)() for _ in range(20))
    assert {n for _, n, _ in tasks} == {1}


@pytest.mark.parametrize("n, n_workers", [(1, 2), (5, 2), (40, 2), (10**5, 3)])
def test_chunks(n, n_workers):
    bounds = chunks(n, n_workers)
    assert [k for a, b in bounds for k in range(a, b)] == list(range(n))
    sizes = [b - a for a, b in bounds]
    assert len(bounds) >= min(n, n_workers) and max(sizes) <= 1024
