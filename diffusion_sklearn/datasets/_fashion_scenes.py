"""Captioned colour scenes composed of Fashion-MNIST photos."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.utils import Bunch, check_random_state

from diffusion_sklearn.datasets._fashion_mnist import (
    FASHION_NAMES,
    load_fashion_mnist,
    load_fashion_photos,
)

SCENE_COLORS = {
    "red": (225, 45, 45),
    "yellow": (240, 220, 50),
    "green": (50, 185, 70),
    "blue": (65, 95, 235),
    "purple": (165, 60, 215),
    "white": (240, 240, 240),
}
RELATIONS = ("left of", "right of", "above", "below")
MIRRORED = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
SCENE_WORDS = tuple(
    dict.fromkeys(
        word
        for phrase in ("a an of -", *SCENE_COLORS, *FASHION_NAMES, *RELATIONS)
        for word in phrase.replace("-", " - ").split()
    )
)
"""All words of the captions."""

SIDE = 32  # pixels


@dataclass(frozen=True)
class Scene:
    """Contents of a scene: one item, or two in a relation.

    Parameters
    ----------
    items : tuple of str
        One or two names of ``FASHION_NAMES``.
    colors : tuple of str
        The colour of each item.
    relation : str or None
        "left of", "right of", "above" or "below": the position of the first item
        relative to the second. None for one item.

    Attributes
    ----------
    caption : str
        In words, such as "a red sneaker left of a blue bag".
    plain_caption : str
        Without colours, such as "a sneaker left of a bag".
    mirrored : Scene
        The same scene, described from the second item.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import Scene
    >>> scene = Scene(("sneaker", "bag"), ("red", "blue"), "left of")
    >>> scene.mirrored.caption
    'a blue bag right of a red sneaker'
    """

    items: tuple
    colors: tuple
    relation: str | None = None

    @property
    def caption(self):
        """The scene in words, such as ``"a red sneaker left of a blue bag"``."""
        return self._join([f"{color} {item}" for color, item in self.pairs])

    @property
    def plain_caption(self):
        """The same without colours, such as ``"a sneaker left of a bag"``."""
        return self._join(self.items)

    @property
    def pairs(self):
        """(colour, item) of each item."""
        return tuple(zip(self.colors, self.items, strict=True))

    def _join(self, nouns):
        phrases = [f"an {n}" if n[0] in "aeiou" else f"a {n}" for n in nouns]
        return f" {self.relation} ".join(phrases)

    @property
    def mirrored(self):
        """The same scene, described from its second item."""
        if self.relation is None:
            return self
        return Scene(self.items[::-1], self.colors[::-1], MIRRORED[self.relation])


@lru_cache
def held_out_pairs():
    """(colour, item) pairs that occur in no training scene, one for each item."""
    colors = list(SCENE_COLORS)
    return frozenset(
        (colors[(5 * k + 1) % len(colors)], item)
        for k, item in enumerate(FASHION_NAMES)
    )


@lru_cache
def held_out_triples():
    """(item, relation, item) triples that occur in no training scene.

    One in nine ordered pairs of different items for each relation, with the same
    triples described from the other item.
    """
    triples = set()
    for shift, relation in ((3, "left of"), (4, "above")):
        for k, first in enumerate(FASHION_NAMES):
            second = FASHION_NAMES[(k + shift) % len(FASHION_NAMES)]
            triples |= {(first, relation, second), (second, MIRRORED[relation], first)}
    return frozenset(triples)


def is_held_out(scene):
    """Whether a scene contains a held-out pair or triple."""
    triple = (scene.items[0], scene.relation, scene.items[-1])
    return triple in held_out_triples() or not held_out_pairs().isdisjoint(scene.pairs)


def make_fashion_scenes(
    n, *, split="train", n_items=None, scenes=None, data_home=None, random_state=0
):
    """Compose Fashion-MNIST photos into captioned colour scenes of 32 x 32 pixels.

    A scene shows one item, or two in a relation (left of, right of, above, below),
    each in one of six colours, with jitter of place and size, on a plain or textured
    background. Some (colour, item) pairs and (item, relation, item) triples occur in
    no training scene, so that they test composition instead of memory.

    Parameters
    ----------
    n : int
        Number of scenes.
    split : {"train", "test", "held-out"}, default="train"
        "train": training photos, no held-out pair or triple. "test": test photos,
        likewise without them. "held-out": test photos, at least one of them in each
        scene.
    n_items : {1, 2}, default=None
        Items in a scene. None: one or two, at random.
    scenes : sequence of Scene, default=None
        Scenes to draw, cycled through; `split` then selects the photos only. None:
        random scenes.
    data_home : str or Path, default=None
        Folder with the IDX files of Fashion-MNIST, see
        :func:`~diffusion_sklearn.datasets.load_fashion_mnist`. None: the training
        photos from the usual places, and for the other splits the 1,000 test photos
        that ship with the package.
    random_state : int, RandomState or None, default=0
        Seeds contents and positions.

    Returns
    -------
    scenes : :class:`~sklearn.utils.Bunch`
        ``images`` (n, 32, 32, 3) uint8, ``captions`` list of n str, ``scenes`` list
        of n :class:`Scene` with the items, colours and relation.

    Raises
    ------
    ValueError
        If `split` or `n_items` is unknown.
    FileNotFoundError
        If the training photos are needed and missing.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import make_fashion_scenes
    >>> scenes = make_fashion_scenes(2, split="test", random_state=0)
    >>> scenes.images.shape
    (2, 32, 32, 3)
    """
    if n_items not in (None, 1, 2):
        raise ValueError(f"n_items={n_items!r} is not possible; pass 1, 2 or None.")
    rng = check_random_state(random_state)
    photos = photos_by_item(split, data_home)
    if scenes is None:
        scenes = [_draw_scene(rng, n_items, split == "held-out") for _ in range(n)]
    else:
        scenes = [scenes[k % len(scenes)] for k in range(n)]
    images = [render_scene(scene, photos, rng) for scene in scenes]
    return Bunch(
        images=np.array(images, np.uint8).reshape(n, SIDE, SIDE, 3),
        captions=[scene.caption for scene in scenes],
        scenes=scenes,
    )


def photos_by_item(split, data_home):
    """Photos of each item in a split.

    Parameters
    ----------
    split, data_home
        As in :func:`make_fashion_scenes`.

    Returns
    -------
    photos : dict of str to ndarray of shape (n, 28, 28), uint8

    Raises
    ------
    ValueError
        If `split` is unknown.
    """
    if split not in ("train", "test", "held-out"):
        raise ValueError(
            f"split={split!r} is unknown; pass 'train', 'test' or 'held-out'."
        )
    if split == "train":
        data = load_fashion_mnist(split="train", data_home=data_home)
    elif data_home is None:
        data = load_fashion_photos()
    else:
        data = load_fashion_mnist(split="test", data_home=data_home)
    return {
        name: data.images[data.target == label]
        for label, name in enumerate(FASHION_NAMES)
    }


def _draw_scene(rng, n_items, held_out):
    """Draw random scenes until one is held out, or not, as given."""
    color_names = list(SCENE_COLORS)
    while True:
        size = n_items or rng.randint(1, 3)
        items = tuple(FASHION_NAMES[k] for k in rng.permutation(10)[:size])
        colors = tuple(color_names[k] for k in rng.randint(len(color_names), size=size))
        relation = RELATIONS[rng.randint(4)] if size == 2 else None
        scene = Scene(items, colors, relation)
        if is_held_out(scene) == held_out:
            return scene


def render_scene(scene, photos, rng):
    """Paint a scene.

    Parameters
    ----------
    scene : Scene
    photos : dict of str to ndarray of shape (n, 28, 28)
        Photos of each item.
    rng : RandomState
        Draws photos, positions, sizes and the background.

    Returns
    -------
    image : ndarray of shape (32, 32, 3), uint8
    """
    canvas = _background(rng)  # (32, 32, 3)
    for k, (color, item) in enumerate(scene.pairs):
        if scene.relation is None:
            side = rng.randint(20, 27)
            center = SIDE / 2 + rng.uniform(-3, 3, size=2)  # (y, x)
        else:
            side = rng.randint(14, 17)
            along = -8 if (scene.relation in ("left of", "above")) == (k == 0) else 8
            horizontal = scene.relation in ("left of", "right of")
            center = SIDE / 2 + np.array([0, along] if horizontal else [along, 0])
            jitter = (4, 0.8) if horizontal else (0.8, 4)
            center = center + rng.uniform(-1, 1, size=2) * jitter
        photo = photos[item][rng.randint(len(photos[item]))]
        _paint(canvas, photo, SCENE_COLORS[color], center, side, rng)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _background(rng):
    """Dim neutral ground, plain or with a soft texture."""
    ground = np.full((SIDE, SIDE, 3), rng.uniform(10, 90)) + rng.uniform(-8, 8, size=3)
    if rng.randint(2):
        cells = Image.fromarray(rng.normal(size=(6, 6)).astype(np.float32))
        texture = np.asarray(cells.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        ground = ground + 14 * texture[..., None]
    return ground


def _paint(canvas, photo, color, center, side, rng):
    """Tint a photo and lay it over the canvas, in place."""
    small = Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC)
    shade = np.asarray(small, np.float64)[..., None] / 255  # (side, side, 1)
    cover = np.clip(shade / 0.2, 0, 1)
    tint = np.asarray(color, np.float64) + rng.uniform(-12, 12, size=3)
    top, left = np.clip(np.rint(center - side / 2), 0, SIDE - side).astype(int)
    window = canvas[top : top + side, left : left + side]
    window[:] = (1 - cover) * window + cover * (0.35 + 0.65 * shade) * tint
