"""The house plan, executable: who may import whom, and what stays free of torch, of the clock and of size.

The plan's lines are in docs/architecture.md; a new file needs a line here before it needs code.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("streamer", "models", "export", "clients")
MOST_LINES = 400

TORCH_FREE = {"models.config", "models.tokenizer", "models.features_np"}
EVENTS = {"streamer.protocols.events", "streamer.errors"}
TRANSCRIPT = {"streamer.transcript", "streamer.decoding", "models.tokenizer", "models.config", "models.languages"}
ENGINE = {
    "streamer.engine",
    "streamer.actions",
    "streamer.backends.base",
    "streamer.decoding",
    "models.config",
    "numpy",
}
BACKEND = {
    "streamer.backends.base",
    "streamer.backends.arena",
    "streamer.backends.cpu",
    "streamer.decoding",
    "numpy",
    *TORCH_FREE,
}
COMMAND = {"streamer.commands", "streamer.artefacts", "streamer.engine.machine", "streamer.errors", "=streamer"}
SERVER = EVENTS | {
    "=streamer",
    "=streamer.__version__",
    "streamer.server",
    "streamer.connection",
    "streamer.outbox",
    "streamer.gate",
    "streamer.intake",
    "streamer.codecs",
    "streamer.pulse",
    "streamer.line",
    "streamer.fronts",
    "streamer.guard",
    "streamer.sockets",
    "streamer.config",
    "streamer.auth",
    "streamer.metrics",
    "streamer.offer",
    "streamer.pages",
    "streamer.rooms",
    "streamer.signals",
    "streamer.watching",
    "streamer.logs",
    "streamer.protocols",
    "streamer.session",
    "streamer.actions",
    "streamer.engine",
    "streamer.backends",
    "models.config",
    "aiohttp",
    "uvloop",
}

# The longest matching prefix owns a module; what is not listed may import only the standard library.
MAY_IMPORT: dict[str, set[str]] = {
    "streamer.__main__": {"streamer.cli"},
    "streamer.errors": set(),
    "streamer.actions": {"streamer.decoding", "streamer.protocols.events", "numpy"},
    "streamer.config": {"streamer.errors", "yaml"},
    "streamer.decoding": {"numpy"},
    "streamer.audio": {"streamer.encodings", "streamer.errors", "models.config", "numpy", "soxr"},
    "streamer.encodings": {"numpy"},
    "streamer.auth": {"streamer.config", "streamer.errors"},
    "streamer.metrics": {"prometheus_client", "numpy"},
    "streamer.tally": {"prometheus_client"},
    "streamer.front": SERVER | {"streamer.tally", "models.tokenizer"},
    "streamer.fronts": SERVER - {"streamer.server"} | {"streamer.tally"},
    "streamer.protocols": {"streamer.protocols", "streamer.errors"},
    "streamer.protocols.events": {"streamer.errors"},
    "streamer.transcript": TRANSCRIPT,
    "streamer.session": {
        *EVENTS,
        "streamer.actions",
        "streamer.audio",
        "streamer.encodings",
        "streamer.settings",
        "streamer.transcript",
        "streamer.voice",
        "models.config",
        "models.tokenizer",
        "numpy",
    },
    "streamer.settings": set(),
    "streamer.voice": {"streamer.actions", "streamer.wording", "streamer.transcript", "numpy"},
    "streamer.codecs": {"streamer.codecs", "streamer.errors", "streamer.audio", "streamer.encodings", "numpy", "av"},
    "streamer.decoder": {"streamer.codecs", "streamer.decoder_process", "streamer.nursery", "numpy"},
    "streamer.nursery": {"streamer.fork_server"},
    "streamer.fork_server": {"streamer.decoder_process"},
    "streamer.decoder_process": {"streamer.codecs", "streamer.audio"},
    "streamer.intake": {*EVENTS, "streamer.audio", "streamer.codecs", "streamer.decoder", "numpy"},
    "streamer.subtitles": {"streamer.subtitles", "streamer.protocols.events"},
    "streamer.wording": {"streamer.protocols.events", "streamer.transcript"},
    "streamer.engine": ENGINE,
    "streamer.backends": {"streamer.backends.base"},
    "streamer.backends.base": {"streamer.decoding", "models.config", "numpy"},
    "streamer.backends.arena": BACKEND,
    "streamer.backends.cpu": BACKEND,
    "streamer.backends.fake": BACKEND,
    "streamer.backends.ort": BACKEND | {"onnxruntime"},
    "streamer.backends.pytorch": BACKEND | {"models", "torch", "streamer.backends"},
    "streamer.backends.device": BACKEND | {"models", "torch", "streamer.backends"},
    "streamer.backends.launches": {"streamer.backends.graphs", "models.tick", "torch"},
    "streamer.backends.graphs": {"torch", "numpy", "cuda"},
    "streamer.backends.ledger": BACKEND,
    "streamer.backends.trt": BACKEND | {"models", "torch", "streamer.backends"},
    "streamer.backends.trt_folder": BACKEND,
    "streamer.backends.trt_engine": BACKEND | {"streamer.backends.trt_folder", "models", "torch"},
    "streamer.backends.trt_open": BACKEND
    | {"streamer.backends.trt_folder", "streamer.backends.trt_engine", "models", "torch", "safetensors"},
    "streamer.server": SERVER,
    "streamer.connection": (SERVER - {"streamer.server", "streamer.watching", "streamer.pages", "streamer.offer"})
    | {"numpy"},
    "streamer.offer": EVENTS
    | {"=streamer", "streamer.auth", "streamer.config", "streamer.protocols", "streamer.session", "models.config"}
    | {"streamer.engine.results", "streamer.engine.machine"},
    "streamer.pages": {"streamer.errors", "streamer.protocols.events", "aiohttp"},
    "streamer.guard": {"streamer.config", "streamer.errors", "aiohttp"},
    "streamer.sockets": {"=streamer.auth", "streamer.config", "streamer.errors"},
    "streamer.gate": set(),
    "streamer.signals": set(),
    "streamer.pulse": set(),
    "streamer.line": {"streamer.actions", "streamer.config", "streamer.outbox", "streamer.pulse", "aiohttp"}
    | {"streamer.sockets"},
    "streamer.outbox": {"streamer.actions", "streamer.protocols.events", "streamer.protocols.watch"},
    "streamer.rooms": EVENTS | {"streamer.actions", "streamer.config", "streamer.outbox", "streamer.protocols"},
    "streamer.watching": SERVER - {"streamer.server", "streamer.pages", "streamer.offer"},
    "streamer.logs": {"streamer.config"},
    "streamer.artefacts": set(),
    "streamer.recordings": {"streamer.blocks", "=streamer", "numpy"},
    "streamer.blocks": {"models.config", "streamer.artefacts", "streamer.audio", "streamer.codecs", "streamer.errors"}
    | {"streamer.encodings", "av", "numpy", "soundfile", "soxr"},
    "streamer.transcriber": {"streamer.backends.base", "streamer.decoding", "models.config", "numpy"},
    "streamer.bench": {"clients", "streamer.protocols.events", "streamer.bench"},
    "streamer.bench.machine": set(),
    "streamer.bench.overhead": {"streamer.bench", "streamer.gpu_check.lean"},
    "streamer.bench.quiet": {"streamer.backends", "streamer.config", "streamer.decoding", "streamer.logs"}
    | {"streamer.server", "streamer.sockets", "aiohttp"},
    "streamer.bench.mishaps": {"models.config"},
    "streamer.bench.emission": {"models.config", "streamer.backends.base"},
    "streamer.bench.line": {"websockets"},
    "streamer.bench.order": {"streamer.bench", "models.config"},
    "streamer.bench.notes": set(),
    "streamer.bench.speaker": {"streamer.bench", "models.config", "numpy"},
    "streamer.bench.generator": {"streamer.bench", "numpy", "uvloop"},
    "streamer.bench.load": {"streamer.bench"},
    "streamer.bench.scrape": {"streamer.bench"},
    "streamer.bench.tally": {"streamer.bench"},
    "streamer.bench.report": {"streamer.bench"},
    "streamer.bench.plot": {"streamer.bench"},
    "streamer.bench.soak": {"streamer.bench"},
    "streamer.bench.live": {"streamer.bench", "rich"},
    "streamer.bench.peer_step": {"numpy", "streamer.backends", "sherpa_onnx"},
    "streamer.bench.peer_report": {"streamer.bench"},
    "streamer.bench.peer_model": {"nemo", "onnx", "onnxruntime", "omegaconf", "sentencepiece", "soundfile", "torch"},
    "streamer.bench.loss": {"streamer.bench"},
    "streamer.bench.loss_order": set(),
    "streamer.bench.loss_trial": {"streamer.bench", "models.training", "nemo", "torch"},
    "streamer.bench.floor": {"streamer.bench", "=streamer.backends.ort.options_for", "numpy", "onnx", "onnxruntime"},
    "streamer.bench.peer_load": {"streamer.bench", "=clients.send.PIECE_S", "models.config", "numpy", "websockets"},
    "streamer.bench.peer_sockets": {"streamer.bench", "=streamer.gpu_check.search.Search", "numpy"},
    "streamer.bench.peers": {"streamer.bench", "=streamer.gpu_check.record.write", "numpy"},
    "streamer.bench.capacity": {"streamer.bench", "streamer.engine.capacity", "streamer.engine.costs", "models.config"},
    "streamer.cli": COMMAND,
    "streamer.commands": COMMAND
    | {"streamer.recordings", "streamer.transcriber", "streamer.backends", "streamer.decoding", "streamer.transcript"}
    | {"streamer.subtitles", "streamer.protocols.events", "models.config", "models.tokenizer", "numpy", "rich"},
    # The doors to what needs an extra or a client: opened inside the sub-command, never by `import streamer.cli`.
    "streamer.commands.serve": COMMAND
    | {"streamer.config", "streamer.errors", "streamer.logs", "streamer.offer", "streamer.server", "models.config"},
    "streamer.commands.standard_input": COMMAND | {"streamer.audio", "streamer.codecs", "streamer.signals", "numpy"},
    "streamer.commands.live": COMMAND
    | {"streamer.backends.base", "streamer.decoding", "streamer.protocols.events", "streamer.subtitles"}
    | {"streamer.transcript", "streamer.wording", "models.config", "numpy"},
    "streamer.commands.models": COMMAND | {"models"},
    "streamer.commands.train": COMMAND | {"models.training"},
    "streamer.commands.demo": COMMAND | {"clients"},
    "streamer.commands.stream": COMMAND | EVENTS | {"clients"},
    "streamer.commands.mic": COMMAND | EVENTS | {"clients"},
    "streamer.commands.device": COMMAND | {"streamer.recordings", "models", "torch"},
    "streamer.commands.meter": {"clients.mic", "rich"},
    "streamer.commands.local": COMMAND | {"streamer.backends", "streamer.config", "streamer.server"},
    "streamer.commands.bench": COMMAND,
    "streamer.commands.capacity": COMMAND
    | {"streamer.backends", "streamer.bench", "streamer.config", "streamer.engine", "streamer.offer"},
    "streamer.commands.load": COMMAND | {"streamer.bench"},
    "streamer.commands.soak": COMMAND | {"streamer.bench"},
    "streamer.commands.loading": COMMAND | {"streamer.bench", "clients.client", "models.config", "numpy"},
    "streamer.commands.references": COMMAND | {"streamer.bench", "streamer.recordings", "models.config", "numpy"},
    "streamer.commands.overhead": COMMAND | {"streamer.bench"},
    "streamer.commands.accuracy": COMMAND | {"streamer.bench", "streamer.recordings"},
    "streamer.commands.evaluate": COMMAND | {"streamer.recordings", "=models.training.text.normalize", "jiwer"},
    "streamer.commands.timing": COMMAND
    | {"streamer.backends.base", "streamer.bench", "streamer.config", "streamer.decoding", "streamer.recordings"}
    | {"streamer.transcript", "models"},
    "streamer.commands.learning": COMMAND | {"streamer.bench.learning"},
    "streamer.commands.loss": COMMAND | {"streamer.bench", "torch"},
    "streamer.commands.peers": COMMAND | {"clients", "streamer.bench", "=streamer.gpu_check.sounds.speech"},
    "streamer.commands.gpu": COMMAND | {"streamer.gpu_check", "torch"},
    "streamer.gpu_check": {"streamer", "models", "export", "torch", "numpy", "soundfile", "uvloop", "cuda", "pip"},
    "models": {"models", "torch", "numpy", "yaml", "safetensors"},
    "models.config": set(),
    "models.languages": set(),
    "models.kernels": {"models", "torch", "triton"},
    "models.tokenizer": {"sentencepiece"},
    "models.features_np": {"models.config", "numpy"},
    "models.training": {"models", "torch", "numpy", "onnxruntime", "yaml", "soundfile", "soxr", "jiwer", "rich"},
    "models.training.text": set(),
    "export": {"export", "models", "torch", "numpy", "onnx", "onnxruntime", "onnxscript", "onnx_ir"},
    "export.parity": {"export", "models", "torch", "numpy", "onnxruntime", "streamer.backends", "streamer.decoding"},
    "export.to_trt": {"export", "models", "torch", "numpy", "safetensors", "streamer.backends"},
    "clients": {"clients", "numpy", "soundfile", "soxr", "websockets", *EVENTS},
    "clients.mic": {"numpy", "sounddevice", "streamer.protocols.events"},
}
# Outside of these, time is an argument (STYLE: `plan(now, waiting)`), so that a test can run hours in milliseconds.
CLOCKS = {
    "streamer.server",
    "streamer.front",
    "streamer.fronts",
    "streamer.signals",
    "streamer.engine",
    "streamer.bench",
    "streamer.commands",
    "streamer.gpu_check",
    "streamer.backends.fake",
}


def modules() -> list[tuple[str, Path]]:
    """Every module of ours with its path; a package counts as its name."""
    found = []
    for path in sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imported_names(path: Path) -> list[str]:
    """Absolute names in import statements, those inside functions and under TYPE_CHECKING included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def owner_of(module: str, table: dict[str, set[str]] | set[str]) -> str | None:
    """The longest prefix of the module's name in the table."""
    return max((key for key in table if f"{module}.".startswith(f"{key}.")), key=len, default=None)


