"""What goes to a machine without a network: the commit that is checked out, and wheels of what it may lack, in one tar.

`python -m streamer.gpu_check.pack OUT.tar.gz [--tensorrt-rtx]`. Wheels are for Python 3.12 on Linux with an x86-64
processor; torch, triton, numpy, onnx and their like have to be there. Needs git, pip and a registry.
"""

from __future__ import annotations

import argparse
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 60_000_000
TOP = "gpu-check"  # the folder in the tar
WHEELS = ".gpu/wheels"
TENSORRT = ".gpu/tensorrt-rtx"
# What the daemon, its tools and the check import besides torch's own company.
NEEDED = (
    "aiohttp", "aiohappyeyeballs", "aiosignal", "attrs", "cffi", "click", "frozenlist", "idna", "iniconfig", "jiwer",
    "markdown-it-py", "mdurl", "multidict", "packaging", "pluggy", "prometheus-client", "propcache", "pycparser",
    "pygments", "pytest", "pyyaml", "rapidfuzz", "rich", "safetensors", "sentencepiece", "soundfile", "soxr",
    "typing-extensions", "uvloop", "websockets", "yarl",
)  # fmt: skip
PLATFORMS = tuple(
    f"manylinux{kind}_x86_64" for kind in ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014", "_2_12", "2010", "1")
)
RTX = ("tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116")


def main() -> int:
    """Write the tar and say how large it is."""
    parser = argparse.ArgumentParser(prog="gpu-pack")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensorrt-rtx", action="store_true", help="the second pack: TensorRT-RTX alone, in xz")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.tensorrt_rtx:
        with tempfile.TemporaryDirectory() as name:
            download(RTX, Path(name))
            squeezed(Path(name), args.out)
        for piece in pieces(args.out):
            print(f"{piece}: {piece.stat().st_size / 1e6:.1f} MB")
        return 0
    wheels = ROOT / WHEELS  # here they stay, for a clone that is brought as it lies
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    download(NEEDED, wheels)
    size = packed(archive(), sorted(wheels.glob("*.whl")), args.out)
    print(f"{args.out}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        print(f"gpu-pack: got {size} bytes, expected at most {MOST_BYTES}", file=sys.stderr)
        return 1
    return 0


def download(names: tuple[str, ...], folder: Path) -> None:
    """Each package's newest wheel, without what it needs itself: that is in the list."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--abi", "abi3",
        "--abi", "none", *platforms, "--dest", str(folder),
    ]  # fmt: skip
    subprocess.run([*command, *names], check=True)


def archive() -> bytes:
    """The commit as a tar; what is not committed stays here."""
    done = subprocess.run(["git", "archive", f"--prefix={TOP}/", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return done.stdout


def packed(commit: bytes, wheels: list[Path], out: Path) -> int:
    """The commit with the wheels in it; bytes."""
    with tarfile.open(out, "w:gz", compresslevel=9) as tar:
        with tarfile.open(fileobj=io.BytesIO(commit)) as source:
            for member in source:
                tar.addfile(member, source.extractfile(member) if member.isfile() else None)
        for wheel in wheels:
            tar.add(wheel, f"{TOP}/{WHEELS}/{wheel.name}")
    return out.stat().st_size


def pieces(path: Path, most: int = MOST_BYTES) -> list[Path]:
    """The file, or where it is too large for one way the pieces that it was cut into, in order; `cat` joins them."""
    if path.stat().st_size <= most:
        return [path]
    made: list[Path] = []
    with path.open("rb") as whole:
        while content := whole.read(most):
            made.append(path.with_name(f"{path.name}.{len(made)}"))
            made[-1].write_bytes(content)
    path.unlink()
    return made


def squeezed(folder: Path, out: Path) -> None:
    """The wheels' files in one tar, compressed as far as it goes: their own compression is half as good."""
    with lzma.open(out, "wb", preset=9) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as members:
                for member in members.infolist():
                    info = tarfile.TarInfo(f"{TOP}/{TENSORRT}/{member.filename}")
                    info.size, info.mode = member.file_size, 0o755 if ".so" in member.filename else 0o644
                    with members.open(member) as content:
                        tar.addfile(info, content)


if __name__ == "__main__":
    sys.exit(main())
