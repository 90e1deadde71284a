"""Compiles every kernel for sm_90 with the 0.6 B model's constants, as a command of its own. Needs no GPU.

Prints JSON: for each kernel its registers a thread, bytes of spills, of shared memory and of scratch that a launch has
to allocate, or what the compiler said.
Its own process, as kernels are decorated to be interpreted or compiled when their module is imported.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
OPTIONS = ("num_warps", "num_stages")


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> dict[str, int]:
    """`types`: pointer and number types by name, but for those that are `constants`, as all others must be.

    Numbers of 1 are constants to the compiler, too, whatever the kernel says of them.
    """
    options = {name: constants[name] for name in OPTIONS if name in constants}
    values = {name: value for name, value in constants.items() if name not in OPTIONS}
    signature = {name: "constexpr" if name in values else types[name] for name in kernel.arg_names}
    # What the launcher would see on a real tensor: addresses on 16 bytes.
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n].startswith("*")}
    binary = triton.compile(ASTSource(kernel, signature, values, aligned), target=HOPPER, options=options)
    made = binary.metadata
    scratch = made.global_scratch_size + made.profile_scratch_size
    return {"shared": made.shared, "scratch": scratch, **resources(binary.asm["cubin"])}


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread and bytes of local memory, which is where spills go."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL"))
    return {"registers": registers, "local": stack + local}


Case = tuple[str, Callable[[], dict[str, int]]]


def main() -> None:
    from tests.models.kernels import shapes

    found: dict[str, Any] = {}
    cases: Iterator[Case] = shapes.cases(compiled)
    for name, build in cases:
        try:
            found[name] = build()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[-2000:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
