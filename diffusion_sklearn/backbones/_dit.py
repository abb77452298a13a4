"""DiT: a transformer conditioned on a class label."""

import torch

from diffusion_sklearn.backbones._base import Backbone


class DiTBackbone(Backbone):
    """A ``DiTPipeline``; a learned sigma is left out of the prediction.

    Parameters
    ----------
    pipeline : diffusers.DiTPipeline
        Peebles and Xie (ICCV 2023).

    Attributes
    ----------
    labels : dict of str to int
        The pipeline's own names of its classes.
    n_labels : int
        Number of classes the model was trained on.
    """

    kind = "class"

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.labels = dict(pipeline.labels)
        self.n_labels = self.network.config.num_embeds_ada_norm

    def _network(self, pipeline):
        return pipeline.transformer

    def _latent_step(self):
        return self.network.config.patch_size

    def condition(self, names):
        """Class ids as the network takes them.

        Parameters
        ----------
        names : list of int
            Class ids; ``n_labels`` is the null class.

        Returns
        -------
        conditions : Tensor of shape (len(names),), int64
        """
        return torch.tensor(names, dtype=torch.int64)

    @property
    def learns_variance(self):
        """Whether the network has a second half of channels for sigma."""
        return self.network.config.out_channels == 2 * self.network.config.in_channels

    def predict(self, noised, timesteps, conditions):
        output = self._output(noised, timesteps, conditions)
        # With a learned sigma the first half of the channels is epsilon.
        return output[:, : noised.shape[1]]

    def predict_with_variance(self, noised, timesteps, conditions):
        """Run the network once, for epsilon and for its learned variance.

        Parameters
        ----------
        noised, timesteps, conditions
            As for :meth:`predict`.

        Returns
        -------
        predicted, share : Tensor of shape (b, c, h, w), float32 or float64
            `share` places the log variance between its bounds, -1 to 1.
        """
        return self._output(noised, timesteps, conditions).chunk(2, dim=1)

    def _output(self, noised, timesteps, conditions):
        output = self.network(
            noised.to(self.dtype), timestep=timesteps, class_labels=conditions
        )
        return output.sample.to(self.compute_dtype)
