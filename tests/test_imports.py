"""The layers: imports point down only, and what measures has loaded nothing that draws."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "shmbench"

# From the top to the bottom; a layer may import from those below it, and from itself.
LAYERS = (
    ("cli", "__main__"),
    ("asv_site",),
    ("slurm", "preflight", "asv_export"),
    ("session", "session_mpi", "catalogue"),
    ("report", "turns", "compare", "doctor"),
    ("tune", "tracking"),
    ("runner",),
    ("worker", "job", "across", "watchdog"),
    ("trial",),
    ("peers",),
    ("suites", "clean"),
    ("limits",),
    ("workloads",),
    ("speedup", "survey"),
    ("results", "machine", "launch"),
    ("cases",),
    ("channels", "policy"),
    ("measure",),
    ("regions",),
    ("group",),
    ("native", "registry"),
    ("units", "host"),
    ("errors",),
)
HEIGHT = {name: -depth for depth, names in enumerate(LAYERS) for name in names}
HEAVY = ("rich", "click", "jinja2", "plotly", "matplotlib", "mpi4py")


def imported(path: Path) -> set[str]:
    """The shmbench modules that a file imports, at its top or in its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "shmbench":
                found.update(f"shmbench.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("shmbench.")}


def layer(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for module in imported(path):
        other = layer(module)
        if other in ("errors", "units", "registry", "host", "__version__"):
            continue
        assert HEIGHT[own] >= HEIGHT[other], f"{own} imports {module}, which is above it"


def test_channels_and_policy_never_see_each_other() -> None:
    for own, other in (("channels", "policy"), ("policy", "channels")):
        for path in (PACKAGE / own).rglob("*.py"):
            assert other not in {layer(module) for module in imported(path)}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in shown.stdout.split()}


@pytest.mark.parametrize(
    "statement", ["import shmbench", "import shmbench.worker", "import shmbench.job"]
)
def test_what_measures_loads_nothing_that_draws(statement: str) -> None:
    assert not modules_after(statement) & set(HEAVY)


def test_mpi4py_is_imported_in_the_files_of_mpi_only() -> None:
    found = {
        path.relative_to(PACKAGE).parent / path.stem
        for path in PACKAGE.rglob("*.py")
        if "import mpi4py" in path.read_text() or "from mpi4py" in path.read_text()
    }
    assert found
    assert {(str(path.parent), path.stem.partition("_")[0]) for path in found} <= {
        ("group", "mpi"),
        ("regions", "mpi"),
        ("channels", "mpi"),
    }


def test_help_loads_neither_numpy_nor_rich() -> None:
    assert not modules_after("import shmbench.cli") & {
        "numpy",
        "rich",
        "plotly",
        "jinja2",
        "matplotlib",
    }
