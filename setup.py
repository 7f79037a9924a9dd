"""Packages of the four folders of code, and the root-level ``registry.yaml`` inside the wheel."""

import shutil
import warnings
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

# An editable install advises to mind folders of the package's name in the working directory; there is none here.
warnings.filterwarnings("ignore", message=r"(?s).*Please be careful with folders in your working directory")


class BuildWithRegistry(build_py):
    """Copies ``registry.yaml`` beside the core package, where ``medgraft.registry`` looks first."""

    def run(self) -> None:
        """Builds as usual, then adds the catalogue (an editable install reads it from the checkout)."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "medgraft" / "registry.yaml"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(__file__).parent / "registry.yaml", target)


FOLDERS = {
    "medgraft": "src/medgraft",
    "medgraft.adapters": "adapters",
    "medgraft.encoders": "encoders",
    "medgraft.benchmarks": "benchmarks",
}


def packages() -> list[str]:
    """Every folder of code by its import name; folders of data files (weights, templates) among them."""
    found = []
    for name, folder in FOLDERS.items():
        inner = find_namespace_packages(folder, exclude=["*__pycache__*"])
        found += [name, *(f"{name}.{package}" for package in inner)]
    return found


setup(packages=packages(), package_dir=FOLDERS, cmdclass={"build_py": BuildWithRegistry})
