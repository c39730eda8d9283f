"""Slurm: render and submit jobs that measure, follow them, and collect what they found.

Nothing here is loaded in a measuring process, and nothing relies on an accounting database.
"""
