"""An estimator of images around a pretrained model, be it a classifier or not."""

from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from diffusion_sklearn.backbones._conditions import pack_tensors, unpack_tensors
from diffusion_sklearn.backbones._spec import pack_model, unpack_model
from diffusion_sklearn.images._pixels import check_images, holds_rows, rows_to_images


class BaseImageEstimator(BaseEstimator):
    """Reads images in every form; clones share the model, pickles hold its name.

    A subclass has the parameters `model` and `image_shape`. The state of a pickle has
    arrays in place of tensors, which skops does not store.
    """

    def _read_images(self, X):
        """Check that all of X can be read; flat rows become images."""
        if holds_rows(X):
            X = validate_data(self, X, reset=False)
            X = rows_to_images(X, self.image_shape)
        return check_images(X)

    def __sklearn_clone__(self):
        # The model is shared, where scikit-learn would deep-copy a pipeline.
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__, model=None)
        twin = BaseEstimator.__sklearn_clone__(twin)
        twin.model = self.model
        return twin

    def __getstate__(self):
        state = super().__getstate__()
        return pack_tensors({**state, "model": pack_model(self.model)})

    def __setstate__(self, state):
        state = {**state, "model": unpack_model(state["model"])}
        super().__setstate__(unpack_tensors(state))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
