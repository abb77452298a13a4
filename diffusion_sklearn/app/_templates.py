"""The HTML of the page, by the macros of ``page.html.jinja``, which escape values."""

from importlib.resources import files

import jinja2

environment = jinja2.Environment(autoescape=True)
source = files("diffusion_sklearn.app") / "page.html.jinja"
templates = environment.from_string(source.read_text("utf-8")).module
