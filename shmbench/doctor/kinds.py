"""Regions and channels: which of them this machine can do, by their own probes."""

from __future__ import annotations

from typing import Any

from shmbench.channels import CHANNELS
from shmbench.doctor.check import Check, missing, ok
from shmbench.errors import ShmbenchError
from shmbench.regions import REGIONS
from shmbench.registry import Registry


def kind_checks() -> list[Check]:
    """A check for every region and channel, those of other packages too."""
    registries: tuple[Registry[Any], ...] = (REGIONS, CHANNELS)
    return [probe(registry, name) for registry in registries for name in registry.names()]


def probe(registry: Registry[Any], name: str) -> Check:
    """Ask one kind. One that can't be loaded, or whose probe fails, is missing with the error."""
    label = f"{registry.what} {name}"
    try:
        why = registry.get(name).probe()
    except ShmbenchError as error:
        why = error
    except Exception as error:  # other packages' code: the doctor outlives it
        why = ShmbenchError(f"its probe failed with {type(error).__name__}: {error}")
    if why is None:
        return ok(label, "works")
    return missing(
        label,
        why.message,
        f"no cases over this {registry.what}",
        why.remedy or f"none known; leave it out with --{registry.what}",
    )
