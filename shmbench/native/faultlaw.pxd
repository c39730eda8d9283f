"""The law of faults, and what it has asked for, see faultlaw.h and wanted.h."""

from libc.stdint cimport int64_t, uint64_t

from shmbench.native.strides cimport shm_ahead, shm_law

cdef extern from "faultlaw.h" nogil:
    enum:
        SHM_WINDOW
        SHM_FAULT_OUT
    struct shm_faults:
        shm_law strides
        uint64_t faults, windows
        int strangers
    void shm_faults_start(
        shm_faults *faults, int64_t pages, int64_t least_step, int64_t most_ahead,
        int64_t patience, int64_t most_window
    )
    int shm_hopeless(const shm_faults *faults)
    void shm_hope(shm_faults *faults)
    int64_t shm_fault(shm_faults *faults, int64_t page, shm_ahead *out)

cdef extern from "wanted.h" nogil:
    struct shm_wanted:
        int count
    void shm_want(shm_wanted *wanted, shm_ahead what)
    shm_ahead shm_next_wanted(shm_wanted *wanted)
    int shm_is_wanted(const shm_wanted *wanted, int64_t page)
