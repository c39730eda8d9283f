# cython: language_level=3, boundscheck=False, wraparound=False
"""A whole file, mapped: found by its identity, resized in place, unmapped when nobody looks.

Beside `memory.Mapping`, because that one's guard pages cost two more system calls a mapping, and
leave a mapping no room to grow in place.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_SetFromErrnoWithFilenameObject
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_REFCNT
from libc.errno cimport EISDIR, ENODEV, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uintptr_t

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/statfs.h>
    #include <unistd.h>

    #define SHM_HUGETLBFS_MAGIC 0x958458f6  /* <linux/magic.h> */

    /* munmap of a file on hugetlbfs wants whole pages of its own size */
    static size_t shm_page_bytes(int fd) {
        struct statfs found;
        if (!fstatfs(fd, &found) && (uint32_t)found.f_type == SHM_HUGETLBFS_MAGIC) return found.f_bsize;
        return sysconf(_SC_PAGESIZE);
    }
    static int shm_is_regular(const struct stat *found) { return S_ISREG(found->st_mode); }
    static int shm_is_directory(const struct stat *found) { return S_ISDIR(found->st_mode); }
    """
    enum:
        O_RDONLY
        O_RDWR
        O_CLOEXEC
        O_NONBLOCK
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MREMAP_MAYMOVE
    struct stat:
        uint64_t st_dev
        uint64_t st_ino
        int64_t st_size
    void *MAP_FAILED
    int c_stat "stat"(const char *path, stat *found) nogil
    int c_fstat "fstat"(int fd, stat *found) nogil
    int c_open "open"(const char *path, int flags) nogil
    int c_close "close"(int fd) nogil
    void *c_mmap "mmap"(void *address, size_t length, int prot, int flags, int fd, int64_t offset) nogil
    void *c_mremap "mremap"(void *address, size_t old, size_t new, int flags) nogil
    int c_munmap "munmap"(void *address, size_t length) nogil
    Py_ssize_t c_pread "pread"(int fd, void *into, size_t length, int64_t offset) nogil
    size_t shm_page_bytes(int fd) nogil
    int shm_is_regular(const stat *found) nogil
    int shm_is_directory(const stat *found) nogil

cdef extern from "Python.h":
    bytes PyBytes_FromStringAndSize(const char *content, Py_ssize_t length)
    int PyUnicode_FSConverter(object path, PyObject **converted) except 0

cdef char NOTHING = 0  # stands for the address of a file of 0 bytes: a buffer wants one


cdef int refuse(object path) except -1:
    PyErr_SetFromErrnoWithFilenameObject(OSError, path)
    return -1


cdef bytes encode(object path):
    """What os.fsencode gives, which costs as much as a third of the stat(2) that follows."""
    cdef PyObject *converted = NULL
    PyUnicode_FSConverter(path, &converted)
    encoded = <bytes>converted
    Py_DECREF(encoded)  # the converter's own reference
    return encoded


def identify(path, bint writable) -> tuple:
    """stat(2): which file a path leads to now, and how long that is.

    Returns:
        ((device, inode, writable), size in bytes)

    Raises:
        OSError: with the path; ENOENT, EACCES ...
    """
    cdef bytes encoded = encode(path)
    cdef const char *name = PyBytes_AS_STRING(encoded)
    cdef stat found
    cdef int status
    with nogil:
        status = c_stat(name, &found)
    if status:
        refuse(path)
    return (found.st_dev, found.st_ino, writable), found.st_size


cdef class Pages:
    """The mapped bytes, unmapped when nothing refers to them: a buffer, made by FileMap alone.

    An object of its own, so that references to it are what shows who still looks. Counting buffers
    would not do: np.ndarray(buffer=view) holds none, but refers to the object behind the view.
    """

    cdef uintptr_t address  # 0: not mapped
    cdef size_t length  # of the mapping: whole pages
    cdef Py_ssize_t size
    cdef bint writable

    def __init__(self):
        raise TypeError("made by FileMap.map alone")

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef void *start = <void *>self.address if self.address else &NOTHING
        PyBuffer_FillInfo(view, self, start, self.size, not self.writable, flags)

    def __dealloc__(self):
        # It can't fail: the range is ours alone, from its first byte to its last.
        if self.length:
            with nogil:
                c_munmap(<void *>self.address, self.length)


