"""The .nemo file as a container: a tar, plain or gzipped, read in memory and never unpacked to disk.

Knows nothing of models. A hostile or broken file ends in one ModelFileError that says what was wrong.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import pickle
import posixpath
import tarfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
import yaml

from models.config import shown
from models.pickles import PickleError, check_file, check_tensors

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MAX_MEMBERS = 1000  # NeMo writes six
MAX_CONFIG_BYTES = 16 << 20  # a vocabulary of 16 000 pieces, three times, is 1 MB
DEEPEST = 50  # levels of the configuration; NeMo has written four in all that we saw
MAX_TOKENIZER_BYTES = 64 << 20
MAX_WEIGHT_BYTES = 16 << 30
GZIP_RATIO = 20  # weights shrink by a tenth; a bomb by a thousand
GZIP_SPARE_BYTES = 32 << 20
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class ModelFileError(ValueError):
    """A model file can not be used; the text says which, what was found and what was expected."""


class _BoundedGzip(io.RawIOBase):
    """What a gzip file unpacks to, refused once it is longer than weights can be."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.GzipFile(path, "rb")
        self._left = GZIP_SPARE_BYTES + GZIP_RATIO * path.stat().st_size
        self._where = path.name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise ModelFileError(f"{self._where}: unpacks to more than {GZIP_RATIO} times its size, not a model")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class NemoArchive:
    """An opened .nemo file: `config()`, `weights()` and `member(reference)`; use it in a `with` block."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.where = self.path.name
        self._files: dict[str, bytes] = {}
        self._large: IO[bytes] | None = None
        self._opened = contextlib.ExitStack()
        try:
            self._open()
        except ModelFileError:
            raise
        except _BROKEN as error:
            raise ModelFileError(f"{self.where}: not a whole .nemo archive ({_line(error)})") from error

    def __enter__(self) -> NemoArchive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def _open(self) -> None:
        if not self.path.is_file():
            raise ModelFileError(f"{self.path}: no such file, expected a .nemo archive")
        with self.path.open("rb") as probe:
            zipped = probe.read(2) == b"\x1f\x8b"
        with contextlib.ExitStack() as stack:
            if zipped:
                raw = stack.enter_context(io.BufferedReader(_BoundedGzip(self.path), 1 << 20))
                tar = stack.enter_context(tarfile.open(fileobj=raw, mode="r|"))
            else:
                tar = stack.enter_context(tarfile.open(self.path, mode="r:"))
            for count, info in enumerate(tar, 1):
                if count > MAX_MEMBERS:
                    raise ModelFileError(f"{self.where}: more than {MAX_MEMBERS} members, expected a model")
                self._take(tar, info, zipped)
            self._opened = stack.pop_all()

    def _take(self, tar: tarfile.TarFile, info: tarfile.TarInfo, zipped: bool) -> None:
        name = self._safe_name(info)
        if name is None:
            return
        if name in self._files or (name == WEIGHTS and self._large is not None):
            raise ModelFileError(f"{self.where}: two members called {shown(name)}, expected one")
        most = {CONFIG: MAX_CONFIG_BYTES, WEIGHTS: MAX_WEIGHT_BYTES}.get(name, MAX_TOKENIZER_BYTES)
        if info.size > most:
            got = f"member {shown(name)} has {info.size} bytes"
            raise ModelFileError(f"{self.where}: {got}, expected no more than {most}")
        member = tar.extractfile(info)
        assert member is not None  # a regular file, checked above
        if name != WEIGHTS:
            self._files[name] = _exactly(member, info.size)
        elif zipped:
            self._large = io.BytesIO(_exactly(member, info.size))
        else:  # large: torch reads it where it lies
            self._check_whole(info)
            self._large = member

    def _check_whole(self, info: tarfile.TarInfo) -> None:
        here = self.path.stat().st_size - info.offset_data
        if here < info.size:
            raise ModelFileError(f"{self.where}: truncated, {shown(info.name)} has {here} of its {info.size} bytes")

    def _safe_name(self, info: tarfile.TarInfo) -> str | None:
        """The member's flat name, None for a folder; refuses what could reach out of the archive."""
        name = posixpath.normpath(info.name.replace("\\", "/"))
        if posixpath.isabs(name) or name.split("/")[0] == ".." or name[1:2] == ":":
            raise ModelFileError(f"{self.where}: member {shown(info.name)} points out of the archive, refused")
        if info.isdir():
            return None
        if not info.isreg() or info.issparse():
            got = f"member {shown(info.name)} is a link, a device or sparse"
            raise ModelFileError(f"{self.where}: {got}, expected plain files")
        return name

    def config(self) -> dict[str, Any]:
        """The parsed model_config.yaml."""
        if CONFIG not in self._files:
            raise ModelFileError(f"{self.where}: no {CONFIG} inside, expected a NeMo checkpoint")
        return parse_yaml(self._files[CONFIG], f"{self.where}: {CONFIG}")

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors of model_weights.ckpt, unpickled with torch's weights-only reader."""
        if self._large is None:
            raise ModelFileError(f"{self.where}: no {WEIGHTS} inside, expected a NeMo checkpoint")
        return read_checkpoint(self._large, f"{self.where}: {WEIGHTS}")

    def member(self, reference: object, option: str) -> bytes:
        """The file that a `nemo:<name>` reference of the configuration means."""
        name = str(reference or "").removeprefix("nemo:")
        name = posixpath.normpath(name) if name else ""
        if name not in self._files:
            got = f"{option}={shown(repr(reference))}"
            raise ModelFileError(f"{self.where}: {got}: expected the name of a member of the archive")
        return self._files[name]


def parse_yaml(raw: bytes, where: str) -> dict[str, Any]:
    """Plain values only; aliases, which can grow without bound, and many levels are refused (NeMo writes neither)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = raw.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise ModelFileError(f"{where}: has YAML aliases, expected plain values")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ModelFileError(f"{where}: has YAML of more than {DEEPEST} levels, expected sections and values")
        values = yaml.load(text, Loader=loader)  # a safe loader, in C where there is one
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{where}: not readable as YAML ({_line(error)})") from error
    if not isinstance(values, dict):
        raise ModelFileError(f"{where}: got {type(values).__name__}, expected a mapping of sections")
    return values


def read_checkpoint(file: IO[bytes], where: str) -> dict[str, torch.Tensor]:
    """A flat dict of tensors from a torch.save file, zip or legacy; code in pickles is never run."""
    size = file.seek(0, io.SEEK_END)
    try:
        check_file(file, size)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict) or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()
        ):
            raise PickleError("expected a dict of tensors by name")
        check_tensors(loaded, size)
    except PickleError as error:
        raise ModelFileError(f"{where}: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelFileError(f"{where}: holds more than tensors, refused ({_line(error)})") from error
    except Exception as error:  # torch's reader fails in many types; each means the same to the caller
        raise ModelFileError(f"{where}: not readable as a torch checkpoint ({_line(error)})") from error
    return dict(loaded)


def _exactly(member: IO[bytes], size: int) -> bytes:
    data = member.read(size)
    if len(data) != size:
        raise EOFError(f"truncated: {len(data)} of {size} bytes")
    return data


def _line(error: Exception) -> str:
    return shown(str(error).strip().split("\n")[0], 160) or type(error).__name__
