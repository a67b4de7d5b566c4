"""The one thing that pyproject.toml cannot say: the TOML files of config/ travel in the wheel as algo_royale/config_data/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfiguration(build_py):
    """Copy config/*.toml into the built package; an editable install reads config/ itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "algo_royale" / "config_data"
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted((Path(__file__).parent / "config").glob("*.toml")):
            shutil.copyfile(source, target / source.name)


setup(cmdclass={"build_py": BuildWithConfiguration})
