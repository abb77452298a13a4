"""The HTML of the page, by the macros of ``page.html.jinja``, which escape values."""

from jinja2 import Environment, PackageLoader

loader = PackageLoader("diffusion_sklearn.app", "")
environment = Environment(loader=loader, autoescape=True)
templates = environment.get_template("page.html.jinja").module
