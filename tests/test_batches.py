"""Batches that do not fit are halved, and nothing computed is lost."""

import numpy as np
import pytest
import torch

from diffusion_sklearn import ConditionalDiffusionClassifier, load_backbone
from diffusion_sklearn._device import BatchSize, in_batches, resolve_batch_size
from diffusion_sklearn.backbones import Backbone

PHOTOS = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)
NAMES = ["ant", "bee", "eel"]
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS)
def test_halved_until_it_fits(error):
    computed, tried = [], []

    def compute(rows):
        tried.append(rows.stop - rows.start)
        if tried[-1] > 3:
            raise error
        computed.extend(range(rows.start, rows.stop))
        return tried[-1]

    size = BatchSize(16)
    with pytest.warns(RuntimeWarning, match="Pass batch_size=3 to start") as warned:
        assert list(in_batches(compute, 7, size)) == [3, 3, 1]
    assert (tried, computed) == ([7, 3, 3, 1], list(range(7)))
    assert size.rows == 3 and len(warned) == 1


def test_one_row_that_does_not_fit_says_what_would_help():
    def compute(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        pytest.warns(RuntimeWarning, match="does not fit"),
        pytest.raises(MemoryError, match=r"image_size.*dtype='bfloat16'.*clear_cache"),
    ):
        list(in_batches(compute, 2, BatchSize(2)))


def test_other_errors_are_not_hidden():
    def compute(rows):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_batches(compute, 2, BatchSize(2)))


@pytest.mark.parametrize("part", ["network", "vae"])
def test_answers_are_the_same_where_memory_is_short(dit_folder, monkeypatch, part):
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=8, batch_size=64)
    expected = clf.fit(classes=NAMES).denoising_errors(PHOTOS)
    backbone, sizes = clf.backbone_, []
    name = {"network": "predict", "vae": "encode"}[part]
    plain = getattr(backbone, name)

    def short(first, *more):
        if len(first) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(first))
        return plain(first, *more)

    monkeypatch.setattr(backbone, name, short)
    with pytest.warns(RuntimeWarning, match="does not fit into memory"):
        found = clf.denoising_errors(PHOTOS)
    np.testing.assert_allclose(found.errors, expected.errors, rtol=1e-5)
    np.testing.assert_array_equal(found.n_evaluations, expected.n_evaluations)
    if part == "network":
        assert sum(sizes) == found.n_evaluations.sum()  # nothing twice


def test_auto_fits_into_a_gpu(dit_folder, monkeypatch):
    """The arithmetic on a card of which 10 GiB are free, 50 MiB an evaluation."""
    backbone = load_backbone(dit_folder)
    gpu, mib = torch.device("cuda", 0), 2**20
    monkeypatch.setattr(Backbone, "device", gpu)
    state = {"peak": 1000 * mib}

    def try_out(n, latent_shape):
        state["peak"] = (1000 + 50 * n) * mib

    monkeypatch.setattr(backbone, "try_out", try_out, raising=False)
    for name, value in {
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 1000 * mib,
        "max_memory_allocated": lambda device: state["peak"],
        "memory_reserved": lambda device: 1100 * mib,
        "mem_get_info": lambda device: (10240 * mib, 16384 * mib),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    size = resolve_batch_size("auto", backbone, (4, 8, 8))
    assert size.rows == int(0.8 * (10240 + 100) / 50)
    assert resolve_batch_size(7, backbone, (4, 8, 8)).rows == 7
    assert resolve_batch_size("auto", backbone, (4, 256, 256)).rows == 4


def test_trying_out_runs_the_network(dit_folder, sd_folder):
    for folder in dit_folder, sd_folder:
        backbone, seen = load_backbone(folder), []
        hook = backbone.network.register_forward_hook(
            lambda *a, seen=seen: seen.append(a)
        )
        backbone.try_out(2, backbone.latent_shape(8))
        hook.remove()
        assert len(seen) == 1
