"""Fashion-MNIST: the full data set from IDX files, and the photos that ship."""

import gzip
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

FASHION_NAMES = tuple(
    "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot".split(",")
)
"""Names of the ten classes; the position is the label in the IDX files."""

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load_fashion_mnist(*, split="train", data_home=None):
    """Load all of Fashion-MNIST from its IDX files.

    Nothing is downloaded. The files are those of the original distribution
    (``train-images-idx3-ubyte.gz`` and so on, gzipped or not), for instance from
    Debian's package ``dataset-fashion-mnist``.

    Parameters
    ----------
    split : {"train", "test"}, default="train"
        The 60,000 training photos or the 10,000 test photos.
    data_home : str or Path, default=None
        Folder with the IDX files. None: the environment variable
        ``FASHION_MNIST_HOME``, else where Debian's package puts them.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images`` (n, 28, 28) uint8, ``target`` (n,) int64 and ``target_names``
        (10,) str, the name of each label.

    Raises
    ------
    ValueError
        If `split` is unknown.
    FileNotFoundError
        If the files are missing; the message names the folder.

    References
    ----------
    Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST: a Novel Image Dataset for
    Benchmarking Machine Learning Algorithms".

    Examples
    --------
    Two photos as such files; the real ones have 60,000 and 10,000.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from diffusion_sklearn.datasets import load_fashion_mnist, load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> pixels = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28])
    >>> pixels += photos.images[:2].tobytes()
    >>> labels = bytes([0, 0, 8, 1, 0, 0, 0, 2, *photos.target[:2]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "t10k-images-idx3-ubyte").write_bytes(pixels)
    ...     _ = (Path(folder) / "t10k-labels-idx1-ubyte").write_bytes(labels)
    ...     data = load_fashion_mnist(split="test", data_home=folder)
    >>> data.images.shape, data.target_names[data.target].tolist()
    ((2, 28, 28), ['ankle boot', 'pullover'])
    """
    prefixes = {"train": "train", "test": "t10k"}
    if split not in prefixes:
        raise ValueError(f"split={split!r} is unknown; pass 'train' or 'test'.")
    home = data_home or os.environ.get("FASHION_MNIST_HOME")
    folder = Path(home or DEBIAN_FOLDER)
    images = _read_idx(folder, f"{prefixes[split]}-images-idx3-ubyte")  # (n, 28, 28)
    target = _read_idx(folder, f"{prefixes[split]}-labels-idx1-ubyte")  # (n,)
    return Bunch(
        images=images,
        target=target.astype(np.int64),
        target_names=np.array(FASHION_NAMES),
    )


def _read_idx(folder, name):
    """Read one IDX file of unsigned bytes, gzipped or not."""
    for path, open_file in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
        if path.is_file():
            with open_file(path, "rb") as file:
                data = file.read()
            shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
            values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
            return values.reshape(shape)
    raise FileNotFoundError(
        f"No {name}[.gz] in data_home={str(folder)!r}. Install Debian's package "
        "dataset-fashion-mnist, or pass data_home= (or set FASHION_MNIST_HOME) to a "
        "folder with the IDX files of Fashion-MNIST."
    )


def load_fashion_photos():
    """Load the 1,000 Fashion-MNIST test photos that ship with the package.

    They are the first 1,000 photos of the test set, in order; no bundled model was
    trained on a test photo.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images`` (1000, 28, 28) uint8, ``target`` (1000,) int64, ``names``
        (1000,) str, the name of each photo's class, ``target_names`` (10,) str.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> photos.images.shape, str(photos.names[0])
    ((1000, 28, 28), 'ankle boot')
    """
    path = files("diffusion_sklearn.datasets") / "data" / "fashion_photos.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        data = Bunch(**arrays, target_names=np.array(FASHION_NAMES))
    data.target = data.target.astype(np.int64)
    data.names = data.target_names[data.target]
    return data
