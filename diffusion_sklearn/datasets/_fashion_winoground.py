"""Examples of two scenes and two captions of the same words."""

from importlib.resources import files

import numpy as np
from sklearn.utils import Bunch, check_random_state

from diffusion_sklearn.datasets._fashion_mnist import FASHION_NAMES
from diffusion_sklearn.datasets._fashion_scenes import (
    RELATIONS,
    SCENE_COLORS,
    SIDE,
    Scene,
    is_held_out,
    photos_by_item,
    render_scene,
)

TAGS = ("object", "attribute", "relation", "both")


def load_fashion_winoground():
    """Load 400 examples of two scenes and two captions of the same words.

    Modelled on Winoground: a model that reads captions as bags of words can't match
    them to the scenes. They are made by :func:`make_fashion_winoground` with its
    defaults: test photos, and combinations that occur in training scenes.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images`` (400, 2, 32, 32, 3) uint8; ``captions`` (400, 2) str, the caption of
        each image; ``tags`` (400,) str, what is swapped: "object", "attribute",
        "relation" or "both", a hundred of each.

    References
    ----------
    Thrush et al. (2022), "Winoground: Probing vision and language models for
    visio-linguistic compositionality", CVPR.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import load_fashion_winoground
    >>> data = load_fashion_winoground()
    >>> data.images.shape
    (400, 2, 32, 32, 3)
    >>> for tag, captions in zip(data.tags[1:4], data.captions[1:4]):
    ...     print(f"{tag}: {captions[0]} / {captions[1]}")
    attribute: a white shirt left of a green coat / a green shirt left of a white coat
    relation: a trouser above an ankle boot / an ankle boot above a trouser
    both: a red dress below a blue sandal / a blue sandal below a red dress
    """
    path = files("diffusion_sklearn.datasets") / "data" / "fashion_winoground.npz"
    with path.open("rb") as file, np.load(file) as stored:
        return Bunch(**stored)


def make_fashion_winoground(n=400, *, split="test", data_home=None, random_state=0):
    """Compose examples of two scenes and two captions of the same words.

    A scene shows two items of different colours in a relation. The tag of an example
    is what differs between its scenes, in turn:

    - "object": the items, "a red bag above a blue coat" / "a red coat above a blue
      bag";
    - "attribute": the colours, "a red bag above a blue coat" / "a blue bag above a red
      coat";
    - "relation": the positions, in captions without colours, "a bag above a coat" / "a
      coat above a bag";
    - "both": the positions, in captions with colours, "a red bag above a blue coat" /
      "a blue coat above a red bag".

    Parameters
    ----------
    n : int, default=400
        Number of examples.
    split : {"train", "test", "held-out"}, default="test"
        Photos and combinations, as in :func:`make_fashion_scenes`, of both scenes.
    data_home : str or Path, default=None
        As in :func:`make_fashion_scenes`.
    random_state : int, RandomState or None, default=0
        Seeds contents and positions.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images`` (n, 2, 32, 32, 3) uint8; ``captions`` (n, 2) str, the caption of each
        image; ``tags`` (n,) str.

    Raises
    ------
    ValueError
        If `split` is unknown.
    FileNotFoundError
        If the training photos are needed and missing.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import make_fashion_winoground
    >>> data = make_fashion_winoground(8, split="held-out")
    >>> data.images.shape, data.captions.shape
    ((8, 2, 32, 32, 3), (8, 2))
    """
    photos = photos_by_item(split, data_home)
    rng = check_random_state(random_state)
    tags = [TAGS[k % len(TAGS)] for k in range(n)]
    pairs = [_draw_pair(tag, split == "held-out", rng) for tag in tags]
    images = [[render_scene(scene, photos, rng) for scene in pair] for pair in pairs]
    captions = [
        [s.plain_caption if tag == "relation" else s.caption for s in pair]
        for tag, pair in zip(tags, pairs, strict=True)
    ]
    return Bunch(
        images=np.array(images, np.uint8).reshape(n, 2, SIDE, SIDE, 3),
        captions=np.array(captions, str).reshape(n, 2),
        tags=np.array(tags, str),
    )


def _draw_pair(tag, held_out, rng):
    """Draw random pairs until both scenes are held out, or not, as given."""
    color_names = list(SCENE_COLORS)
    while True:
        items = tuple(FASHION_NAMES[k] for k in rng.permutation(10)[:2])
        colors = tuple(color_names[k] for k in rng.permutation(len(color_names))[:2])
        relation = RELATIONS[rng.randint(4)]
        other_items = items if tag == "attribute" else items[::-1]
        other_colors = colors if tag == "object" else colors[::-1]
        pair = (
            Scene(items, colors, relation),
            Scene(other_items, other_colors, relation),
        )
        if all(is_held_out(scene) == held_out for scene in pair):
            return pair
