"""shm_open(3) as posix_ipc offers it: a name in /dev/shm."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import posix_ipc

from shmbench.regions import RegionSpec
from shmbench.regions.descriptor import DescriptorRegion
from shmbench.regions.names import fresh_name


@contextmanager
def system_errors() -> Iterator[None]:
    """posix_ipc has classes of its own for some errors; make them OSError with a number."""
    try:
        yield
    except posix_ipc.PermissionsError as error:
        raise PermissionError(errno.EACCES, str(error)) from error
    except posix_ipc.ExistentialError as error:
        raise FileNotFoundError(errno.ENOENT, str(error)) from error
    except OSError as error:
        # Only the limits on open files come without a number.
        raise OSError(error.errno or errno.EMFILE, error.strerror or str(error)) from error


def open_shared(name: str) -> int:
    """A descriptor of the shared memory object that is there under a name."""
    with system_errors():
        descriptor: int = posix_ipc.SharedMemory(name).fd
    return descriptor


class PosixShmRegion(DescriptorRegion):
    """A POSIX shared memory object."""

    kind = "posix_shm"

    @classmethod
    def where(cls, spec: RegionSpec) -> str | None:
        """See AttachableRegion.where."""
        return "/dev/shm"

    @classmethod
    def _make(cls, spec: RegionSpec) -> tuple[int, str]:
        name = f"/{fresh_name()}"
        with system_errors():
            shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
        return shared.fd, name

    @classmethod
    def _find(cls, handle: str) -> int:
        return open_shared(handle)

    @classmethod
    def _remove(cls, handle: str) -> None:
        posix_ipc.unlink_shared_memory(handle)
