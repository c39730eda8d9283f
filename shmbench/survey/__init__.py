"""Many nodes, the same figures: which of them stands out, and why."""

from __future__ import annotations

from shmbench.survey.causes import Cause
from shmbench.survey.law import Rule
from shmbench.survey.nodes import Figure, Finding, Group, NodeVerdict, Survey, survey

__all__ = ["Cause", "Figure", "Finding", "Group", "NodeVerdict", "Rule", "Survey", "survey"]
