"""Puts the root-level ``registry.yaml`` inside the wheel; everything else is declared in ``pyproject.toml``."""

import shutil
import warnings
from pathlib import Path

from setuptools import setup
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


setup(cmdclass={"build_py": BuildWithRegistry})
