"""The kinds that forked ranks can have; those that want MPI ranks are tested in test_mpi.py."""

from shmbench.channels import CHANNELS
from shmbench.regions import REGIONS

FORKED_CHANNELS = [name for name in CHANNELS.names() if not CHANNELS.get(name).needs_mpi]
FORKED_REGIONS = [name for name in REGIONS.names() if not REGIONS.get(name).needs_mpi]
