"""Class-conditional diffusion of pixels: a U-Net without an autoencoder."""

import torch

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._class_names import class_names_of


class PixelBackbone(Backbone):
    """A ``DDPMPipeline`` or ``DDIMPipeline`` whose ``UNet2DModel`` takes a class.

    Parameters
    ----------
    pipeline : diffusers.DDPMPipeline or diffusers.DDIMPipeline
        With ``num_class_embeds`` in the config of its U-Net; names of the classes, if
        any, as an ``id2label`` in its ``model_index.json``.

    Attributes
    ----------
    labels : dict of str to int
        Names of the classes, and their ids.
    shared : dict of str to list of int
        Names that several classes have.
    n_labels : int
        Number of classes the model was trained on.
    """

    pipelines = ("DDPMPipeline", "DDIMPipeline")
    kind = "class"

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.labels, self.shared = class_names_of(pipeline)
        self.n_labels = self.network.config.num_class_embeds
        if not self.n_labels:
            raise ValueError(
                "The U-Net has no num_class_embeds: it is not conditioned on a class; "
                "pass a class-conditional model."
            )

    def condition(self, names):
        """Class ids as the network takes them.

        Parameters
        ----------
        names : list of int
            Class ids.

        Returns
        -------
        conditions : Tensor of shape (len(names),), int64
        """
        return torch.tensor(names, dtype=torch.int64)

    def forward(self, noised, timesteps, conditions):
        return self.network(noised, timesteps, class_labels=conditions).sample

    def _latent_step(self):
        return 2 ** (len(self.network.config.block_out_channels) - 1)
