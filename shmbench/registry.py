"""Names to classes: ours by one line a kind, third parties' by entry points."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from shmbench.errors import UsageError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: its nearest match, or all the names there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"


class Registry(Generic[T]):
    """Maps a name to a class that is imported when it is asked for.

    Args:
        what: the word for one entry in messages, such as "region".
        builtin: name -> "module:Class".
        entry_point_group: where installed packages add theirs; an entry point's name is the
            name here, with a dot for the slash, which packaging tools warn about. None where
            third parties can't add any.
    """

    def __init__(
        self, what: str, builtin: dict[str, str], entry_point_group: str | None = None
    ) -> None:
        self.what = what
        self._targets = dict(builtin)
        self._entry_point_group = entry_point_group
        self._discovered = entry_point_group is None

    def _discover(self) -> None:
        if not self._discovered and self._entry_point_group is not None:
            for point in entry_points(group=self._entry_point_group):
                self._targets.setdefault(point.name.replace(".", "/"), point.value)
            self._discovered = True

    def names(self) -> list[str]:
        """All names: ours in their order, then those of other packages."""
        self._discover()
        return list(self._targets)

    def get(self, name: str) -> type[T]:
        """The class behind a name.

        Raises:
            UsageError: there is no such name (the remedy is the nearest match), or the package
                that offers it can't be imported.
        """
        if name not in self._targets:
            self._discover()
        if name not in self._targets:
            raise UsageError(f"unknown {self.what} {name!r}", nearest(name, self._targets))
        module, _, attribute = self._targets[name].partition(":")
        try:
            return cast("type[T]", getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{self.what} {name!r} can't be loaded from {module}:{attribute}: {error}",
                "reinstall or remove the package that offers it",
            ) from error
