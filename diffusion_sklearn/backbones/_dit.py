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
    shared : dict of str to list of int
        Names that several classes have, as "crane" does in ImageNet.
    n_labels : int
        Number of classes the model was trained on.
    """

    kind = "class"

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.labels, self.shared = _names(pipeline)
        self.n_labels = self.network.config.num_embeds_ada_norm

    def _network(self, pipeline):
        return pipeline.transformer

    def _latent_step(self):
        return self.network.config.patch_size

    def shared_parts(self):
        # Each block embeds timestep and class anew, and scales and shifts by them.
        norms = [block.norm1 for block in self.network.transformer_blocks]
        embeddings = [part for norm in norms for part in (norm.emb, norm.linear)]
        return {
            ("image", "trial"): [self.network.pos_embed],
            ("trial", "condition"): [*embeddings, self.network.proj_out_1],
        }

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
        config = self.network.config
        return config.out_channels == 2 * config.in_channels

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
        return output.sample.to(noised.device, self.compute_dtype)


def _names(pipeline):
    """Names of the classes: those of one class, and those that several share.

    "dog, hound" is a name as a whole, and so is each of its parts.
    """
    given = pipeline.config.get("id2label")
    if not given:  # a pipeline that was built by hand or saved by diffusers
        return dict(pipeline.labels), {}
    ids = {}
    for key, value in given.items():
        for name in {value.strip(), *(part.strip() for part in value.split(","))}:
            ids.setdefault(name, []).append(int(key))
    alone = {name: found[0] for name, found in sorted(ids.items()) if len(found) == 1}
    return alone, {name: found for name, found in ids.items() if len(found) > 1}
