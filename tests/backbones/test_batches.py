"""Batches that do not fit are halved, and nothing computed is lost."""

import numpy as np
import pytest
import torch

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.backbones._batches import (
    BatchSize,
    in_batches,
    resolve_batch_size,
)

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
    with pytest.warns(RuntimeWarning, match="with 3. Start with 3") as warned:
        assert list(in_batches(compute, 7, size, "Start with {}")) == [3, 3, 1]
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
        result = clf.denoising_errors(PHOTOS)
    np.testing.assert_allclose(result.errors, expected.errors, rtol=1e-5)
    np.testing.assert_array_equal(result.n_evaluations, expected.n_evaluations)
    if part == "network":
        assert sum(sizes) == result.n_evaluations.sum()  # nothing twice


def test_auto_fits_into_a_gpu(monkeypatch):
    """The arithmetic on a card of which 10 GiB are free, 50 MiB an evaluation.

    The first pass takes another 32 MiB, and keeps them.
    """
    mib, taken = 2**20, []

    class Card:
        device = torch.device("cuda", 0)

        def predict(self, noised, timesteps, conditions):
            assert noised.shape[1:] == (4, 8, 8) and conditions.tolist() == [3, 3]
            if not taken:
                raise torch.OutOfMemoryError("CUDA out of memory")
            taken.append(len(noised))

    def zeros(*shape, device, **how):
        return torch.empty(*shape, **how)

    monkeypatch.setattr("diffusion_sklearn.backbones._batches.torch.zeros", zeros)
    for name, value in {
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: (1000 + 32 * (len(taken) > 1)) * mib,
        "max_memory_allocated": lambda device: (1032 + 50 * taken[-1]) * mib,
        "memory_reserved": lambda device: 1100 * mib,
        "mem_get_info": lambda device: (10240 * mib, 16384 * mib),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def rows(batch_size):
        condition = torch.tensor([3])
        return resolve_batch_size(batch_size, Card(), (4, 8, 8), condition).rows

    assert rows("auto") == 1  # not even two fit
    taken.append(0)
    assert rows("auto") == int(0.8 * (10240 + 68) / 50)
    assert rows(7) == 7


def test_vae_and_network_are_halved_by_themselves(dit_folder, monkeypatch):
    """A short VAE neither shrinks the network's batches nor fails for each group."""
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=4, pruning=None, batch_size=32
    ).fit(classes=NAMES)
    backbone, sizes = clf.backbone_, []
    encode, predict = backbone.encode, backbone.predict

    def short(pixels):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pixels)

    def counted(noised, *more):
        sizes.append(len(noised))
        return predict(noised, *more)

    monkeypatch.setattr(backbone, "encode", short)
    monkeypatch.setattr(backbone, "predict", counted)
    with pytest.warns(RuntimeWarning, match="does not fit") as warned:
        clf.predict(np.concatenate([PHOTOS] * 4))
    assert len(warned) == 1 and max(sizes) == 32
