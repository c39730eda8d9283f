# cython: language_level=3, boundscheck=False, wraparound=False
"""What a measuring process does to itself."""

from libc.errno cimport errno

from shmbench.native.endpoint cimport check


cdef extern from "sys/prctl.h" nogil:
    int PR_SET_PDEATHSIG
    int prctl(int option, unsigned long argument)


def set_parent_death_signal(int signal_number):
    """Have the kernel send this signal when the parent thread dies (prctl(2), PR_SET_PDEATHSIG)."""
    if prctl(PR_SET_PDEATHSIG, signal_number) != 0:
        check("prctl", -errno)
