"""Kolors: the U-Net of Stable Diffusion XL, conditioned on the tokens of ChatGLM."""

from diffusion_sklearn.backbones._stable_diffusion_xl import StableDiffusionXLBackbone


class KolorsBackbone(StableDiffusionXLBackbone):
    """A ``KolorsPipeline``, which needs the library sentencepiece.

    Parameters
    ----------
    pipeline : diffusers.KolorsPipeline
        Of Kuaishou (2024).
    """

    pipelines = ("KolorsPipeline", "KolorsImg2ImgPipeline")
    max_sequence_length = 256
