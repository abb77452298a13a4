"""A tiny pipeline with random weights of every family."""

from functools import partial

from diffusion_sklearn.testing import _transformers as transformers
from diffusion_sklearn.testing import _unets as unets


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
    sd, sd3 = unets.stable_diffusion, transformers.stable_diffusion_3
    return {
        "Stable Diffusion 1.x, 2.x": sd,
        "Stable Diffusion, velocity": partial(sd, "v_prediction"),
        "Stable Diffusion, image to image": partial(sd, image_to_image=True),
        "LCM": unets.latent_consistency,
        "LCM, image to image": partial(unets.latent_consistency, image_to_image=True),
        "Stable Diffusion XL": unets.stable_diffusion_xl,
        "Kolors": unets.kolors,
        "Kolors, image to image": partial(unets.kolors, image_to_image=True),
        "Stable Diffusion 3, 3.5": sd3,
        "Stable Diffusion 3 without T5": partial(sd3, with_t5=False),
        "Flux": transformers.flux,
        "Flux schnell": partial(transformers.flux, guidance_embeds=False),
        "PixArt-alpha": transformers.pixart_alpha,
        "PixArt-Sigma": transformers.pixart_sigma,
        "Sana": transformers.sana,
        "SANA-Sprint": partial(transformers.sana, "Sprint"),
        "SANA-Sprint, image to image": partial(transformers.sana, "SprintImg2Img"),
        "CogView 4": transformers.cogview4,
        "HunyuanDiT": transformers.hunyuan_dit,
        "DeepFloyd IF": unets.deepfloyd_if,
        "DeepFloyd IF, image to image": partial(
            unets.deepfloyd_if, image_to_image=True
        ),
        "Qwen-Image": transformers.qwen_image,
        "Qwen-Image, image to image": partial(
            transformers.qwen_image, image_to_image=True
        ),
        "Z-Image": transformers.z_image,
        "Z-Image, image to image": partial(transformers.z_image, image_to_image=True),
        "Chroma": transformers.chroma,
        "Chroma, image to image": partial(transformers.chroma, image_to_image=True),
        "FLUX.2": transformers.flux2,
        "FLUX.2 klein": partial(transformers.flux2, is_klein=True),
        "HiDream": transformers.hidream,
        "Lumina 2": transformers.lumina2,
        "AuraFlow": transformers.aura_flow,
        "DiT": transformers.dit,
        "U-Net on pixels": unets.pixels,
    }
