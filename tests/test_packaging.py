"""What a wheel carries: our packages with their data, and nothing of the tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

OPTIONAL = ("torch", "onnx", "onnxscript", "safetensors", "tensorrt", "sounddevice", "av")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_a_wheel_carries_the_packages_and_their_data(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"streamer", "models", "export", "clients"}
    for needed in (
        "streamer/config.yaml",
        "streamer/py.typed",
        "clients/samples/shepherd.opus",
        "clients/samples/README.md",
        "clients/captions/index.html",
        "clients/captions/overlay.html",
        "clients/captions/watch.html",
    ):
        assert needed in names
    tracked = subprocess.run(
        ["git", "ls-files", "models/pretrained", "clients"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert set(tracked.stdout.split()) <= set(names)


def test_a_wheel_carries_no_test_and_no_cache(names: list[str]) -> None:
    assert not [name for name in names if "test_" in name or "golden" in name or "__pycache__" in name]


def test_the_core_needs_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    core = {line.partition(">")[0].strip() for line in project["dependencies"]}
    assert not core & set(OPTIONAL)
    assert all("<" in line for line in project["dependencies"]), "a core dependency without an upper bound"


def test_the_bundled_recording_is_small_and_attributed() -> None:
    folder = Path(ROOT / "clients" / "samples")
    about = (folder / "README.md").read_text("utf-8")
    for file in folder.iterdir():
        assert file.stat().st_size < 300_000
        assert file.name == "README.md" or file.name in about
    assert "CC BY 4.0" in about
