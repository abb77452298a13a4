"""The command ``app``: a page in the browser."""

import os
from importlib.util import find_spec
from tempfile import TemporaryDirectory


def run_app(model=None, clip=None, host="127.0.0.1", port=7860):
    """Show the page until the process is stopped.

    Parameters
    ----------
    model, clip, host, port
        As in :func:`diffusion_sklearn.app._page.launch`.

    Raises
    ------
    ImportError
        Without Gradio.
    """
    if find_spec("gradio") is None:
        raise ImportError('The page needs Gradio: pip install "diffusion-sklearn[app]"')
    with TemporaryDirectory(prefix="diffusion-sklearn-app-") as uploads:
        # Gradio reads them when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from diffusion_sklearn.app._page import launch

        launch(model, clip, host, port)
