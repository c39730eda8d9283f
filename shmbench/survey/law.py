"""When a node is an outlier: pure numbers, no result file, no text.

One figure on many nodes spreads to the slow side more than to the fast one, and its tail is heavier
than a normal distribution's. Three or five normal sigmas would call dozens of sound nodes slow when
500 nodes are judged by 25 figures. So, in the logarithm of the time:

- Each node stands against the *others'* median, in units of their *upper MAD*: the median distance
  of those above the median. It takes skewness into account and holds while up to a quarter of the
  nodes are slow. (Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation", 1993, for
  the MAD.)
- A node's own noise widens what it stands against: of five nodes on only what exceeds its peers',
  because theirs is in the spread already.
- The number of judgements, nodes times rows, shares one allowance of false alarms (Bonferroni).
- What is the median over several figures has a light tail, so an exponential one bounds it: the
  chance to lie k upper MADs above the median is 2^-k / 2.
- A single figure may have a heavy tail. With enough nodes its weight is estimated (Hill, 1975, from
  the largest values of each figure, the median over figures, so that no single figure decides);
  with fewer it is taken for a power law with exponent 4.

`tests/test_survey_law.py` holds the law to its promise on six kinds of spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TELLING_NODES = 5  # with fewer, the spread between nodes may hide their own noise
_FEW_NODES = 30  # up to these, each node is left out of what it stands against
_HILL_NODES = 60  # from these on, the tail is estimated
_HILL_VALUES = 4  # at least so many of the largest values
_TAIL_BOUNDS = (0.1, 0.5)  # of the reciprocal of the exponent
_TAIL_UNKNOWN = 0.25
_SMALL_SAMPLE = 8  # an upper MAD of n values is taken (1 + 8/n) times
_LEAST_SPREAD = 0.005  # no two nodes are more alike than this
_UNKNOWN_SPREAD = 0.03  # where one other node is all there is to compare with


@dataclass(frozen=True)
class Rule:
    """What counts as an outlier.

    Attributes:
        false_alarms: how many sound nodes are called slow in all, on average, at most.
        least_ratio: a node less slow than this is none, however certain: 1.1 is 10 % slower.
    """

    false_alarms: float = 0.05
    least_ratio: float = 1.10


@dataclass(frozen=True)
class Verdicts:
    """Of a matrix of nodes (rows) by figures (columns).

    Attributes:
        ratio: times the median of the other nodes; nan where a node lacks the figure.
        limit: the ratio from which it counts; nan where there is nothing to compare with.
        slow: is it an outlier?
    """

    ratio: Array
    limit: Array
    slow: NDArray[np.bool_]


def judge(
    times: Array, noise: Array, aggregates: Sequence[Sequence[int]], rule: Rule
) -> tuple[Verdicts, Verdicts]:
    """Judge nodes of the same hardware, by single figures and by several taken together.

    Args:
        times: seconds, nodes by figures; nan where a node lacks one.
        noise: relative standard error of each time, as far as the node itself knows.
        aggregates: columns that are judged together, by the median over them.

    Returns:
        The verdicts by aggregate (nodes by aggregates), and by figure (nodes by figures).
    """
    nodes, figures = times.shape
    logs = np.log(times)
    judgements = max(1, nodes * (figures + len(aggregates)))
    light = math.log2(judgements / (2 * rule.false_alarms))

    with np.errstate(all="ignore"):
        # What disturbs a node while it measures disturbs neighbouring figures alike: their noise
        # does not average out.
        together = _together(logs - _nanmedian(logs, 0), aggregates)
        theirs = _together(np.where(np.isnan(logs), np.nan, noise), aggregates)
        apart, spread = _standing(together, theirs)
        by_aggregate = _verdicts(apart, spread, light, rule)

        apart, spread = _standing(logs, noise)
        sound = ~by_aggregate.slow.any(axis=1)
        heavy = max(light, _heavy_limit((apart / spread)[sound], judgements, rule))
        return by_aggregate, _verdicts(apart, spread, heavy, rule)


def _together(values: Array, aggregates: Sequence[Sequence[int]]) -> Array:
    """Each node's median over the columns of each aggregate."""
    columns = [_nanmedian(values[:, list(each)], 1) for each in aggregates]
    return np.stack(columns, axis=1) if columns else np.empty((len(values), 0))


def _nanmedian(values: Array, axis: int) -> Array:
    """As numpy's, without its warning where there is nothing."""
    nothing = np.isnan(values).all(axis=axis, keepdims=True)
    found: Array = np.nanmedian(np.where(nothing, 0.0, values), axis=axis)
    return np.where(np.squeeze(nothing, axis), np.nan, found)


def _standing(values: Array, noise: Array) -> tuple[Array, Array]:
    """Each node's distance from the others' median, and their spread, for each column."""
    apart, spread = np.full_like(values, np.nan), np.full_like(values, np.nan)
    for column in range(values.shape[1]):
        there = np.flatnonzero(~np.isnan(values[:, column]))
        given = values[there, column]
        own = 0.6745 * noise[there, column]  # as a MAD
        if len(there) < 2:
            continue
        if len(there) > _FEW_NODES:
            middle, width = _centre(given)
            apart[there, column], spread[there, column] = given - middle, width
        else:
            for index, node in enumerate(there):
                middle, width = _centre(np.delete(given, index))
                apart[node, column], spread[node, column] = given[index] - middle, width
        usual = np.median(own)
        if len(there) < _TELLING_NODES:
            extra = np.hypot(own, usual)
        else:  # the usual noise is part of the spread already
            extra = np.sqrt(np.maximum(own**2 - usual**2, 0.0))
        spread[there, column] = np.hypot(spread[there, column], extra)
    return apart, spread


def _centre(values: Array) -> tuple[float, float]:
    """The median, and the upper MAD with its allowance for few values."""
    middle = float(np.median(values))
    if len(values) == 1:
        return middle, _UNKNOWN_SPREAD
    upper = float(np.median(values[values >= middle] - middle))
    return middle, max(upper * (1 + _SMALL_SAMPLE / len(values)), _LEAST_SPREAD)


def _heavy_limit(standing: Array, judgements: int, rule: Rule) -> float:
    """From how many spreads on a single figure is an outlier."""
    nodes = int(np.median((~np.isnan(standing)).sum(axis=0))) if standing.size else 0
    rare = judgements / rule.false_alarms
    if nodes < _HILL_NODES:
        inverse = _TAIL_UNKNOWN
        return float(((rare / 2) ** inverse - 1) / (2**inverse - 1))
    count = max(_HILL_VALUES, nodes // 100)
    largest = -np.sort(-np.nan_to_num(standing, nan=-np.inf), axis=0)[: count + 1]
    weights = np.mean(np.log(largest[:count] / largest[count]), axis=0)
    inverse = float(np.clip(np.nanmedian(weights), *_TAIL_BOUNDS))
    base = float(np.nanmedian(largest[count]))
    return float(base * ((count + 0.5) / nodes * rare) ** inverse)


def _verdicts(apart: Array, spread: Array, limit: float, rule: Rule) -> Verdicts:
    bound = np.maximum(spread * limit, math.log(rule.least_ratio))
    return Verdicts(np.exp(apart), np.exp(bound), apart > bound)
