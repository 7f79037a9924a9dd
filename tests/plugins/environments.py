"""Clean virtual environments with medgraft as a wheel, and real distributions that pip installs into them."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        home: Its folder.
        variables: Environment variables of what runs in it.
    """

    home: Path
    variables: dict[str, str]

    def run(self, *arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs to the end."""
        program = self.home / "bin" / str(arguments[0])
        return subprocess.run(
            [str(program), *map(str, arguments[1:])],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=self.variables | variables,
            check=False,
        )

    def install(self, *arguments: str | Path) -> None:
        """``pip install`` without dependencies, which are borrowed, and without an index."""
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
        done = self.run("python", "-m", "pip", "install", *options, *arguments, cwd=self.home)
        assert done.returncode == 0, done.stderr


def build_wheel(folder: Path) -> Path:
    """Builds medgraft's wheel from a copy of the checkout, so that no build folder is left or used there."""
    tree = folder / "tree"
    for name in ("src", "adapters", "encoders", "benchmarks"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "registry.yaml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tree / name)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (found,) = folder.glob("*.whl")
    return found


def clean_environment(home: Path, wheel: Path) -> Environment:
    """A new environment with medgraft's wheel; third-party packages are borrowed from this one."""
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = (home / "lib").glob("python*/site-packages")
    # A plain path line: the editable finder of this environment does not follow.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    variables |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "MEDGRAFT_CACHE": str(home / "cache")}
    environment = Environment(home, variables)
    environment.install(wheel)
    return environment


def write_wheel(folder: Path, name: str, entry_points: str, modules: Mapping[str, str], version: str = "1.0") -> Path:
    """Writes a pure-Python wheel.

    Args:
        folder: Where it is written.
        name: Name of the distribution.
        entry_points: Text of its ``entry_points.txt``.
        modules: Source by module name.
        version: Version of the distribution.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {f"{module}.py": source for module, source in modules.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for target, text in files.items():
            archive.writestr(target, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
