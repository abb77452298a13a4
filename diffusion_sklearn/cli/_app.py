"""The command ``app``: a page in the browser."""

from importlib.util import find_spec


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
    from diffusion_sklearn.app._page import launch

    launch(model, clip, host, port)
