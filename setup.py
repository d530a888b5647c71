"""Builds as setup.cfg says, with the configs inside the package; a clone, also an editable one, has them beside it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Adds ``configs/`` to the built package."""

    def run(self) -> None:
        """See ``build_py``."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "detkit", "configs")
            shutil.rmtree(target, ignore_errors=True)  # of a build before, which may have had others
            shutil.copytree("configs", target)


setup(cmdclass={"build_py": BuildWithConfigs})
