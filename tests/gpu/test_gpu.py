"""The same answers on a GPU as on a CPU, and memory and transfers of the GPU.

Run by ``pytest -m gpu -n 0``. Errors are compared in float64. On one device they agree
to the float32 in which they are returned. A GPU and a CPU differ more: diffusers embeds
timesteps in float32, whose sines of large arguments differ in the fifth digit.
"""

import os
import subprocess
import sys
import warnings
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    clear_cache,
    load_backbone,
)
from tests.models import PIPELINES, save_pipeline, saved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device is visible; where there is one, run pytest -m gpu",
    ),
]

DEVICE = "cuda"
SAME, AS_ON_CPU = 1e-6, 5e-4  # two conditions differ by 1.7e-3 or more
PHOTOS = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def clean_up(monkeypatch):
    """Convolutions in full float32, and no model from the test before."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    clear_cache()
    yield
    clear_cache()


def fitted(model, device=DEVICE, dtype="float64", **params):
    """A classifier of two classes without pruning."""
    backbone = load_backbone(model, device=device, dtype=dtype)
    is_text = backbone.kind == "text"
    cls = ZeroShotDiffusionClassifier if is_text else ConditionalDiffusionClassifier
    params = {"n_trials": 6, "pruning": None, **params}
    clf = cls(model=model, device=device, dtype=dtype, **params)
    return clf.fit(classes=["a blue bag", "a red shirt"] if is_text else [0, 1])


def random_images(clf, n):
    side = clf.backbone_.image_size
    return np.random.RandomState(1).randint(0, 256, (n, side, side, 3), dtype=np.uint8)


def errors_of(clf, images):
    return clf.denoising_errors(images).errors


def assert_on_gpu(clf):
    parts = clf.backbone_.network, clf.backbone_.vae
    devices = {p.device.type for part in parts if part for p in part.parameters()}
    assert devices == {DEVICE}


@pytest.mark.parametrize("name", PIPELINES)
def test_errors_are_those_of_the_cpu(name):
    pipeline = PIPELINES[name]()
    expected = fitted(pipeline, "cpu", n_trials=3)
    clf = fitted(pipeline, n_trials=3)
    assert_on_gpu(clf)
    images = random_images(clf, 2)
    np.testing.assert_allclose(
        errors_of(clf, images), errors_of(expected, images), rtol=AS_ON_CPU
    )
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    assert network.device.type == "cpu"  # a copy was moved


def test_float32_and_the_noise_are_those_of_the_cpu(sd_folder):
    clf, expected = fitted(sd_folder, dtype="float32"), fitted(sd_folder, "cpu")
    np.testing.assert_allclose(
        errors_of(clf, PHOTOS), errors_of(expected, PHOTOS), rtol=AS_ON_CPU
    )
    noise = clf.trials_.noise((4, 4, 4))
    np.testing.assert_array_equal(noise, expected.trials_.noise((4, 4, 4)))


def test_guidance_race_evidence_and_samples_are_those_of_the_cpu(sd_folder):
    how = {"guidance_scale": 2.0, "n_trials": 30, "pruning": 0.99}
    ours, theirs = fitted(sd_folder, **how), fitted(sd_folder, "cpu", **how)
    a, b = (clf.denoising_errors(PHOTOS) for clf in (ours, theirs))
    np.testing.assert_array_equal(a.n_evaluations, b.n_evaluations)
    np.testing.assert_allclose(a.errors, b.errors, rtol=AS_ON_CPU)
    np.testing.assert_allclose(a.log_proba, b.log_proba, atol=0.1)
    classes = ours.classes_
    a, b = (clf.evidence(PHOTOS[:2], *classes) for clf in (ours, theirs))
    np.testing.assert_allclose(a, b, atol=0.01 * np.abs(b).max())
    a, b = (clf.score_samples(PHOTOS[:2]) for clf in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=AS_ON_CPU)


@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
def test_any_batch_size_gives_the_same_errors(dit_folder, batch_size):
    expected = errors_of(fitted(dit_folder, batch_size=5), PHOTOS)
    clf, sizes = fitted(dit_folder, batch_size=batch_size), []
    hook = clf.backbone_.network.register_forward_pre_hook(
        lambda network, args: sizes.append(len(args[0]))
    )
    errors = errors_of(clf, PHOTOS)
    hook.remove()
    np.testing.assert_allclose(errors, expected, rtol=SAME)
    if batch_size == "auto":  # all images at once
        assert max(sizes) == len(PHOTOS) * 2 * 6
    else:
        assert max(sizes) == batch_size


@contextmanager
def at_most(n_bytes):
    """Limit what this process may take of the card's memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(n_bytes / total, 0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def test_batches_are_halved_where_memory_runs_out(sd_folder):
    how = {"image_size": 128, "n_trials": 64, "dtype": "float32"}
    small = fitted(sd_folder, batch_size=8, **how)
    expected = errors_of(small, PHOTOS[:1])
    large = fitted(sd_folder, batch_size=128, **how)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    np.testing.assert_allclose(errors_of(large, PHOTOS[:1]), expected, rtol=1e-4)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken > 64 * 2**20  # far more than the allocator's rounding
    with at_most(before + taken / 2), pytest.warns(RuntimeWarning) as warned:
        errors = errors_of(large, PHOTOS[:1])
    np.testing.assert_allclose(errors, expected, rtol=1e-4)
    assert "128 rows does not fit into memory; going on with 64" in str(
        warned[0].message
    )


