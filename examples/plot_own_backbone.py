"""
A model that diffusers does not know
====================================

This example writes and trains a denoiser of 8x8 digits in a few seconds, wraps it in a
pipeline, and uses it as a classifier through a ``Backbone``, which defines how the
network is called.
"""

import matplotlib.pyplot as plt
import torch
from diffusers import ConfigMixin, DDPMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from diffusion_sklearn import Backbone, ConditionalDiffusionClassifier

NONE = 10  # the null class: labels are dropped to it one time in ten


# %%
# The model and its pipeline use diffusers only.


class DigitDenoiser(ModelMixin, ConfigMixin):
    """Predicts the noise in a digit from the noised digit, the timestep and a class."""

    @register_to_config
    def __init__(self, sample_size=8, in_channels=1, n_classes=10, width=256):
        super().__init__()
        n_pixels = in_channels * sample_size**2
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU())
        self.label = nn.Embedding(n_classes + 1, width)
        self.enter = nn.Linear(n_pixels, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
            for _ in range(4)
        )
        self.leave = nn.Linear(width, n_pixels)

    def forward(self, noised, timesteps, labels):  # (b, 1, 8, 8), (b,), (b,)
        waves = timesteps[:, None] / 1000 * 2.0 ** torch.arange(8).to(noised)  # (b, 8)
        told = self.time(torch.cat([waves.sin(), waves.cos()], 1)) + self.label(labels)
        hidden = self.enter(noised.flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden + told)
        return self.leave(hidden).view_as(noised)


class DigitPipeline(DiffusionPipeline):
    """A network with its scheduler."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)


def train(images, labels, steps=1500):
    """Train a denoiser on digits and return its pipeline."""
    torch.manual_seed(0)
    network, scheduler = (
        DigitDenoiser(),
        DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (256,))
        clean, label = images[rows], labels[rows]
        label = torch.where(torch.rand(256) < 0.1, NONE, label)
        noise, t = torch.randn_like(clean), torch.randint(1000, (256,))
        loss = nn.functional.mse_loss(
            network(scheduler.add_noise(clean, noise, t), t, label), noise
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return DigitPipeline(network, scheduler)


# %%
# The backbone names its pipeline class and its kind of condition, and implements one
# forward pass. Schedule, prediction type and image size are read from the configs.


class DigitBackbone(Backbone):
    """A ``DigitPipeline``."""

    pipelines = ("DigitPipeline",)
    kind = "class"
    labels = {}  # noqa: RUF012 (names of classes: none, the ids are digits)
    shared = {}  # noqa: RUF012
    n_labels = 10

    def condition(self, names):
        return torch.tensor(names)  # class ids; (n,)

    def null_condition(self):
        return torch.tensor([NONE])

    def forward(self, noised, timesteps, conditions):
        return self.network(noised, timesteps, conditions)


# %%
# Use it as a classifier.

digits = load_digits()
images = digits.images / 16  # (n, 8, 8), in [0, 1]
X_train, X_test, y_train, y_test = train_test_split(
    images, digits.target, test_size=100, random_state=0
)
pipeline = train(
    torch.from_numpy(2 * X_train - 1).float()[:, None], torch.from_numpy(y_train)
)
clf = ConditionalDiffusionClassifier(model=pipeline).fit(classes=range(10))
print(f"accuracy on 100 digits: {clf.score(X_test, y_test):.2f}")

# %%
# `score_samples` is lower for transposed digits, which are unlike the training
# images.

turned = X_test.transpose(0, 2, 1)
likely, unlikely = clf.score_samples(X_test), clf.score_samples(turned)
print(f"likelier than on their side: {(likely > unlikely).mean():.0%}")

figure, ax = plt.subplots(layout="constrained")
ax.hist(likely, bins=20, alpha=0.7, label="digits")
ax.hist(unlikely, bins=20, alpha=0.7, label="digits on their side")
ax.set(xlabel="score_samples", ylabel="images")
ax.legend()
