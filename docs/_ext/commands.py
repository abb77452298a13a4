"""The directive ``commands``: a section with the help of each command."""

import click
from docutils import nodes
from docutils.parsers.rst import Directive

from diffusion_sklearn.cli._arguments import COMMANDS, PROGRAM


class Commands(Directive):
    """Sections with the output of ``--help``."""

    def run(self):
        """Make the sections."""
        sections = []
        for name, command in COMMANDS.commands.items():
            context = command.context_class(command, info_name=f"{PROGRAM} {name}")
            text = click.unstyle(command.get_help(context))
            section = nodes.section(ids=[f"command-{name}"])
            section += [nodes.title(text=name), nodes.literal_block(text, text)]
            sections.append(section)
        return sections


def setup(app):
    """Connect the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