def test_one_row_that_does_not_fit_is_an_error(sd_folder):
    """The autoencoder attends to 512 x 512 positions: 550 GB in float64."""
    clf = fitted(sd_folder, image_size=1024, batch_size=2)
    with pytest.raises(MemoryError, match=r"image_size.*dtype='bfloat16'.*clear_cache"):
        clf.predict(PHOTOS[:1])


@pytest.mark.parametrize("model", ["fashion-dit", "fashion-scenes"])
@pytest.mark.parametrize("dtype", ["auto", "float16", "bfloat16"])
def test_half_precision_agrees_with_float32(model, dtype, photos):
    names, images = photos.target_names[:4], photos.images[:20]
    clf = fitted(model, dtype=dtype, n_trials=20).fit(classes=names)
    expected = fitted(model, dtype="float32", n_trials=20).fit(classes=names)
    if dtype == "auto":
        assert clf.backbone_.dtype in (torch.bfloat16, torch.float16)
    a, b = clf.denoising_errors(images), expected.denoising_errors(images)
    tolerance = 2e-3 if clf.backbone_.dtype == torch.float16 else 2e-2
    np.testing.assert_allclose(
        a.errors.mean(axis=2), b.errors.mean(axis=2), rtol=tolerance
    )
    same = a.log_proba.argmax(axis=1) == b.log_proba.argmax(axis=1)
    assert same.mean() >= 0.9


def test_an_autoencoder_that_overflows_in_float16_is_run_in_float32():
    clf = fitted(PIPELINES["Stable Diffusion XL"](), dtype="float16")
    exact = fitted(PIPELINES["Stable Diffusion XL"](), "cpu", "float32")
    images = torch.from_numpy(random_images(clf, 2)).permute(0, 3, 1, 2) / 127.5 - 1
    ours, expected = clf.backbone_.encode(images), exact.backbone_.encode(images)
    torch.testing.assert_close(ours.cpu(), expected, rtol=1e-2, atol=1e-2)


ON_ONE_CARD = """
import sys
import numpy as np, torch
from diffusion_sklearn import ConditionalDiffusionClassifier

model, photos, out = sys.argv[1:]
clf = ConditionalDiffusionClassifier(
    model=model, n_trials=6, pruning=None, dtype="float64"
).fit(classes=[0, 1])
errors = clf.denoising_errors(np.load(photos)).errors
uuid = str(torch.cuda.get_device_properties(clf.backbone_.device).uuid)
np.savez(out, errors=errors, uuid=uuid, n_cards=torch.cuda.device_count())
"""


