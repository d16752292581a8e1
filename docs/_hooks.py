"""What mkdocs cannot do by itself: the page of the command line, which is the text of `--help`."""

import inspect
from collections.abc import Iterator
from typing import Any

import click

from faitheir.cli import main

MARK = "<!-- every command -->"


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Name and help text of a command and of those below it, as a terminal of 96 columns shows them."""
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, click.Context(child, parent=context, info_name=name))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    if MARK not in markdown:
        return markdown
    root = click.Context(main, info_name="faitheir", terminal_width=96, **main.context_settings)
    parts = [f"## {name}\n\n```text\n{inspect.cleandoc(text)}\n```\n" for name, text in commands(main, root)]
    return markdown.replace(MARK, "\n".join(parts))
