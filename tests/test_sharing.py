"""Parts of a network that are run once for many rows: same numbers, fewer rows."""

import threading

import numpy as np
import pytest
import torch
from conftest import tiny_dit, tiny_sd

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn._sharing import computed_once

TRIPLES = np.array([[i, j, k] for i in (0, 1) for j in (0, 1, 2) for k in (0, 1, 2, 3)])


def rows_of(backbone, triples):
    rng = torch.Generator().manual_seed(0)
    noised = torch.randn(2, 3, *backbone.latent_shape(8), generator=rng)
    image, trial, condition = torch.from_numpy(triples.T)
    names = ["a", "b", "c", "d"] if backbone.kind == "text" else [3, 0, 4, 1]
    timesteps = torch.tensor([0, 500, 999])[trial]
    return noised[image, trial], timesteps, backbone.condition(names)[condition]


@pytest.mark.parametrize("make", [tiny_dit, lambda: tiny_sd("epsilon")])
def test_equal_to_every_row_by_itself(make):
    backbone = load_backbone(make())
    for triples in TRIPLES, TRIPLES[np.random.RandomState(0).permutation(24)][:17]:
        asked = rows_of(backbone, triples)
        with torch.inference_mode():
            plain = backbone.predict(*asked)
            alone = [backbone.predict(*(x[r : r + 1] for x in asked)) for r in range(9)]
            with computed_once(backbone.shared_parts(), backbone.device) as begin:
                begin(triples)
                shared = backbone.predict(*asked)
                begin(triples[:1])
                single = backbone.predict(*(x[:1] for x in asked))
        torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(shared[:9], torch.cat(alone), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single, plain[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [tiny_dit, lambda: tiny_sd("epsilon")])
def test_parts_see_each_distinct_row_once_and_are_restored(make):
    backbone = load_backbone(make())
    parts = backbone.shared_parts()
    expected = {
        ("image", "trial"): 6,
        ("trial", "condition"): 12,
        ("condition",): 4,
    }
    seen = {names: [] for names in parts}
    for names, modules in parts.items():
        for module in modules:

            def forward(*args, names=names, run=module.forward, **kwargs):
                inputs = [*args, *kwargs.values()]
                tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
                seen[names].append(len(tensors[0]))
                return run(*args, **kwargs)

            module.forward = forward
    asked = rows_of(backbone, TRIPLES)
    with torch.inference_mode():
        with computed_once(parts, backbone.device) as begin:
            begin(TRIPLES)
            backbone.predict(*asked)
        assert all(set(seen[names]) == {expected[names]} for names in parts)
        seen.update({names: [] for names in parts})
        backbone.predict(*asked)
    assert all(set(rows) == {24} for rows in seen.values())
    for modules in parts.values():
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_another_thread_is_left_alone():
    backbone = load_backbone(tiny_dit())
    asked = rows_of(backbone, TRIPLES)
    with torch.inference_mode():
        plain = backbone.predict(*asked)
    found = []

    def elsewhere():
        with torch.inference_mode():
            found.append(backbone.predict(*(x.flip(0) for x in asked)).flip(0))

    with computed_once(backbone.shared_parts(), backbone.device) as begin:
        begin(TRIPLES)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make, cls, names",
    [
        (tiny_dit, ConditionalDiffusionClassifier, ["ant", "bee", "eel"]),
        (
            lambda: tiny_sd("epsilon"),
            ZeroShotDiffusionClassifier,
            ["ant", "bee", "eel"],
        ),
    ],
)
def test_hooks_are_gone_after_an_error(make, cls, names, monkeypatch):
    clf = cls(model=make(), n_trials=3).fit(classes=names)
    network = clf.backbone_.network

    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(network, "forward", fail)
    with pytest.raises(RuntimeError, match="broken"):
        clf.predict(np.zeros((1, 8, 8, 3), np.uint8))
    assert not any(m._forward_pre_hooks for m in network.modules())
