"""A tiny pipeline with random weights of every family."""

from functools import partial

from diffusion_sklearn.testing._transformers import (
    aura_flow,
    chroma,
    cogview4,
    dit,
    flux,
    flux2,
    hidream,
    hunyuan_dit,
    lumina2,
    pixart_alpha,
    pixart_sigma,
    qwen_image,
    sana,
    stable_diffusion_3,
    z_image,
)
from diffusion_sklearn.testing._unets import (
    deepfloyd_if,
    kolors,
    latent_consistency,
    pixels,
    stable_diffusion,
    stable_diffusion_xl,
)


def tiny_pipelines():
    """Tiny pipelines with random weights, one of every supported family.

    For tests: a pipeline has some thousands of weights, is made in a fraction of a
    second and needs no download. Tokenizers, text encoders, autoencoder and scheduler
    are of the classes that the published models have; every letter is a token. Kolors
    needs sentencepiece.

    Returns
    -------
    pipelines : dict of str to callable
        By the name of the family. A call makes a new pipeline, always with the same
        weights.

    See Also
    --------
    check_backbone : Check a Backbone, for instance of one of these pipelines.

    Examples
    --------
    >>> from diffusion_sklearn import ZeroShotDiffusionClassifier
    >>> from diffusion_sklearn.testing import tiny_pipelines
    >>> pipeline = tiny_pipelines()["Flux"]()
    >>> sum(p.numel() for p in pipeline.transformer.parameters())
    24304
    >>> clf = ZeroShotDiffusionClassifier(model=pipeline, n_trials=4, target="native")
    >>> clf.fit(classes=["bag", "shoe"]).backbone_.image_size
    8
    """
    sd, sd3 = stable_diffusion, stable_diffusion_3
    return {
        "Stable Diffusion 1.x, 2.x": sd,
        "Stable Diffusion, velocity": partial(sd, "v_prediction"),
        "Stable Diffusion, image to image": partial(sd, image_to_image=True),
        "LCM": latent_consistency,
        "LCM, image to image": partial(latent_consistency, image_to_image=True),
        "Stable Diffusion XL": stable_diffusion_xl,
        "Kolors": kolors,
        "Kolors, image to image": partial(kolors, image_to_image=True),
        "Stable Diffusion 3, 3.5": sd3,
        "Stable Diffusion 3 without T5": partial(sd3, with_t5=False),
        "Flux": flux,
        "Flux schnell": partial(flux, guidance_embeds=False),
        "PixArt-alpha": pixart_alpha,
        "PixArt-Sigma": pixart_sigma,
        "Sana": sana,
        "SANA-Sprint": partial(sana, "Sprint"),
        "SANA-Sprint, image to image": partial(sana, "SprintImg2Img"),
        "CogView 4": cogview4,
        "HunyuanDiT": hunyuan_dit,
        "DeepFloyd IF": deepfloyd_if,
        "DeepFloyd IF, image to image": partial(deepfloyd_if, image_to_image=True),
        "Qwen-Image": qwen_image,
        "Qwen-Image, image to image": partial(qwen_image, image_to_image=True),
        "Z-Image": z_image,
        "Z-Image, image to image": partial(z_image, image_to_image=True),
        "Chroma": chroma,
        "Chroma, image to image": partial(chroma, image_to_image=True),
        "FLUX.2": flux2,
        "FLUX.2 klein": partial(flux2, is_klein=True),
        "HiDream": hidream,
        "Lumina 2": lumina2,
        "AuraFlow": aura_flow,
        "DiT": dit,
        "U-Net on pixels": pixels,
    }
