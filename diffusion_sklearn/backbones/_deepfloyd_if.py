"""DeepFloyd IF, stage 1: a U-Net on pixels, conditioned on the tokens of T5."""

from diffusion_sklearn.backbones._stable_diffusion import StableDiffusionBackbone
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "DeepFloyd/IF-I-XL-v1.0"


class DeepFloydIFBackbone(StableDiffusionBackbone):
    """An ``IFPipeline``, of stage 1: 64 pixels.

    Parameters
    ----------
    pipeline : diffusers.IFPipeline
        Of Stability AI (2023), after Imagen.
    """

    pipelines = ("IFPipeline", "IFImg2ImgPipeline")
    max_sequence_length = 77

    def condition(self, names):
        """Token embeddings of prompts.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Tensor of shape (len(names), n_tokens, d)
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer, self.max_sequence_length, HUB_MODEL)

        def embed(prompts, device):
            return pipeline.encode_prompt(
                prompts, device=device, do_classifier_free_guidance=False
            )[0]

        return embed_in_batches(self, names, embed)
