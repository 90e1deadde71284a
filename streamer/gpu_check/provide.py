"""Installs those of the wheels brought along that this Python lacks, beside it. Needs nothing but pip, and no network.

`python3 -m streamer.gpu_check.provide`; they are found in .gpu/wheels and put into .gpu/site.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS, SITE = ROOT / ".gpu" / "wheels", ROOT / ".gpu" / "site"


def main() -> int:
    """0 where everything is there now."""
    sys.path.append(str(SITE))  # what an earlier call put there is there
    wanted = missing(WHEELS.glob("*.whl"))
    if not wanted:
        return 0
    print(f"gpu-check: taking {', '.join(wheel.name.partition('-')[0] for wheel in wanted)} from {WHEELS}")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps",
        "--no-compile", "--upgrade", "--target", str(SITE),
    ]  # fmt: skip
    return subprocess.run([*command, *map(str, wanted)], check=False).returncode


def missing(wheels: Iterable[Path]) -> list[Path]:
    """Those whose package this Python does not have."""
    return [wheel for wheel in sorted(wheels) if not has(wheel.name.partition("-")[0])]


def has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
