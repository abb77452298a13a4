"""The progress bar of a prediction."""

import time

import numpy as np
from tqdm.auto import tqdm


class ProgressBar:
    """A bar with images, network evaluations, their rate, and the time left.

    Parameters
    ----------
    n_images : int
        How many there are.
    verbose : int
        0: no bar.
    """

    def __init__(self, n_images, verbose):
        self.bar = tqdm(total=n_images, unit="image", disable=not verbose)
        self.n_evaluations, self.began = 0, time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def update(self, n_evaluations):
        """Advance by a group of images.

        Parameters
        ----------
        n_evaluations : ndarray of shape (n_group,)
            Of each image.
        """
        self.n_evaluations += int(np.sum(n_evaluations))
        rate = self.n_evaluations / (time.perf_counter() - self.began)
        self.bar.set_postfix_str(
            f"{self.n_evaluations:,} evaluations, {rate:,.0f} a second", refresh=False
        )
        self.bar.update(len(n_evaluations))
