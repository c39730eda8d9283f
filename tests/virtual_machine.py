"""A Debian kernel in a virtual machine, for what this one lacks: persistent memory, older kernels.

The machine sees this one's files, read-only and at the same paths (9p), so that it runs the project
where it lies, with the same Python. /run is its own, with the file systems under test, and so is
/dev/shm. It is emulated: what is measured in it says nothing about speed.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from needs import need

HERE = Path(__file__).parent
TIMEOUT_S = 500
SHARED = "security_model=none,readonly=on,multidevs=remap"
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "nd_e820", "nd_pmem", "crc32c_generic", "ext4")
REMEDY = (
    "apt-get install qemu-system-x86 busybox-static kmod linux-image-amd64; or unpack the last one "
    "(dpkg -x, depmod -b) and name the directory in SHMBENCH_TEST_KERNEL"
)
INIT = """\
#!/bin/busybox sh
PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose host /host
for kind in proc:proc sysfs:sys devtmpfs:dev tmpfs:run; do
    mount -t ${kind%:*} ${kind%:*} /host/${kind#*:}
done
mkdir -p /host/dev/shm /host/run/tmp
mount -t tmpfs tmpfs /host/dev/shm
ip link set lo up
cp /script /host/run/script
chroot /host /bin/bash /run/script
echo "exit status: $?"
poweroff -f
"""
SCRIPT = """\
exec 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/tmp TMPDIR=/run/tmp PYTHONDONTWRITEBYTECODE=1
mkdir /run/pmem
mkfs.ext4 -q -b 4096 /dev/pmem0 && mount -o {options} /dev/pmem0 /run/pmem || exit 99
mkdir /run/pmem/temporary && mount --bind /run/pmem/temporary /var/tmp
cd {root}
{command}
"""


class Kernel(NamedTuple):
    """A bootable kernel and its modules."""

    image: Path
    modules: Path


def _find_kernel() -> Kernel | None:
    base = Path(os.environ.get("SHMBENCH_TEST_KERNEL", "/"))
    for image in sorted((base / "boot").glob("vmlinuz-*-amd64"), reverse=True):
        modules = base / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if (modules / "modules.dep").exists():
            return Kernel(image, modules)
    return None


def _modules(kernel: Kernel) -> dict[str, bytes]:
    """The modules that are wanted and those they need, in the order to load them."""
    needed = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needed[path] = others.split()
    by_name = {Path(path).name.split(".ko")[0]: path for path in needed}
    result: dict[str, bytes] = {}
    for name in MODULES:
        if name in by_name:  # else it is built in
            for path in (*reversed(needed[by_name[name]]), by_name[name]):
                content = (kernel.modules / path).read_bytes()
                opened = lzma.decompress(content) if path.endswith(".xz") else content
                result[Path(path).name.split(".ko")[0]] = opened
    return result


def _cpio(files: dict[str, bytes]) -> bytes:
    """An archive in the format of an initial RAM file system (cpio, newc); all executable."""

    def entry(name: str, mode: int, content: bytes, number: int) -> bytes:
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)

    folders = {"bin", "dev", "proc", "host"} | {str(Path(name).parent) for name in files} - {"."}
    archive = b"".join(entry(name, 0o040755, b"", i) for i, name in enumerate(sorted(folders)))
    for i, (name, content) in enumerate(files.items(), 100):
        archive += entry(name, 0o100755, content, i)
    return archive + entry("TRAILER!!!", 0, b"", 0)


def run_pytest(files: list[str], folder: Path, *, options: str, pmem_bytes: int) -> None:
    """Run tests of this directory in there, with all temporary files on an ext4; all have to pass.

    Args:
        files: of the tests.
        folder: for the kernel's initial file system.
        options: how the ext4 is mounted: "dax=always" or "dax=never".
        pmem_bytes: of persistent memory, the device of the ext4; 512 MiB at least.
    """
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"),
        *("-W", "ignore", "--basetemp=/run/pmem/tests", *(f"{HERE}/{name}" for name in files)),
    ]
    status, output = _run(command, folder, options, pmem_bytes)
    assert status == 0, output
    assert "skipped" not in output


def _run(command: list[str], folder: Path, options: str, pmem_bytes: int) -> tuple[int, str]:
    """The exit status of a command, and all that the machine wrote to its console."""
    kernel, qemu = _find_kernel(), shutil.which("qemu-system-x86_64")
    busybox = shutil.which("busybox")
    need(kernel is not None, "there is no kernel to boot", REMEDY)
    need(qemu is not None, "there is no qemu-system-x86_64", REMEDY)
    need(busybox is not None, "there is no busybox", REMEDY)
    assert kernel is not None
    assert qemu is not None
    assert busybox is not None
    modules = _modules(kernel)
    script = SCRIPT.format(
        options=options, root=shlex.quote(str(HERE.parent)), command=shlex.join(command)
    )
    files = {
        "init": INIT.encode(),
        "script": script.encode(),
        "bin/busybox": Path(busybox).read_bytes(),
        "modules/order": "\n".join(modules).encode(),
        **{f"modules/{name}": content for name, content in modules.items()},
    }
    initial = folder / "initrd"
    initial.write_bytes(gzip.compress(_cpio(files), 1))
    pmem_mib = pmem_bytes >> 20  # all that lies above 4 GiB; of so much memory, 3 GiB lie below
    done = subprocess.run(
        [
            *(qemu, "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", f"{3072 + pmem_mib}M"),
            *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
            *("-kernel", str(kernel.image), "-initrd", str(initial)),
            *("-append", f"console=ttyS0 quiet panic=-1 memmap={pmem_mib}M!4G"),
            *("-virtfs", f"local,path=/,mount_tag=host,{SHARED}"),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    status = re.search(r"^exit status: (\d+)", done.stdout, re.MULTILINE)
    assert status is not None, f"it did not come to an end:\n{done.stdout}\n{done.stderr}"
    return int(status[1]), done.stdout
