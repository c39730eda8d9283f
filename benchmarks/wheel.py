"""Called by asv to build a commit: one wheel, kept for all environments and all equal commits.

wheel.py BUILD_DIR BUILD_CACHE_DIR WHEELS_DIR
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

KEPT = 30
TOOLS = ("setuptools>=77", "Cython>=3.1")


def main(build: Path, cache: Path, wheels: Path) -> None:
    # What is built depends on these two; a commit that leaves them alone has the wheel of another.
    parts = subprocess.check_output(
        ["git", "rev-parse", "HEAD:shmbench", "HEAD:pyproject.toml"], cwd=build, text=True
    )
    key = "-".join([*(part[:16] for part in parts.split()), str(sys.implementation.cache_tag)])
    kept, making = wheels / key, wheels / f"{key}.{os.getpid()}"
    if not kept.is_dir():
        making.mkdir(parents=True)
        try:
            _build(build, making)
            making.rename(kept)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    os.utime(kept)
    (wheel,) = kept.glob("*.whl")
    shutil.copy(wheel, cache)
    latest_first = sorted(wheels.iterdir(), key=lambda each: -each.stat().st_mtime)
    for each in latest_first[KEPT:]:
        shutil.rmtree(each, ignore_errors=True)


def _build(build: Path, into: Path) -> None:
    settings = into / "parallel.cfg"
    settings.write_text(f"[build_ext]\nparallel = {os.cpu_count()}\n")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *TOOLS], check=True)
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*pip, *command, "--wheel-dir", into, build],
        env={**os.environ, "DIST_EXTRA_CONFIG": str(settings)},
        check=True,
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
