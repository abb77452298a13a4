"""The command ``app``: a page in the browser."""

import os
from tempfile import TemporaryDirectory

from diffusion_sklearn._versions import import_optional


def run_app(args):
    """Show the page until the process is stopped.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments: `model`, `clip`, `host` and `port` are used.

    Raises
    ------
    ImportError
        Without Gradio.
    """
    with TemporaryDirectory(prefix="diffusion-sklearn-app-") as uploads:
        # Gradio reads them when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import_optional("gradio", "app")
        from diffusion_sklearn.app._page import launch

        launch(args.model, args.clip, args.host, args.port)
