"""Environment and fixtures of all tests.

The process of pytest that starts the workers reads this too: what takes seconds to
import is imported by the fixtures.
"""

import os
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker of pytest has a core
# One folder of models for all workers of pytest, which inherit the environment.
os.environ.setdefault(
    "DIFFUSION_SKLEARN_TESTS", f"{tempfile.gettempdir()}/tiny-models-{os.getpid()}"
)

import pytest


def pytest_configure(config):
    lane = config.getoption("markexpr")
    if "gpu" not in lane or "not gpu" in lane:  # numbers are those of a CPU
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_sessionfinish(session):
    folder = os.environ["DIFFUSION_SKLEARN_TESTS"]
    if folder.endswith(f"-{os.getpid()}"):  # made by this process
        shutil.rmtree(folder, ignore_errors=True)


def _folder(name, what):
    @pytest.fixture(scope="session", name=f"{name.replace('-', '_')}_folder")
    def folder():
        from tests.models import saved_model

        return saved_model(name)

    folder.__doc__ = f"{what} saved in its library's layout."
    return folder


dit_folder = _folder("dit", "A tiny DiT")
sd_folder = _folder("sd", "A tiny Stable Diffusion (epsilon prediction)")
sd_v_folder = _folder("sd-v", "A tiny Stable Diffusion with v prediction")
sd3_folder = _folder("sd3", "A tiny Stable Diffusion 3")
clip_folder = _folder("clip", "A tiny CLIP")
siglip_folder = _folder("siglip", "A tiny SigLIP")


@pytest.fixture(scope="session")
def photos():
    """The 1,000 photos that ship."""
    from diffusion_sklearn.datasets import load_fashion_photos

    return load_fashion_photos()


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that are really read from disk."""
    from diffusers import DiffusionPipeline

    from diffusion_sklearn import clear_cache

    read, names = DiffusionPipeline.from_pretrained.__func__, []

    def counting(cls, source, **options):
        names.append(source)
        return read(cls, source, **options)

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(counting))
    clear_cache()
    return names
