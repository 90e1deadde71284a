"""Many whole recordings at once, in batches of nearly one length: samples in, tokens out. For throughput, not delay.

The words are those of `models.transcribe.offline`. A streaming model hears a batch in pieces whose frames a budget
bounds, each with what the one before leaves behind (models.band), so that no recording is too long; a full-context
model hears whole recordings, as long as memory lasts. Knows nothing of files, text or who asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import PassThrough
from models.band import Band, Banded, Bands, block_of
from models.batching import AHEAD, PIECE, Batch, Budget, InMemory, Recording, Staging, batches, prepared
from models.bulk_decoding import Decoding, Spoken
from models.config import HOP, SUBSAMPLING, ModelConfig
from models.features import LogMel
from models.operators import Plain
from models.transcribe import Pcm
from models.transducer import Model

__all__ = ["Bulk", "InMemory", "Recording", "Spoken", "Staging"]

Context = tuple[int, int]
FRAMES = {"cuda": 30_000, "cpu": 750}  # of a batch, 40 minutes and one: more gains nothing and takes memory
INDEX = 1 << 31  # elements of a tensor that every convolution can count
SHARE = 0.4  # of the free memory that a batch may take
UNKNOWN_BYTES = 4 << 30  # where the system does not say
SCORES = 12  # numbers in memory for one score of attention, with all that is made of it on the way
LEAD = 2  # mel frames computed before a piece's own, and thrown away: their windows reach before its samples
LEAST_MEL = 7  # the first encoder frame's mel frames before the audio


class Bulk:
    """One model at one context on one device; the model becomes the bulk's own: moved, cast, its weights frozen."""

    def __init__(
        self,
        model: Model,
        context: Context | None = None,
        *,
        prompt: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config = model.config
        self.context = context or config.contexts[0]
        self.device, self.dtype = device or torch.device("cpu"), dtype
        self._mel = _front_end(model).to(self.device)
        self._model = _placed(model, self.device, dtype)
        self._prompt = config.prompt_index(None) or 0 if prompt is None else prompt
        with torch.inference_mode():
            self._bands = self._make_bands() if config.streaming else None
            self._decoding = Decoding(self._model, dtype, self.device)
        self._tables: list[Tensor] = []  # of the longest recording that a full-context model has heard
        self.budget = measured(config, self.device, dtype)

    def frames(self, samples: int) -> int:
        """Encoder frames of so many samples."""
        return self.config.encoder_frames(samples // HOP)

    @property
    def why_slow(self) -> str | None:
        """Why the decoder's kernels do not run here, in words; None where they do, or where none are wanted."""
        return self._decoding.why_slow

    def most_samples(self) -> int | None:
        """The longest recording that memory has room for, None where there is no such."""
        if self.budget.squares is None:
            return None
        return math.isqrt(self.budget.squares) * HOP * SUBSAMPLING

    def hear_all(self, recordings: Sequence[Pcm]) -> list[Spoken]:
        """What recordings in memory say, in their order. What a benchmark calls."""
        staging, spoken = Staging(self.device), [Spoken.nothing()] * len(recordings)
        planned = batches([self.frames(len(pcm)) for pcm in recordings], self.budget)
        loads = ((rows, staging.load([InMemory(recordings[row]) for row in rows])) for rows in planned)
        for rows, batch in prepared(loads, AHEAD):
            for row, said in zip(rows, self.hear(batch), strict=True):
                spoken[row] = said
        return spoken

    @torch.inference_mode()
    def hear(self, batch: Batch) -> list[Spoken]:
        """What each row says."""
        decoding, first = self._decoding.batch(len(batch.samples)), 0
        for frames, counts in self.encoded(batch):
            prompt = torch.full((len(frames),), self._prompt, device=self.device)
            decoding.feed(self._model.with_prompt(frames, prompt), [count - first for count in counts], first)
            first += frames.shape[1]
        return decoding.spoken()

    def encoded(self, batch: Batch) -> Iterator[tuple[Tensor, list[int]]]:
        """Encoder frames (b, T, d_model) piece by piece, and how many each row has in all.

        Rows that have ended are not in later pieces; frames at or past a row's end are meaningless.
        """
        batch.wait()
        counts = [self.frames(samples) for samples in batch.samples]
        if not counts or not counts[0]:
            return
        if self._bands is None:
            yield self._whole(batch, counts), counts
        else:
            yield from self._pieces(batch, counts, self._bands)

    def _whole(self, batch: Batch, counts: list[int]) -> Tensor:
        """Every recording at once, as `Encoder.offline` does it, with the tables kept."""
        encoder, lengths = self._model.encoder, torch.tensor(batch.samples, device=self.device)
        mel, mel_frames = self._mel(batch.pcm, lengths)
        if self.config.causal_subsampling:
            mel = F.pad(mel, (0, 0, LEAST_MEL, max(0, SUBSAMPLING * counts[0] - LEAST_MEL - mel.shape[1])))
            mel = mel[:, : SUBSAMPLING * counts[0]]
        start, state = self._zeros(len(counts))
        x, _ = encoder.pre_encode(mel.to(self.dtype), state.sub, start, mel_frames)
        end = torch.tensor(counts, device=self.device)
        kv = PassThrough.over(self._positions(x.shape[1]), end, self.config, self.context)
        return encoder.through(x, start, end, Plain(kv, state.conv))

    def _pieces(self, batch: Batch, counts: list[int], bands: Bands) -> Iterator[tuple[Tensor, list[int]]]:
        encoder, lengths = self._model.encoder, torch.tensor(batch.samples, device=self.device)
        start, state = self._zeros(len(counts))
        length, end = lengths // HOP, torch.tensor(counts, device=self.device)
        size = self._piece(len(counts), counts[0], bands)
        for first in range(0, counts[0], size):
            rows = sum(count > first for count in counts)
            frames = min(size, counts[0] - first)
            state, done = state.head(rows), start[:rows] + first
            mel = self._mel_of(batch.pcm[:rows], lengths[:rows], first, frames)
            x, sub = encoder.pre_encode(mel.to(self.dtype), state.sub, done, length[:rows])
            band = Band(bands, state.past, (first, frames), end[:rows])
            ops = Banded(band, state.conv)
            y = encoder.through(x, done, end[:rows], ops)
            state = _Left(sub, tuple(ops.tails), band.past)
            yield y, counts[:rows]

    def _piece(self, rows: int, longest: int, bands: Bands) -> int:
        """Frames of a piece: the longest row if the budget has room for so many rows of it, else whole blocks."""
        most = self.budget.frames // rows
        return longest if longest <= most else bands.longest * max(1, most // bands.longest)

    def _mel_of(self, pcm: Tensor, lengths: Tensor, first: int, frames: int) -> Tensor:
        """Mel frames (B, 8 frames, mels) of the encoder frames from `first` on; the first of all begin with zeros."""
        places = SUBSAMPLING * frames
        begin = SUBSAMPLING * first - LEAST_MEL  # the first mel frame
        lead = max(0, min(LEAD, begin))  # the windows of the audio's first frames do reach before it
        at = HOP * max(0, begin - lead)
        samples = pcm[:, at : HOP * (begin + places + LEAD)]
        mel, _ = self._mel(samples, (lengths - at).clamp(0, samples.shape[1]))
        mel = F.pad(mel[:, lead:], (0, 0, max(0, -begin), places))
        return mel[:, :places]

    def _positions(self, frames: int) -> list[Tensor]:
        """Tables of positions -(frames - 1) ... frames - 1, out of the longest ones made so far."""
        made = (self._tables[0].shape[-1] + 1) // 2 if self._tables else 0
        if frames > made:
            self._tables, made = self._model.encoder.position_tables(frames - 1, frames - 1), frames
        return [table[..., made - frames : table.shape[-1] - (made - frames)] for table in self._tables]

    def _make_bands(self) -> Bands:
        block = block_of(self.context)
        tables = self._model.encoder.position_tables(block - 1, self.context[0] + block - 1)
        return Bands(tables, self.config, self.context)

    def _zeros(self, rows: int) -> tuple[Tensor, _Left]:
        """Frames done (rows,) and what recordings that have not begun leave behind."""
        config = self.config

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(rows, *sizes, device=self.device, dtype=self.dtype)

        first, second, _ = config.sub_widths
        sub = zeros(1, config.mels), zeros(config.sub_channels, 1, first), zeros(config.sub_channels, 1, second)
        past = [] if self._bands is None else [(zeros(config.heads, self._bands.left, config.head_dim),) * 2]
        conv = (zeros(config.conv_context[0], config.d_model),) * config.layers
        return torch.zeros(rows, dtype=torch.int64, device=self.device), _Left(sub, conv, past * config.layers)


@dataclass(frozen=True, slots=True)
class _Left:
    """What a piece leaves for the next one: last frames of the subsampling's stages, of each convolution, K and V."""

    sub: tuple[Tensor, Tensor, Tensor]
    conv: tuple[Tensor, ...]
    past: list[tuple[Tensor, Tensor]]

    def head(self, rows: int) -> _Left:
        """Of the first rows alone."""
        mel, sub1, sub2 = (tensor[:rows] for tensor in self.sub)
        past = [(k[:rows], v[:rows]) for k, v in self.past]
        return _Left((mel, sub1, sub2), tuple(tail[:rows] for tail in self.conv), past)


def measured(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Budget:
    """What a batch may take of the memory that is free now."""
    free, width = SHARE * _free_bytes(device), torch.finfo(dtype).bits // 8
    frame_bytes = 4 * width * _first_elements(config) + SUBSAMPLING * HOP * 4 * 32  # with copies; spectra in float32
    most = min(int(free / frame_bytes), most_frames(config))
    frames = min(FRAMES[device.type], most)
    if config.streaming:
        return Budget(max(frames, PIECE))
    squares = min(int(free / (SCORES * width * config.heads)), most**2)
    return Budget(max(frames, 1), max(squares, 1))


def most_frames(config: ModelConfig) -> int:
    """Encoder frames of a batch that every convolution can count."""
    return INDEX // _first_elements(config) - 1


def _first_elements(config: ModelConfig) -> int:
    """Elements of one encoder frame after the first convolution, where they are most."""
    return 4 * config.sub_channels * config.sub_widths[0]


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        return int(text.partition("MemAvailable:")[2].split()[0]) << 10  # what caches would give back counts as free
    except (OSError, ValueError, LookupError):
        return UNKNOWN_BYTES


def _front_end(model: Model) -> LogMel:
    """Features with the checkpoint's own filterbank and window, always in float32."""
    mel = LogMel(model.config.mels, model.config.normalize)
    buffers = model.preprocessor.featurizer
    mel.load_state_dict({"fb": buffers.fb.float(), "window": buffers.window.float()})
    return mel


def _placed(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """The model on its device in its dtype; what batch norms measured stays float32."""
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # torch rounds convolutions, though not products, unless told
    model = model.eval().requires_grad_(False).to(device=device, dtype=dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.float()
    return model
