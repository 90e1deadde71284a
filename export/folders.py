"""How a finished folder takes an older one's place: whole or not at all. Knows nothing of what is in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path


def swap(work: Path, out: Path, ours: Container[str]) -> None:
    """Put the finished folder at `out`, with what else lay there than `ours`; the older folder goes only after."""
    os.chmod(work, 0o755)
    old = work.with_name(work.name + ".old")
    try:
        if out.exists():
            _carry_over(out, work, ours)
            os.replace(out, old)
        os.replace(work, out)
    except BaseException:
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _carry_over(out: Path, work: Path, ours: Container[str]) -> None:
    """The files of `out` that no export writes appear in `work` too: the same file where the disk can link."""
    for path in (path for path in out.iterdir() if path.name not in ours):
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, work / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, work / path.name)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # not every file system has links
        shutil.copy2(source, target, follow_symlinks=False)
