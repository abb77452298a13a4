"""DiT: a transformer conditioned on a class label."""

import torch

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._class_names import class_names_of


class DiTBackbone(Backbone):
    """A ``DiTPipeline``.

    Parameters
    ----------
    pipeline : diffusers.DiTPipeline
        Peebles and Xie (ICCV 2023).

    Attributes
    ----------
    labels : dict of str to int
        Names of the classes in the pipeline's config, and their ids.
    shared : dict of str to list of int
        Names that several classes have, such as "crane" in ImageNet.
    n_labels : int
        Number of classes the model was trained on.
    """

    pipelines = ("DiTPipeline",)
    kind = "class"

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.labels, self.shared = class_names_of(pipeline)
        self.n_labels = self.network.config.num_embeds_ada_norm

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

    def null_condition(self):
        return self.condition([self.n_labels])

    def forward(self, noised, timesteps, conditions):
        return self.network(noised, timestep=timesteps, class_labels=conditions).sample
