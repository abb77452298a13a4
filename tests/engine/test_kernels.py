"""Faster kernels on a CPU: the same numbers."""

import pytest
import torch
from torch.nn import functional as F

from diffusion_sklearn import load_backbone
from diffusion_sklearn.engine import _kernels
from diffusion_sklearn.engine._kernels import FastKernels, tanh_gelu


@pytest.fixture(params=[torch.backends.mkldnn.is_available(), False])
def onednn(request, monkeypatch):
    """Whether oneDNN multiplies, whatever is faster on this machine."""
    monkeypatch.setattr(_kernels, "onednn_is_faster", lambda: request.param)


def test_gelu_is_the_tanh_approximation():
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-1e4, 0.0, 1e4])])
    exact = F.gelu(x.double(), approximate="tanh")
    error = (tanh_gelu(x).double() - exact).abs()
    assert (error <= 1e-6 * (1 + exact.abs())).all()


def test_kernels_agree_with_plain_ones_on_the_bundled_models(onednn):
    for name, asked in ("fashion-dit", [3, 7]), ("fashion-scenes", ["a bag", "a coat"]):
        backbone = load_backbone(name)
        seeded = torch.Generator().manual_seed(0)
        noised = torch.randn(2, *backbone.latent_shape(32), generator=seeded)
        inputs = noised, torch.tensor([10, 700]), backbone.condition(asked)
        with torch.inference_mode():
            plain = backbone.predict(*inputs)
            with FastKernels():
                fast = backbone.predict(*inputs)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_other_dtypes_and_other_operations_pass_through(onednn):
    for dtype in (torch.float64, torch.bfloat16):
        x, w = torch.randn(5, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
        plain = F.linear(x, w), F.gelu(x, approximate="tanh"), F.gelu(x), x @ w.T
        with FastKernels():
            fast = F.linear(x, w), F.gelu(x, approximate="tanh"), F.gelu(x), x @ w.T
        for a, b in zip(fast, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_without_onednn_the_plain_product_is_used(monkeypatch):
    def missing(*args):
        raise NotImplementedError

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    _kernels.onednn_is_faster.cache_clear()
    assert not _kernels.onednn_is_faster()
    _kernels.onednn_is_faster.cache_clear()