def visible_cards():
    """What CUDA_VISIBLE_DEVICES may be, for each card."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = range(torch.cuda.device_count())
    return listed.split(",") if listed else list(map(str, cards))


def test_processes_with_a_card_each(dit_folder, tmp_path):
    """As the guide says: one process for each card, by CUDA_VISIBLE_DEVICES."""
    np.save(tmp_path / "photos.npy", PHOTOS)
    script, cards = [sys.executable, "-c", ON_ONE_CARD, dit_folder], visible_cards()
    processes = [
        subprocess.Popen(
            [*script, tmp_path / "photos.npy", tmp_path / f"{k}.npz"],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": card},
        )
        for k, card in enumerate(cards)
    ]
    assert [process.wait() for process in processes] == [0] * len(cards)
    results = [np.load(tmp_path / f"{k}.npz") for k in range(len(cards))]
    assert len({str(result["uuid"]) for result in results}) == len(cards)
    expected = errors_of(fitted(dit_folder, batch_size=5), PHOTOS)
    for result in results:
        assert result["n_cards"] == 1
        np.testing.assert_allclose(result["errors"], expected, rtol=SAME)


def test_every_card_by_its_name(dit_folder):
    expected = errors_of(fitted(dit_folder, batch_size=5), PHOTOS)
    for card in range(torch.cuda.device_count()):
        clf = fitted(dit_folder, f"{DEVICE}:{card}")
        assert clf.backbone_.device == torch.device(DEVICE, card)
        np.testing.assert_allclose(errors_of(clf, PHOTOS), expected, rtol=SAME)


def card_of_worker():
    return os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()


def test_workers_of_loky_share_the_card(dit_folder):
    expected = errors_of(fitted(dit_folder, batch_size=5), PHOTOS)
    clf = fitted(dit_folder, n_jobs=2)
    np.testing.assert_allclose(errors_of(clf, PHOTOS), expected, rtol=SAME)
    cards = Parallel(n_jobs=2)(delayed(card_of_worker)() for _ in range(4))
    assert {n for _, n in cards} == {torch.cuda.device_count()}


@pytest.mark.filterwarnings("ignore")
def test_workers_of_ray_have_a_card_each(dit_folder):
    """As the guide says: with num_gpus=1."""
    ray = pytest.importorskip("ray", reason="Ray has no release for this Python")
    from ray.util.joblib import register_ray

    expected = errors_of(fitted(dit_folder, batch_size=5), PHOTOS)
    n_cards = torch.cuda.device_count()
    n_workers = max(2, n_cards)  # with one card, half of it for each
    how = {"include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=n_workers, num_gpus=n_cards, **how)
    try:
        register_ray()
        clf = fitted(dit_folder, device="auto")
        with joblib.parallel_config(
            backend="ray",
            n_jobs=n_workers,
            ray_remote_args={"num_gpus": n_cards / n_workers},
        ):
            errors = errors_of(clf, PHOTOS)
            cards = Parallel()(delayed(card_of_worker)() for _ in range(8))
    finally:
        ray.shutdown()
    np.testing.assert_allclose(errors, expected, rtol=SAME)
    assert {n for _, n in cards} == {1}
    assert None not in {visible for visible, _ in cards}  # Ray has set it


def synchronizations(call):
    """How often the CPU waited for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    return len(waits)


@pytest.mark.parametrize("folder", ["dit_folder", "sd_folder"])
def test_the_gpu_is_waited_for_once_an_image_not_once_a_row(folder, request):
    model = request.getfixturevalue(folder)

    def waits(n_trials, batch_size):
        clf = fitted(model, dtype="float32", n_trials=n_trials, batch_size=batch_size)
        clf.predict(PHOTOS[:1])  # uploads the noise
        return synchronizations(lambda: clf.predict(PHOTOS[:1]))

    few = waits(n_trials=4, batch_size=8)  # one pass of 8 rows
    assert 1 <= few <= 10  # the image goes there, its errors come back
    assert waits(n_trials=128, batch_size=256) == few  # one pass of 256 rows
    assert waits(n_trials=128, batch_size=8) == few  # 32 passes


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Stable Diffusion 3, 3.5"])
def test_text_encoders_leave_the_gpu_once_prompts_are_encoded(name):
    folder = saved(name.split(",")[0], save_pipeline(PIPELINES[name]))
    clf = fitted(folder)
    assert_on_gpu(clf)
    encoders = {
        part: module
        for part, module in clf.backbone_.pipeline.components.items()
        if part.startswith("text_encoder") and module is not None
    }
    there = {
        part
        for part, module in encoders.items()
        for p in module.parameters()
        if p.device.type == DEVICE
    }
    assert not there
    images = random_images(clf, 2)
    expected = errors_of(fitted(folder, "cpu"), images)
    np.testing.assert_allclose(errors_of(clf, images), expected, rtol=AS_ON_CPU)
    again = clf.fit(classes=clf.classes_)  # encodes the prompts once more
    np.testing.assert_allclose(errors_of(again, images), expected, rtol=AS_ON_CPU)


def test_released_models_give_their_memory_back(sd_folder):
    fitted(sd_folder).predict(PHOTOS)  # CUDA's own workspaces
    clear_cache()
    before = torch.cuda.memory_allocated()
    clf = fitted(sd_folder)
    clf.predict(PHOTOS)
    assert torch.cuda.memory_allocated() > before
    del clf
    clear_cache()
    assert torch.cuda.memory_allocated() <= before
