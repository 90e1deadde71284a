"""The training loop, top to bottom: `python -m models.training.trainer --config X.yaml` starts or resumes a run."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing as mp

from models.config import ConfigError, ModelConfig
from models.decoding import DecoderState, decode_transducer
from models.tokenizer import Tokenizer
from models.training import release, settings
from models.training.arena import Arena, Step
from models.training.data import Corpus
from models.training.objective import build, full_precision_subsampling, loss_of
from models.training.progress import Job, Progress, WorkerLost
from models.training.settings import Settings, Stage
from models.training.wer import ctc_texts, wer, wer_by_source
from models.transducer import Model


def model_config(told: Settings, tokenizer: Tokenizer) -> ModelConfig:
    """The model to train; raises ConfigError for what batches, losses or checkpoints do not know of."""
    config = ModelConfig.from_dict({**told.model, "vocab_size": len(tokenizer), "labels": list(tokenizer.pieces)})
    for key, good, expected in (
        ("durations", not config.durations, "none: there is no TDT loss"),
        ("num_prompts", not config.num_prompts, "0: no batch knows its language"),
        ("conv_norm", config.conv_norm == "layer_norm", "layer_norm: running statistics are not shared or kept"),
        ("normalize", config.normalize == "none", "none: the cache's features are not normalised"),
    ):
        if not good:
            raise ConfigError(f"settings.model.{key}", getattr(config, key), expected)
    return config


def new_model(told: Settings, config: ModelConfig, corpus: Corpus) -> Model:
    """A model with initial weights for this corpus, or with those of a released folder."""
    torch.manual_seed(told.seed)
    model = Model(config)
    release.set_features(model)
    if told.init:
        model.load_state_dict(release.read_weights(Path(told.init)))
    else:
        sample = np.concatenate([part[:: max(1, len(part) // 2000)] for part in corpus.parts]).astype(np.float32)
        build(
            model,
            float(sample.mean()),
            float(sample.std()),
            corpus.batch(corpus.balanced(8)),
            corpus.label_counts(config.vocab_size),
        )
    return model


def checkpoint_of(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The run's checkpoint, None for a new run; raises ValueError for a run of another model or tokenizer."""
    pieces = folder / release.TOKENIZER
    if pieces.exists() and pieces.read_bytes() != tokenizer.to_bytes():
        raise ValueError(f"{pieces}: got another tokenizer, expected the settings'; a new run needs a new folder")
    path = folder / release.CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    before, now = ModelConfig.from_dict(state["model"]).to_dict(), config.to_dict()
    odd = [key for key in now if before[key] != now[key] and key not in ("name", "licence")]
    if odd:
        raise ValueError(f"{path}: got a model of other {', '.join(odd)}, expected the settings'; go on with the run's")
    return state


@torch.no_grad()
def transcripts(
    model: Model, dev: Corpus, chosen: list[int], tokenizer: Tokenizer, transducer: bool
) -> dict[str, list[str]]:
    """Greedy texts at the longest latency by head, beside the true text and the source of each utterance."""
    context = max(model.config.contexts, key=lambda c: c[1])
    out: dict[str, list[str]] = {"text": [], "source": [], "ctc": [], "rnnt": []}
    for start in range(0, len(chosen), 8):
        batch = dev.batch(chosen[start : start + 8])
        enc, frames = model.encoder.offline(batch.mel, batch.frames, context)
        out["text"] += batch.texts
        out["source"] += batch.sources
        out["ctc"] += ctc_texts(model.ctc(enc), frames, tokenizer)
        if transducer:
            state = DecoderState.start(model, len(frames))
            tokens, _ = decode_transducer(model, enc, frames, torch.zeros_like(frames), state)
            out["rnnt"] += [tokenizer.decode([token.id for token in row]) for row in tokens]
    return out


def learning_rate(stage: Stage, step: int, elapsed_s: float) -> float:
    """Linear warm-up over steps, times a half cosine over the stage's minutes."""
    done = min(1.0, elapsed_s / (60.0 * stage.minutes))
    cosine = stage.final_lr + (stage.peak_lr - stage.final_lr) * 0.5 * (1.0 + math.cos(math.pi * done))
    return cosine * min(1.0, (step + 1) / max(1, stage.warmup_steps))


