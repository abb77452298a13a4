"""Tables of all errors, from which any weighting of timesteps follows."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks._common import make_scene_task
from benchmarks.accuracy._replay import compute_in_chunks
from diffusion_sklearn import ZeroShotDiffusionClassifier
from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.classifiers._evaluate import errors_of
from diffusion_sklearn.classifiers._pairs import read_pairs
from diffusion_sklearn.classifiers._plans import make_plan, model_and_trials
from diffusion_sklearn.datasets import (
    load_fashion_winoground,
    make_fashion_scenes,
    make_fashion_winoground,
)
from diffusion_sklearn.datasets._fashion_scenes import RELATIONS, SCENE_COLORS


def make_scene_questions(name, n, split, seed=0):
    """Groups of images, and the captions to choose from, the true one first.

    "items": the item among 10, the colour unnamed. "colours" and "relations": captions
    that differ in the colour of the first item, or in the relation of two items.
    "winoground": two images and two captions of the same words; the first caption is
    that of the first image.
    """
    if name == "winoground":
        if split == "test":  # the examples that ship
            pairs = load_fashion_winoground()
        else:
            pairs = make_fashion_winoground(n, split=split, random_state=seed)
        return pairs.images[:n], pairs.captions[:n].tolist()
    if name == "items":
        images, labels, names = make_scene_task("items", n, split, seed)
        return images[:, None], [[f"a {x}" for x in _first(y, names)] for y in labels]
    n_items = 2 if name == "relations" else None
    data = make_fashion_scenes(n, n_items=n_items, split=split, random_state=seed)
    captions = []
    for scene in data.scenes:
        if name == "relations":
            variants = [{"relation": x} for x in _first(scene.relation, RELATIONS)]
        else:
            color, *others = scene.colors
            variants = [{"colors": (x, *others)} for x in _first(color, SCENE_COLORS)]
        captions.append([replace(scene, **variant).caption for variant in variants])
    return data.images[:, None], captions


def _first(true, names):
    return [true, *(name for name in names if name != true)]


def pair_errors(clf, images, captions, with_null=False, log_prior=0, pruning=None):
    """Errors of each image with its captions, (n_images, n_captions, n_trials).

    The unconditional error is the last, where wanted. With them the log posterior of
    the captions, which `log_prior`, (n_images, n_captions), is added to.
    """
    spec, trials = model_and_trials(clf)
    images, prompts, columns, _ = read_pairs(images, captions, clf._read_images)
    backbone = get_backbone(spec)
    conditions = backbone.condition(prompts)
    if with_null:
        conditions = torch.cat([conditions, backbone.encode_null(None)])
        columns = np.insert(columns, columns.shape[1], len(prompts), axis=1)
    n_prompts = np.ones(len(conditions), int)
    plan = make_plan(clf, spec, trials, conditions, n_prompts, pruning=pruning)
    prior = np.full((len(images), len(conditions)), -np.inf)
    np.put_along_axis(prior, columns, log_prior, axis=1)
    errors = errors_of(clf, plan, images, prior)
    log_proba = clf._log_posterior(plan, errors, prior)
    return (
        np.take_along_axis(errors, columns[..., None], axis=1),
        np.take_along_axis(log_proba, columns, axis=1),
    )


def scene_race(name, n, split, log_prior=None, key="", folder=None, **params):
    """Whether the true caption wins the default race, and its evaluations, (n,) each.

    `log_prior`, (n, n_captions), is another classifier's; `key` names it and `params`.
    """
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes", **params)
    images, captions = make_scene_questions(name, n, split)

    def race(images, captions, log_prior=0):
        errors, log_proba = pair_errors(
            clf, images, captions, log_prior=log_prior, pruning=0.99
        )
        evaluations = np.isfinite(errors).sum(axis=(1, 2))
        return np.stack([log_proba.argmax(axis=1) == 0, evaluations], axis=1)

    inputs = [images, captions] + ([] if log_prior is None else [log_prior])
    table = compute_in_chunks(race, inputs, folder, f"{name}-{split}-race-{key}")
    return table[:, 0].astype(bool), table[:, 1].astype(float)


def scene_table(name, n, split, folder=None, seed=0):
    """Errors of the noise, (n_images, n_captions, n_trials), the true caption first.

    Of "winoground" also the unconditional errors: (n, 2, 3, n_trials).
    """
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes", target="epsilon")
    images, captions = make_scene_questions(name, n, split, seed)
    is_pair = name == "winoground"

    def compute(images, captions):
        errors, _ = pair_errors(clf, images, captions, is_pair)
        return errors.astype(np.float32)

    stored = f"{name}-{split}-{seed}"
    table = compute_in_chunks(compute, [images, captions], folder, stored).astype(float)
    return table.reshape(n, 2, 3, -1) if is_pair else table


@dataclass
class Stored:
    """What a classifier says about images that are given by their index."""

    classes_: np.ndarray
    proba: np.ndarray

    def predict_proba(self, X):
        """Probabilities of the images with these indices."""
        return self.proba[X]

    def predict(self, X):
        """Labels of the images with these indices."""
        return self.classes_[self.proba[X].argmax(axis=1)]
