"""Hostile and broken .nemo files: each is refused in one sentence, nothing is run, unpacked or believed."""

from __future__ import annotations

import collections
import copy
import gzip
import io
import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from models.nemo_archive import CONFIG, WEIGHTS
from tests.models import golden
from tests.models.nemo_files import archive, assert_refused, config, members, over, packed, with_config


class Runs:
    """A pickle that runs code: unpickled, it would end the test run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("the code of a pickle was run",)


def special(path: Path, kind: bytes, name: str = "./x", link: str = "/etc/passwd") -> Path:
    archive(path, members("hybrid_bpe"))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    return path


def squeezed(data: bytes) -> bytes:
    """A torch checkpoint whose records are compressed: how a bomb would come."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return out.getvalue()


class Large:
    """Four bytes in a pickle, 300 MB in memory; torch's weights-only reader allows it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (300 << 20,)


class Overlapping(pickle.Pickler):
    """A torch checkpoint of `count` tensors whose records all lie on the same bytes of the file."""

    def __init__(self, count: int, floats: int) -> None:
        self._out = io.BytesIO()
        super().__init__(self._out, 2)
        self._count, self._floats = count, floats

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, _Storage):
            return "storage", torch.FloatStorage, str(value.index), "cpu", self._floats
        return None

    def checkpoint(self) -> bytes:
        self.dump({f"x{i}": _Storage(i, self._floats).tensor() for i in range(self._count)})
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
            target.writestr("archive/data.pkl", self._out.getvalue())
            target.writestr("archive/byteorder", "little")
            target.writestr("archive/version", "3\n")
            target.writestr("archive/data/0", bytes(4 * self._floats))
            for i in range(1, self._count):
                entry = copy.copy(target.getinfo("archive/data/0"))
                entry.filename = f"archive/data/{i}"
                target.filelist.append(entry)
        return out.getvalue()


@dataclass
class _Storage:
    index: int
    floats: int

    def tensor(self) -> _Rebuilt:
        return _Rebuilt(self)


@dataclass
class _Rebuilt:
    storage: _Storage

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self.storage, 0, (self.storage.floats,), (1,), False, collections.OrderedDict()
        return torch._utils._rebuild_tensor_v2, arguments


def legacy(values: object) -> bytes:
    return packed(values, _use_new_zipfile_serialization=False)


def zipped_twice() -> bytes:
    """Two records called data.pkl but for their case, which torch does not look at."""
    out = io.BytesIO(packed({"a": torch.ones(2)}))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as target:
        target.writestr(target.namelist()[0].replace("data.pkl", "DATA.PKL"), b"")
    return out.getvalue()


def bytes_of(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def whole(name: str = "hybrid_bpe") -> bytes:
    return golden.checkpoint(name).read_bytes()


def bomb(path: Path) -> Path:
    with gzip.open(path, "wb") as out:
        info = tarfile.TarInfo(WEIGHTS)
        info.size = 200 << 20
        out.write(info.tobuf())
        for _ in range(50):
            out.write(bytes(4 << 20))
    return path


def claims(path: Path, size: int) -> Path:
    """A member that says it is longer than the file."""
    info = tarfile.TarInfo(WEIGHTS)
    info.size = size
    return bytes_of(path, info.tobuf() + bytes(2048))


def crowd(path: Path) -> Path:
    return archive(path, {f"f{i}": b"" for i in range(1001)})


def twice(path: Path) -> Path:
    archive(path, members("hybrid_bpe"))
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo(CONFIG))
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda p: p, "no such file"),
    "an empty file": (lambda p: bytes_of(p, b""), "not a whole .nemo archive"),
    "no tar": (lambda p: bytes_of(p, os.urandom(4096)), "not a whole .nemo archive"),
    "an empty gzip": (lambda p: bytes_of(p, gzip.compress(b"")), "not a whole .nemo archive"),
    "half a tar": (lambda p: bytes_of(p, whole()[: len(whole()) // 2]), "truncated"),
    "half a gzip": (lambda p: bytes_of(p, gzip.compress(whole())[:-40_000]), "not a whole .nemo archive"),
    "a gzip with a wrong byte": (
        lambda p: bytes_of(p, (z := gzip.compress(whole()))[:9000] + b"!!!!" + z[9004:]),
        "not a whole .nemo archive",
    ),
    "a path that climbs": (lambda p: archive(p, {"../evil": b""}), "points out of the archive"),
    "a path that climbs late": (lambda p: archive(p, {"a/../../evil": b""}), "points out of the archive"),
    "an absolute path": (lambda p: archive(p, {"/etc/evil": b""}, prefix=""), "points out of the archive"),
    "a Windows path": (lambda p: archive(p, {"..\\evil": b""}, prefix=""), "points out of the archive"),
    "a drive": (lambda p: archive(p, {"C:\\evil": b""}, prefix=""), "points out of the archive"),
    "a symbolic link": (lambda p: special(p, tarfile.SYMTYPE), "is a link"),
    "a hard link": (lambda p: special(p, tarfile.LNKTYPE), "is a link"),
    "a device": (lambda p: special(p, tarfile.CHRTYPE), "a device"),
    "a pipe": (lambda p: special(p, tarfile.FIFOTYPE), "expected plain files"),
    "a bomb": (bomb, "unpacks to more than"),
    "too many members": (crowd, "more than 1000 members"),
    "a member of 8 EB": (lambda p: claims(p, 1 << 36), "expected no more than"),
    "a member longer than the file": (lambda p: claims(p, 1 << 30), "truncated"),
    "two configurations": (twice, f"two members called {CONFIG}"),
    "no configuration": (lambda p: archive(p, {WEIGHTS: b""}), f"no {CONFIG} inside"),
    "YAML that is none": (lambda p: over(p, config=b"{"), "not readable as YAML"),
    "YAML that is binary": (lambda p: over(p, config=b"\xff\x00"), "not readable as YAML"),
    "YAML that makes objects": (lambda p: over(p, config=b"!!python/object/apply:os.system [ls]"), "not readable"),
    "YAML that laughs": (lambda p: over(p, config=b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), "aliases"),
    "YAML of many levels": (lambda p: over(p, config=b"a: " + b"[" * 50_000 + b"]" * 50_000), "more than 50 levels"),
    "YAML that nests for ever": (lambda p: over(p, config=b"[" * 5_000), "YAML"),
    "YAML of a list": (lambda p: over(p, config=b"[1, 2]"), "expected a mapping"),
    "YAML of nothing": (lambda p: over(p, config=b""), "expected a mapping"),
    "YAML of wrong sections": (lambda p: over(p, config=b"preprocessor: 3\nlabels: [a]"), "preprocessor=3"),
    "a pickle that runs code": (lambda p: over(p, weights=packed({"a": Runs()})), "holds more than tensors"),
    "a bare pickle that runs code": (lambda p: over(p, weights=pickle.dumps(Runs(), 2)), "weights.ckpt"),
    "a pickle that fills memory": (lambda p: over(p, weights=packed({"a": Large()})), "it names __builtin__ bytearray"),
    "the same, bare": (lambda p: over(p, weights=legacy({"a": Large()})), "it names __builtin__ bytearray"),
    "records that overlap": (
        lambda p: over(p, weights=Overlapping(50, 1 << 16).checkpoint()),
        "expected at most the file's",
    ),
    "a record that is there twice": (lambda p: over(p, weights=zipped_twice()), "has a record twice"),
    "bytes before the zip": (lambda p: over(p, weights=b"PK\3\4" + packed({"a": torch.ones(2)})), "weights.ckpt"),
    "a tensor without numbers": (
        lambda p: over(p, weights=packed({"a": torch.ones(2, device="meta")})),
        "_rebuild_meta_tensor",
    ),
    "a nested tensor": (
        lambda p: over(p, weights=packed({"a": torch.nested.nested_tensor([torch.ones(2)])})),
        "more than tensors",
    ),
    "a sparse tensor": (lambda p: over(p, weights=packed({"a": torch.eye(2).to_sparse()})), "more than tensors"),
    "a complex tensor": (lambda p: over(p, weights=packed({"a": torch.ones(2) * 1j})), "torch ComplexFloatStorage"),
    "a name of two lines": (lambda p: archive(p, {"../a\nb\udcff" + "c" * 200: b""}), r"'./../a\nb\udcffccc"),
    "weights that are packed": (lambda p: over(p, weights=squeezed(members("hybrid_bpe")[WEIGHTS])), "compressed"),
    "weights of noise": (lambda p: over(p, weights=os.urandom(999)), "weights.ckpt"),
    "weights of nothing": (lambda p: over(p, weights=b""), "weights.ckpt"),
    "half the weights": (lambda p: over(p, weights=members("hybrid_bpe")[WEIGHTS][:100_000]), "not readable"),
    "weights that are a list": (lambda p: over(p, weights=packed([torch.ones(2)])), "expected a dict of tensors"),
    "weights with numbers": (lambda p: over(p, weights=packed({"a": 3})), "expected a dict of tensors"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_sentence(attack: str, tmp_path: Path) -> None:
    make, sentence = HOSTILE[attack]
    assert_refused(make(tmp_path / "m.nemo"), sentence)


def test_a_reference_out_of_the_archive_is_refused(tmp_path: Path) -> None:
    for reference in ("nemo:../../etc/passwd", "/etc/passwd", "nemo:absent.model", None, 7):
        values = config("hybrid_bpe")
        values["tokenizer"]["model_path"] = reference
        assert_refused(archive(tmp_path / "m.nemo", with_config("hybrid_bpe", values)), "tokenizer.model_path=")