cdef class FileMap:
    """An open regular file, and, once `map` was called, all of it in memory (MAP_SHARED).

    `close` unmaps it, or, while memoryviews or arrays still look at it, leaves that to the last of
    them. It does not lock: who shares one between threads does.

    Args:
        path: of a regular file.
        writable: map it for reading and writing.

    Raises:
        OSError: with the path. EISDIR or ENODEV for what isn't a regular file.
    """

    cdef readonly tuple identity  # (device, inode, writable), as `identify` gives
    cdef readonly object path
    cdef readonly bint writable
    cdef readonly int fd  # -1 once closed
    cdef readonly Py_ssize_t size  # of the file, in bytes, when last looked at
    cdef size_t _page_bytes
    cdef Pages _pages

    def __cinit__(self, path, bint writable):
        self.fd = -1
        cdef bytes encoded = encode(path)
        cdef const char *name = PyBytes_AS_STRING(encoded)
        # O_NONBLOCK: a FIFO must be refused, not waited for.
        cdef int flags = (O_RDWR if writable else O_RDONLY) | O_CLOEXEC | O_NONBLOCK
        cdef stat found
        cdef int status = 0
        self.path = path
        self.writable = writable
        with nogil:
            self.fd = c_open(name, flags)
            if self.fd >= 0:
                status = c_fstat(self.fd, &found)
                self._page_bytes = shm_page_bytes(self.fd)
        if self.fd < 0 or status:
            refuse(path)
        if not shm_is_regular(&found):
            raise OSError(
                EISDIR if shm_is_directory(&found) else ENODEV, "only regular files are mapped", path
            )
        self.identity = (found.st_dev, found.st_ino, writable)
        self.size = found.st_size

    def length_for(self, size_t size) -> int:
        """How many bytes of addresses a file of `size` bytes takes here: whole pages."""
        return (size + self._page_bytes - 1) // self._page_bytes * self._page_bytes

    @property
    def address(self) -> int:
        """Of the first byte; 0 where nothing is mapped."""
        return 0 if self._pages is None else self._pages.address

    @property
    def length(self) -> int:
        """Of the mapping, in bytes: whole pages."""
        return 0 if self._pages is None else self._pages.length

    def view(self) -> memoryview:
        """The file's bytes; read-only unless `writable`. Raises ValueError once it is closed."""
        if self._pages is None:
            raise ValueError("the mapping is closed")
        return PyMemoryView_FromObject(self._pages)

    def map(self):
        """Map `size` bytes. Raises OSError with the path: ENOMEM, EACCES, EPERM (sealed) ..."""
        cdef size_t length = self.length_for(self.size)
        cdef int protection = PROT_READ | PROT_WRITE if self.writable else PROT_READ
        cdef void *mapped = NULL
        cdef Pages pages = Pages.__new__(Pages)
        if length:
            with nogil:
                mapped = c_mmap(NULL, length, protection, MAP_SHARED, self.fd, 0)
            if mapped == MAP_FAILED:
                refuse(self.path)
        pages.address = <uintptr_t>mapped
        pages.length = length
        pages.size = self.size
        pages.writable = self.writable
        self._pages = pages

    def resize(self, Py_ssize_t size, bint may_move) -> bool:
        """Fit the mapping to a file that is `size` bytes long now; its pages stay mapped.

        Args:
            size: in bytes.
            may_move: whether the address may change, if nobody looks: nobody has noted it.

        Returns:
            False, and nothing has changed: somebody looks at what would vanish or move, the kernel
            can't (no addresses free behind it, pieces with different advice, huge pages), or there
            is nothing mapped before or after.
        """
        cdef Pages pages = self._pages
        cdef size_t length = self.length_for(size)
        cdef void *moved
        may_move = may_move and Py_REFCNT(pages) == 2  # ours, and the one of this function
        if size < pages.size and not may_move:
            return False
        if length != pages.length:
            if length == 0 or pages.length == 0:
                return False
            with nogil:
                moved = c_mremap(
                    <void *>pages.address, pages.length, length, MREMAP_MAYMOVE if may_move else 0
                )
            if moved == MAP_FAILED:
                return False
            pages.address = <uintptr_t>moved
            pages.length = length
        pages.size = self.size = size
        return True

    def current_size(self) -> int:
        """fstat(2): how long the open file is now, in bytes. Raises OSError with the path."""
        cdef stat found
        if c_fstat(self.fd, &found):
            refuse(self.path)
        return found.st_size

    def read(self, int64_t offset, size_t length) -> bytes:
        """pread(2): a copy, as short as the file is; never SIGBUS. Raises OSError with the path."""
        cdef bytes content = PyBytes_FromStringAndSize(NULL, length)
        cdef char *into = PyBytes_AS_STRING(content)
        cdef Py_ssize_t got = 0, part = 1
        with nogil:
            while <size_t>got < length and part > 0:
                part = c_pread(self.fd, into + got, length - got, offset + got)
                got += max(part, 0)
        if part < 0:
            refuse(self.path)
        return content if <size_t>got == length else content[:got]

    def close(self):
        """Close the file; unmap as soon as nobody looks at it any more. Idempotent."""
        self._pages = None
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)
