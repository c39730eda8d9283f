"""Tables on the terminal, or in a log."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType

_LOG_WIDTH = 180  # where there is no terminal to ask


def show(*parts: RenderableType) -> None:
    """Print to standard output, as wide as it is."""
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    for part in parts:
        console.print(part)
