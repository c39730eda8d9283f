"""Called by asv to build a commit: one wheel, kept for all environments.

wheel.py COMMIT BUILD_DIR BUILD_CACHE_DIR WHEELS_DIR
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

KEPT = 30


def main(commit: str, build: Path, cache: Path, wheels: Path) -> None:
    kept = wheels / f"{commit}-{sys.implementation.cache_tag}"
    if not kept.is_dir():
        making = wheels / f"{kept.name}.{os.getpid()}"
        try:
            command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
            subprocess.run(
                [sys.executable, "-m", "pip", *command, "--wheel-dir", making, build], check=True
            )
            making.rename(kept)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    (wheel,) = kept.glob("*.whl")
    shutil.copy(wheel, cache)
    oldest_first = sorted(wheels.iterdir(), key=lambda each: each.stat().st_mtime)
    for each in oldest_first[:-KEPT]:
        shutil.rmtree(each, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