class Trainer:
    """One worker of a run: claims batches and applies its own updates to the shared weights, waiting for nobody.

    Worker 0 also keeps the time, the log, the checkpoints and the validation.
    """

    def __init__(
        self, told: Settings, rank: int, shared: tuple[Model, Arena, Progress], others: Sequence[BaseProcess] = ()
    ) -> None:
        torch.set_num_threads(1)
        self.told, self.rank, self.others = told, rank, others
        self.model, self.arena, self.progress = shared
        self.tokenizer = Tokenizer.from_sentencepiece(Path(told.tokenizer).read_bytes())
        self.corpus = Corpus(Path(told.cache), told.train, self.tokenizer, told.max_s, self.model.config.mels)
        self.arena.attach(self.model, self.arena.weights, self.arena.gradients[rank])
        full_precision_subsampling(self.model)
        self.plans: dict[int, list[list[int]]] = {}

    def plan(self, epoch: int) -> list[list[int]]:
        if epoch not in self.plans:
            short = self.told.curriculum_s if epoch == 0 else math.inf
            self.plans = {epoch: self.corpus.plan(self.told.batch_s, self.told.seed, epoch, short)}
        return self.plans[epoch]

    def run(self) -> None:
        """The loop: batches until the last stage's minutes are over, or somebody asks to end."""
        self.model.train()
        last = saved = reported = time.monotonic()
        while (job := self.progress.claim(lambda epoch: len(self.plan(epoch)))) is not None:
            stage = self.told.stages[job.stage]
            norm = self.update(job, stage)
            if self.rank:
                continue
            now = time.monotonic()
            over = self.progress.pass_time(now - last)
            last = now
            if self.progress.get("losses") >= self.told.log_steps:
                self.report(job, stage, norm, now - reported)
                reported = now
                if lost(self.others):
                    return
            if over or now - saved > 60.0 * self.told.save_minutes:
                self.save()
                self.validate(stage)
                saved = time.monotonic()

    def update(self, job: Job, stage: Stage) -> float:
        """One batch: loss, gradient, and an update of the shared weights; returns the gradient's norm."""
        told, seed = self.told, (self.told.seed, job.epoch, job.batch)
        augment = told.augment if job.epoch else None
        batch = self.corpus.batch(self.plan(job.epoch)[job.batch], np.random.default_rng((*seed, 1)), augment)
        contexts = self.model.config.contexts
        weights = np.array(told.context_weights or (1.0,) * len(contexts))
        context = contexts[np.random.default_rng((*seed, 0)).choice(len(contexts), p=weights / weights.sum())]
        self.arena.gradients[self.rank].zero_()
        loss = loss_of(self.model, batch, context, stage, told.bf16, told.joint_cells)
        loss.backward()
        with self.progress.locked():
            lr = learning_rate(stage, int(self.progress.get("stage_step")), self.progress.get("elapsed_s"))
            number = int(self.progress.get("step")) + 1
            numbers = Step(lr, number, told.beta1, told.beta2, told.weight_decay, told.clip_norm, told.ema_decay)
            norm = self.arena.update(self.rank, numbers)
            self.progress.heard(batch.seconds, float(loss.detach()))
        return norm

    def report(self, job: Job, stage: Stage, norm: float, seconds: float) -> None:
        audio_s, loss = self.progress.take_report()
        elapsed_s, step = self.progress.get("elapsed_s"), int(self.progress.get("step"))
        lr = learning_rate(stage, int(self.progress.get("stage_step")), elapsed_s)
        self.log(
            f"{stage.name} {elapsed_s / 60:.1f} min, step {step}, epoch {job.epoch} ({job.batch}/"
            f"{len(self.plan(job.epoch))}): loss {loss:.3f}, norm {norm:.2f}, lr {lr:.2e}, "
            f"{audio_s / max(1e-9, seconds):.0f} s of audio a second"
        )

    def validate(self, stage: Stage) -> None:
        """Greedy CTC, and the transducer once it is trained, with the averaged weights at the longest latency."""
        began = time.monotonic()
        dev = Corpus(Path(self.told.cache), [self.told.dev], self.tokenizer, math.inf, self.model.config.mels)
        self.arena.attach(self.model, self.arena.ema)
        self.model.eval()
        heard = transcripts(
            self.model, dev, dev.balanced(self.told.dev_per_source), self.tokenizer, bool(stage.rnnt_weight)
        )
        self.arena.attach(self.model, self.arena.weights, self.arena.gradients[self.rank])
        self.model.train()
        for head in ("ctc", "rnnt"):
            if heard[head]:
                parts = wer_by_source(heard["text"], heard[head], heard["source"])
                listed = ", ".join(f"{source} {rate:.3f}" for source, rate in parts.items())
                example = len(heard["text"]) // 2
                self.log(f"dev WER {head} {wer(heard['text'], heard[head]):.3f} ({listed})")
                self.log(f"  {heard['text'][example]} -> {heard[head][example]}")
        self.log(f"validation took {time.monotonic() - began:.1f} s")

    def save(self) -> None:
        """Checkpoint, whole or not at all."""
        path = Path(self.told.run) / release.CHECKPOINT
        with self.progress.locked():
            state = {"arena": self.arena.state(), "progress": self.progress.state()}
        torch.save({**state, "model": self.model.config.to_dict()}, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    @staticmethod
    def log(text: str) -> None:
        print(time.strftime("%H:%M:%S"), text, flush=True)


def lost(others: Sequence[BaseProcess]) -> list[str]:
    """The workers that ended otherwise than by coming to the end."""
    return [f"worker {rank} ended with code {one.exitcode}" for rank, one in enumerate(others, 1) if one.exitcode]


def work(
    rank: int, told: Settings, shared: tuple[Model, Arena, Progress], others: Sequence[BaseProcess] = ()
) -> Trainer:
    """What a worker process does; SIGTERM and SIGINT make all of them end after their batch, and worker 0 save."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: shared[2].ask_to_end())
    trainer = Trainer(told, rank, shared, others)
    trainer.run()
    return trainer


def train(told: Settings) -> None:
    """Start or resume a run; refuses before it writes. Raises WorkerLost after it has saved what the others learnt."""
    folder = Path(told.run)
    tokenizer = Tokenizer.from_sentencepiece(Path(told.tokenizer).read_bytes())
    config = model_config(told, tokenizer)
    state = checkpoint_of(folder, config, tokenizer)
    corpus = Corpus(Path(told.cache), told.train, tokenizer, told.max_s, config.mels)
    folder.mkdir(parents=True, exist_ok=True)
    if not (pieces := folder / release.TOKENIZER).exists():
        pieces.with_suffix(".part").write_bytes(tokenizer.to_bytes())
        os.replace(pieces.with_suffix(".part"), pieces)
    hours, count = corpus.seconds / 3600, len(corpus.utterances)
    Trainer.log(f"{hours:.2f} h, {count} utterances, {corpus.skipped} left out")
    model = new_model(told, config, corpus)
    context = mp.get_context("spawn")
    arena, progress = Arena(model, told.workers), Progress(told, context)
    if state is not None:
        arena.restore(state["arena"])
        progress.restore(state["progress"])
    shared = (model, arena, progress)
    others = [context.Process(target=work, args=(rank, told, shared), daemon=True) for rank in range(1, told.workers)]
    for process in others:
        process.start()
    trainer = work(0, told, shared, others)
    if lost(others):
        progress.ask_to_end()
    for process in others:
        process.join()
    trainer.save()
    if dead := lost(others):
        raise WorkerLost(f"{', '.join(dead)}; the run is saved and goes on when it is started again")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train", description="start or resume a training run")
    parser.add_argument("--config", type=Path, required=True, help="yaml file, see models/training/default.yaml")
    args = parser.parse_args(argv)
    try:
        train(settings.load(args.config))
    except (ValueError, WorkerLost) as error:
        Trainer.log(f"train: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