def violations(listed: list[tuple[str, Path]]) -> list[str]:
    """`a imports b` for every import that the plan has no line for."""
    wrong = []
    for module, path in listed:
        owner = owner_of(module, MAY_IMPORT)
        allowed = (MAY_IMPORT[owner] if owner else set()) | set(sys.stdlib_module_names)
        wrong += [f"{module} imports {name}" for name in imported_names(path) if not _allowed(name, allowed)]
    return wrong


def _allowed(name: str, allowed: set[str]) -> bool:
    """A plain entry allows all below it, `=name` that name alone."""
    return f"={name}" in allowed or any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)


def test_every_import_points_down_the_stream() -> None:
    wrong = violations(modules())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("streamer.session", "import torch"),
        ("streamer.engine.scheduler", "def late():\n    from streamer.session import Session"),
        ("models.config", "import numpy"),
        ("clients.client", "from streamer.server import serve"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, module: str, line: str) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(line, "utf-8")
    assert len(violations([(module, planted)])) == 1


@pytest.mark.parametrize(
    "module",
    ["streamer.cli", "streamer.server", "streamer.backends.ort", "clients.client", "streamer.commands.listening"],
)
def test_the_daemon_and_its_tools_import_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_is_quick_because_it_imports_no_package_of_others() -> None:
    code = "import sys, streamer.cli as c; c.parser(); sys.exit(len({'numpy', 'rich', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_time_is_an_argument_outside_the_shells() -> None:
    clocks = ("monotonic", "perf_counter", "time.time(")
    wrong = [
        f"{module}: {clock}"
        for module, path in modules()
        if module.startswith("streamer") and owner_of(module, CLOCKS) is None
        for clock in clocks
        if clock in path.read_text("utf-8")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_a_person_reads_at_once() -> None:
    paths = [path for top in (*TOPS, "tests") for path in (ROOT / top).rglob("*.py")]
    long = {
        str(path.relative_to(ROOT)): n
        for path in paths
        if (n := len(path.read_text("utf-8").splitlines())) > MOST_LINES
    }
    assert not long, long


def test_every_file_begins_with_what_it_owns() -> None:
    silent = [
        module
        for module, path in modules()
        if path.read_text("utf-8").strip() and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not silent, silent
