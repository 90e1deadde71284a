"""A torch.save file, looked through before torch unpickles it: tensors by name, and no more bytes than the file has.

torch's weights-only reader runs no code, but builds what a pickle names: `bytearray(1 << 40)` is four bytes long. So a
pickle may name only what NeMo's checkpoints hold. Knows nothing of models or archives.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Mapping
from typing import IO

from torch import Tensor

from models.config import shown

MAX_PICKLE_BYTES = 8 << 20  # 114 M parameters in 700 tensors take 0.1 MB
MAX_SHARING = 4  # times that a checkpoint's bytes may be named: tied tensors share theirs
_ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # magic number, protocol, machine, tensors, order of the storages
_NAMES = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Float|Half|BFloat16|Double|Long|Int|Short|Char|Byte|Bool)Storage"
)
# Other ways to name or make things; torch.save writes none of them.
_OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER"}


class PickleError(ValueError):
    """The file is not tensors alone; the text says what was found and what was expected."""


def check_file(file: IO[bytes], size: int) -> None:
    """Raises PickleError, or whatever a broken file makes its parser raise; leaves the file at its start."""
    file.seek(0)
    if file.read(4) == _ZIP:
        _check_zip(file, size)
    else:
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            _check_pickle(file)
    file.seek(0)


def check_tensors(tensors: Mapping[str, Tensor], size: int) -> None:
    """After unpickling and before a number is read: a storage may claim more than the file has, a tensor repeat it."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if sum(storages.values()) > size:
        raise PickleError(f"tensors claim {sum(storages.values())} bytes, expected at most the file's {size}")
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > (held := tensor.untyped_storage().nbytes()):
            raise PickleError(f"{shown(name)}: got {tuple(tensor.shape)} of {held} bytes, expected numbers of its own")
    if (named := sum(t.numel() * t.element_size() for t in tensors.values())) > MAX_SHARING * size:
        raise PickleError(f"tensors name {named} bytes, expected at most {MAX_SHARING} times the file's {size}")


def _check_zip(file: IO[bytes], size: int) -> None:
    """Stored records that lie apart, in a zip that every reader understands in the same way."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(r.compress_type != zipfile.ZIP_STORED or r.file_size != r.compress_size for r in records):
            raise PickleError("has compressed records, expected torch.save's stored ones")
        if (total := sum(record.file_size for record in records)) > size:
            raise PickleError(f"has records of {total} bytes, expected at most the file's {size}")
        names = {record.filename.lower() for record in records}  # torch looks for them without regard to case
        if len(names) != len(records) or archive.comment or min(record.header_offset for record in records):
            raise PickleError("has a record twice, a comment or bytes before the first, expected none of these")
        for record in records:
            if record.filename.lower().endswith(".pkl"):
                with archive.open(record) as pickled:
                    _check_pickle(pickled)


def _check_pickle(file: IO[bytes]) -> None:
    """One pickle from where the file stands to its end, opcode by opcode; nothing is built."""
    start = file.tell()
    for opcode, argument, at in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not _NAMES.fullmatch(str(argument)):
            raise PickleError(f"holds more than tensors, refused (it names {shown(str(argument))})")
        if opcode.name in _OPCODES:
            raise PickleError(f"holds more than tensors, refused (opcode {opcode.name})")
        if (at or 0) - start > MAX_PICKLE_BYTES:
            raise PickleError(f"has a pickle of more than {MAX_PICKLE_BYTES} bytes, expected the names of tensors")
