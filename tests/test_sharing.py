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
from diffusion_sklearn.engine._sharing import computed_once

MAKERS = [
    tiny_dit,
    lambda: tiny_sd("epsilon"),
    lambda: tiny_sd("epsilon", attention_first=True),
]
TRIPLES = np.array([[i, j, k] for i in (0, 1) for j in (0, 1, 2) for k in (0, 1, 2, 3)])


def rows_of(backbone, triples):
    rng = torch.Generator().manual_seed(0)
    noised = torch.randn(2, 3, *backbone.latent_shape(8), generator=rng)
    image, trial, condition = torch.from_numpy(triples.T)
    names = ["a", "b", "c", "d"] if backbone.kind == "text" else [3, 0, 4, 1]
    timesteps = torch.tensor([0, 500, 999])[trial]
    return noised[image, trial], timesteps, backbone.condition(names)[condition]


@pytest.mark.parametrize("make", MAKERS)
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


@pytest.mark.parametrize("make", MAKERS)
def test_parts_see_each_distinct_row_once_and_are_restored(make):
    backbone = load_backbone(make())
    parts = backbone.shared_parts()
    assert len(parts) == 1 or ("image", "trial") in parts
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


def test_all_that_comes_before_the_first_cross_attention():
    backbone = load_backbone(tiny_sd("epsilon", attention_first=True))
    unet, parts = backbone.network, backbone.shared_parts()
    first = unet.down_blocks[0]
    attention = first.attentions[0].transformer_blocks[0]
    assert parts["image", "trial"] == [
        unet.conv_in,
        unet.time_embedding,
        first.resnets[0],
        attention.attn1,
    ]
    assert unet.encoder_hid_proj in parts[("condition",)]
    assert attention.attn2.to_k in parts[("condition",)]


def test_threads_do_not_disturb_each_other():
    """One hooks and unhooks the network all the time, the other just uses it."""
    backbone = load_backbone(tiny_dit())
    asked = rows_of(backbone, TRIPLES)
    with torch.inference_mode():
        plain = backbone.predict(*asked)
    wrong, done = [], threading.Event()

    def elsewhere():
        while not done.is_set():
            with torch.inference_mode():
                found = backbone.predict(*(x.flip(0) for x in asked)).flip(0)
            if not torch.allclose(found, plain, rtol=1e-5, atol=1e-5):
                wrong.append(found)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        for _ in range(30):
            with computed_once(backbone.shared_parts(), backbone.device) as begin:
                begin(TRIPLES)
                with torch.inference_mode():
                    shared = backbone.predict(*asked)
            torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-5)
    finally:
        done.set()
        thread.join()
    assert not wrong


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


@pytest.mark.parametrize("make", MAKERS)
def test_a_compiled_network_gives_the_same_errors(make):
    pipeline = make()
    cls = ConditionalDiffusionClassifier
    if load_backbone(pipeline).kind == "text":
        cls = ZeroShotDiffusionClassifier
    images = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    errors = []
    for how in "plain", "in place", "wrapped":
        network = "unet" if hasattr(pipeline, "unet") else "transformer"
        if how == "in place":
            getattr(pipeline, network).compile(backend="eager")
        if how == "wrapped":
            pipeline = make()
            compiled = torch.compile(getattr(pipeline, network), backend="eager")
            setattr(pipeline, network, compiled)
        clf = cls(model=pipeline, n_trials=3, pruning=None)
        assert load_backbone(pipeline).is_compiled == (how != "plain")
        errors.append(clf.fit(classes=["ant", "bee"]).denoising_errors(images).errors)
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(errors[2], errors[0], rtol=1e-5, atol=1e-6)
