"""Installs those of the wheels brought along that this Python lacks, beside it. Needs nothing but pip, and no network.

`python3 -m streamer.gpu_check.provide`; they are found in .gpu/wheels and put into .gpu/site.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement  # pip is here in any case, packaging perhaps not
from pip._vendor.packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
WHEELS, SITE = ROOT / ".gpu" / "wheels", ROOT / ".gpu" / "site"


def main() -> int:
    """0 where everything is there now."""
    if find_spec("torch") is None:
        print(f"gpu-check: {sys.executable} has no torch; expected one with torch for CUDA: make gpu-check PYTHON=...")
        return 2
    sys.path.append(str(SITE))  # what an earlier call put there is there
    wanted = missing(WHEELS.glob("*.whl"), bounds())
    if not wanted:
        return 0
    print(f"gpu-check: taking {', '.join(wheel.name.partition('-')[0] for wheel in wanted)} from {WHEELS}")
    if sys.version_info[:2] != (3, 12) and any("-cp312-" in wheel.name for wheel in wanted):
        print(f"gpu-check: the wheels are for Python 3.12; {sys.executable} is {sys.version.split()[0]} (PYTHON=...)")
        return 2
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps",
        "--no-compile", "--upgrade", "--target", str(SITE),
    ]  # fmt: skip
    return subprocess.run([*command, *map(str, wanted)], check=False).returncode


def bounds() -> dict[str, SpecifierSet]:
    """The versions that the project asks for, by package."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = [*about["dependencies"], *about["optional-dependencies"]["torch"], *about["optional-dependencies"]["dev"]]
    wanted = [Requirement(line) for line in listed]
    return {named(each.name): each.specifier for each in wanted if not each.extras}


def missing(wheels: Iterable[Path], wanted: Mapping[str, SpecifierSet]) -> list[Path]:
    """Those whose package this Python does not have in a version that will do."""
    packages = {wheel: named(wheel.name.partition("-")[0]) for wheel in sorted(wheels)}
    return [wheel for wheel, package in packages.items() if not has(package, wanted.get(package, SpecifierSet()))]


def has(package: str, wanted: SpecifierSet) -> bool:
    try:
        return wanted.contains(version(package), prereleases=True)
    except PackageNotFoundError:
        return False


def named(package: str) -> str:
    """As packages are compared, whatever way they are written."""
    return package.lower().replace("_", "-")


if __name__ == "__main__":
    sys.exit(main())
