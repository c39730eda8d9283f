"""Measuring: calibration, placement, counters, statistics. Knows no workload and no channel."""
