"""The table of hints: all that madvise(2) takes, what each does where, and our own on top.

`Hint.X.meaning` says what a hint does, on which kind of mapping, since which kernel, and what
happens where it is missing. Source: madvise(2), and each tried on Linux 6.18. `hints` gives them.

Left out on purpose: MADV_HWPOISON and MADV_SOFT_OFFLINE, which break memory to test its handling.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from shmbench.native import memory


class Lasting(IntEnum):
    """What a hint leaves behind in a mapping that is used again."""

    NO = 0  # it acts on the pages that are there, once
    READ_AHEAD = 1  # until NORMAL undoes it
    MAPPING = 2  # for as long as the range is mapped


@dataclass(frozen=True)
class Meaning:
    """What a hint does.

    Attributes:
        name: as in `Hint("name")`.
        does: in one sentence.
        on: the kinds of mapping where it does so, and what it does on others.
        since: the first kernel that has it, (major, minor); None: no kernel's, but ours.
        missing: what happens where it is missing.
        advice: the number that madvise(2) takes; None where there is nothing to tell the kernel.
        lasting: what it leaves behind.
        discards: it throws content away, so only whole pages within the range are meant.
    """

    name: str
    does: str
    on: str
    since: tuple[int, int] | None
    missing: str
    advice: int | None
    lasting: Lasting = Lasting.NO
    discards: bool = False


_EINVAL = "EINVAL"
_ANY = "any mapping"
_PRIVATE_ANONYMOUS = "private anonymous; EINVAL on shared memory and files"
_FILES = "files; anonymous memory is read from a device only when it is swapped out"


class Hint(Enum):
    """What is told about a range of memory. `Hint("willneed")` is Hint.WILLNEED."""

    meaning: Meaning

    def __new__(cls, meaning: Meaning) -> "Hint":
        member = object.__new__(cls)
        member._value_ = meaning.name
        member.meaning = meaning
        return member

    # How it will be read

    NORMAL = Meaning(
        "normal",
        "undoes RANDOM and SEQUENTIAL: read-ahead by the kernel's own judgement",
        _ANY,
        (2, 4),
        "always there",
        memory.MADV_NORMAL,
    )
    SEQUENTIAL = Meaning(
        "sequential",
        "reads ahead from the first fault on, and frees pages behind sooner; 41 times slower than"
        " the default for a file that is read backwards",
        _FILES,
        (2, 4),
        "always there",
        memory.MADV_SEQUENTIAL,
        Lasting.READ_AHEAD,
    )
    RANDOM = Meaning(
        "random",
        "turns read-ahead off: a fault reads one page; pages in the page cache around it are still"
        " mapped (fault-around). 27 times slower than the default for sequential reading",
        _FILES,
        (2, 4),
        "always there",
        memory.MADV_RANDOM,
        Lasting.READ_AHEAD,
    )
    WILLNEED = Meaning(
        "willneed",
        "starts reading into the page cache and returns; maps nothing",
        "files; shared memory and anonymous memory: what is swapped out",
        (2, 4),
        "always there; EBADF on anonymous memory before 3.9",
        memory.MADV_WILLNEED,
    )
    POPULATE_READ = Meaning(
        "populate_read",
        "reads and maps all pages before it returns, as read faults would; EFAULT or ENOMEM where"
        " a touch would be SIGBUS, EINTR on a fatal signal",
        "any mapping but device memory (EINVAL, EFAULT) and unreadable ones (EINVAL)",
        (5, 14),
        f"{_EINVAL}; touch a byte a page instead",
        memory.MADV_POPULATE_READ,
    )
    POPULATE_WRITE = Meaning(
        "populate_write",
        "makes all pages present and writable before it returns, as write faults would, and leaves"
        " their content; on a shared file they count as dirty",
        "any writable mapping; EINVAL on read-only ones",
        (5, 14),
        f"{_EINVAL}; write a byte a page instead",
        memory.MADV_POPULATE_WRITE,
    )

    # What may go

    COLD = Meaning(
        "cold",
        "marks the pages as the first to be reclaimed when memory is short",
        "pages that no other process maps; EINVAL on locked and hugetlb memory",
        (5, 4),
        f"{_EINVAL}; nothing comes near it",
        memory.MADV_COLD,
    )
    PAGEOUT = Meaning(
        "pageout",
        "reclaims the pages now: dirty ones are written to the file or to swap first",
        "as COLD; of files, only those that are ours or writable to us",
        (5, 4),
        f"{_EINVAL}; for a file, posix_fadvise(DONTNEED) after unmapping",
        memory.MADV_PAGEOUT,
    )
    DONTNEED = Meaning(
        "dontneed",
        "unmaps the pages now",
        "private anonymous memory reads as zeros afterwards: the content is lost. Shared memory"
        " and files keep theirs, in the page cache; a private mapping of a file loses its changes",
        (2, 4),
        "always there; EINVAL on locked memory",
        memory.MADV_DONTNEED,
        discards=True,
    )
    DONTNEED_LOCKED = Meaning(
        "dontneed_locked",
        "DONTNEED for locked memory too",
        "as DONTNEED",
        (5, 18),
        f"{_EINVAL}; munlock, then DONTNEED",
        24,
        discards=True,
    )
    FREE = Meaning(
        "free",
        "the content is lost when memory is short, unless it is written again before",
        _PRIVATE_ANONYMOUS,
        (4, 5),
        f"{_EINVAL}; DONTNEED loses it at once",
        8,
        discards=True,
    )
    REMOVE = Meaning(
        "remove",
        "punches a hole: the bytes are gone from the file, for everybody, and read as zeros",
        "shared memory, and shared mappings of files opened for writing, whose file system can"
        " punch holes; EINVAL on anonymous private memory, EACCES on private mappings of files",
        (2, 6),
        "always there on shared memory; on files since 3.5, EOPNOTSUPP before",
        memory.MADV_REMOVE,
        discards=True,
    )

    # Which pages

    HUGEPAGE = Meaning(
        "hugepage",
        "huge pages from now on, where the range is aligned and one is free",
        "anonymous memory; shared memory where shmem_enabled says advise; files whose file system"
        " has large folios; elsewhere without effect",
        (2, 6),
        f"{_EINVAL} where the kernel was built without transparent huge pages",
        memory.MADV_HUGEPAGE,
        Lasting.MAPPING,
    )
    NOHUGEPAGE = Meaning(
        "nohugepage",
        "no huge pages from now on; those that are there stay",
        _ANY,
        (2, 6),
        f"{_EINVAL} where the kernel was built without transparent huge pages",
        memory.MADV_NOHUGEPAGE,
        Lasting.MAPPING,
    )
    COLLAPSE = Meaning(
        "collapse",
        "makes huge pages out of the pages that are there, before it returns, whatever the"
        " system's setting is",
        "anonymous and shared memory, and read-only files where the kernel has that; EINVAL where"
        " no whole aligned huge page lies within the range; EAGAIN, EBUSY, ENOMEM: perhaps later",
        (6, 1),
        f"{_EINVAL}; HUGEPAGE before the first touch",
        memory.MADV_COLLAPSE,
    )
    MERGEABLE = Meaning(
        "mergeable",
        "lets KSM, where it runs, share one copy of equal pages",
        "private anonymous memory; elsewhere without effect",
        (2, 6),
        f"{_EINVAL} where the kernel was built without KSM",
        12,
        Lasting.MAPPING,
    )
    UNMERGEABLE = Meaning(
        "unmergeable",
        "undoes MERGEABLE; each page gets its own copy again",
        "as MERGEABLE",
        (2, 6),
        f"{_EINVAL} where the kernel was built without KSM",
        13,
        Lasting.MAPPING,
    )

    # Fork, core dumps, guards

    DONTFORK = Meaning(
        "dontfork", "not mapped in a child", _ANY, (2, 6), "always there", 10, Lasting.MAPPING
    )
    DOFORK = Meaning("dofork", "undoes DONTFORK", _ANY, (2, 6), "always there", 11, Lasting.MAPPING)
    WIPEONFORK = Meaning(
        "wipeonfork",
        "a child finds zeros",
        _PRIVATE_ANONYMOUS,
        (4, 14),
        f"{_EINVAL}; os.register_at_fork",
        18,
        Lasting.MAPPING,
    )
    KEEPONFORK = Meaning(
        "keeponfork", "undoes WIPEONFORK", _ANY, (4, 14), _EINVAL, 19, Lasting.MAPPING
    )
    DONTDUMP = Meaning(
        "dontdump",
        "left out of core dumps",
        _ANY,
        (3, 4),
        f"{_EINVAL}; /proc/self/coredump_filter",
        16,
        Lasting.MAPPING,
    )
    DODUMP = Meaning(
        "dodump",
        "undoes DONTDUMP",
        "any mapping but device memory (EINVAL)",
        (3, 4),
        _EINVAL,
        17,
        Lasting.MAPPING,
    )
    GUARD_INSTALL = Meaning(
        "guard_install",
        "makes the pages unusable, SIGSEGV at a touch, without a mapping of its own; what private"
        " anonymous pages held is lost",
        "private anonymous memory; shared memory and files since 6.15, EINVAL before",
        (6, 13),
        f"{_EINVAL}; mprotect(PROT_NONE)",
        102,
        Lasting.MAPPING,
        discards=True,
    )
    GUARD_REMOVE = Meaning(
        "guard_remove", "undoes GUARD_INSTALL", "as GUARD_INSTALL", (6, 13), _EINVAL, 103
    )

    # Our own. What the kernel is told is only the part that it understands; the rest is done by a
    # Mapping with its window, which sees the accesses.

    SEQUENTIAL_ONCE = Meaning(
        "sequential_once",
        "read forwards, once: the kernel is told SEQUENTIAL, and a Mapping drops what lies behind",
        _FILES,
        None,
        "always there",
        memory.MADV_SEQUENTIAL,
        Lasting.READ_AHEAD,
    )
    REVERSE = Meaning(
        "reverse",
        "read backwards: the kernel is told NORMAL, whose read-ahead around a fault serves that"
        " far better than SEQUENTIAL, and a Mapping fetches ahead downwards",
        _FILES,
        None,
        "always there",
        memory.MADV_NORMAL,
    )
    STRIDED = Meaning(
        "strided",
        "read in equal steps of pages (see `strided`): the kernel is told RANDOM, because its"
        " read-ahead would fetch what lies between, and a Mapping fetches the next steps ahead",
        _FILES,
        None,
        "always there",
        memory.MADV_RANDOM,
        Lasting.READ_AHEAD,
    )
    GUIDED = Meaning(
        "guided",
        "read in an order that is announced: the kernel is told RANDOM, and `follow` fetches ahead",
        _FILES,
        None,
        "always there",
        memory.MADV_RANDOM,
        Lasting.READ_AHEAD,
    )
    KEEP = Meaning(
        "keep",
        "opened again soon: on close, the mapping is parked in the mapping cache",
        "mappings of files",
        None,
        "always there",
        None,
    )
    AUTO = Meaning(
        "auto",
        "find out by watching: the kernel is told NORMAL until something better is known",
        _ANY,
        None,
        "always there",
        memory.MADV_NORMAL,
    )
    NONE = Meaning("none", "nothing is told to anybody", _ANY, None, "always there", None)

    @property
    def advice(self) -> int | None:
        """The number that madvise(2) takes; None: there is nothing to tell the kernel."""
        return self.meaning.advice

    @property
    def lasting(self) -> Lasting:
        """What it leaves behind in a mapping that is used again."""
        return self.meaning.lasting

    @property
    def ours(self) -> bool:
        """Whether it is shmbench's own, not the kernel's."""
        return self.meaning.since is None
