"""The training loop, top to bottom: `python -m models.training.trainer --config X.yaml` starts or resumes a run."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import multiprocessing as mp

from models.config import ModelConfig
from models.decoding import DecoderState, decode_transducer
from models.tokenizer import Tokenizer
from models.training import release, settings
from models.training.arena import Arena, Step
from models.training.data import Batch, Corpus
from models.training.objective import build, full_precision_subsampling, loss_of
from models.training.settings import Settings, Stage
from models.training.wer import ctc_texts, wer, wer_by_source
from models.transducer import Model

PLACES = ("stage", "epoch", "group", "step", "elapsed_s", "stage_step", "ending", "asked")  # what the workers share
ELAPSED, ENDING, ASKED = PLACES.index("elapsed_s"), PLACES.index("ending"), PLACES.index("asked")


def model_config(told: Settings, tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig.from_dict({**told.model, "vocab_size": len(tokenizer), "labels": list(tokenizer.pieces)})


def new_model(told: Settings, tokenizer: Tokenizer, corpus: Corpus) -> Model:
    """A model with initial weights for this corpus, or with those of a released folder."""
    torch.manual_seed(told.seed)
    model = Model(model_config(told, tokenizer))
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
            corpus.label_counts(len(tokenizer)),
        )
    return model


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
    """One worker of a run. Worker 0 also keeps the clock, the log, the checkpoints and the validation."""

    def __init__(self, told: Settings, rank: int, shared: tuple[Model, Arena, Tensor, Any]) -> None:
        torch.set_num_threads(1)
        self.told, self.rank = told, rank
        self.model, self.arena, self.clock, self.barrier = shared
        self.tokenizer = Tokenizer.from_sentencepiece(Path(told.tokenizer).read_bytes())
        self.corpus = Corpus(Path(told.cache), told.train, self.tokenizer, told.max_s, self.model.config.mels)
        self.arena.attach(self.model, self.arena.weights, self.arena.gradients[rank])
        full_precision_subsampling(self.model)
        self.plan: list[list[int]] = []
        self.leaving = False

    def place(self, name: str) -> int:
        return int(self.clock[PLACES.index(name)])

    def move(self, name: str, value: float) -> None:
        self.clock[PLACES.index(name)] = value

    def run(self) -> None:
        if self.rank == 0:
            corpus = self.corpus
            self.log(f"{corpus.seconds / 3600:.2f} h, {len(corpus.utterances)} utterances, {corpus.skipped} left out")
        while (number := self.place("stage")) < len(self.told.stages) and not self.leaving:
            self.run_stage(self.told.stages[number])
        if self.rank == 0:
            self.save()

    def run_stage(self, stage: Stage) -> None:
        """Groups of batches, one batch a worker, until the stage's minutes are over."""
        self.model.train()
        since = saved = time.monotonic()
        seconds, losses = 0.0, []
        self.make_plan()
        while True:
            self.barrier.wait()
            self.leaving = bool(self.place("ending"))
            if self.leaving or self.place("stage") != self.told.stages.index(stage):
                return
            batch, loss, norm = self.step(stage)
            seconds, losses = seconds + batch.seconds, [*losses, loss]
            self.barrier.wait()
            if self.rank == 0:
                now = time.monotonic()
                self.advance(stage, now - since)
                since = now
                if self.place("step") % self.told.log_steps == 0:
                    self.report(stage, losses, norm, seconds)
                    seconds, losses = 0.0, []
                    self.since_report = now
                if now - saved > 60.0 * self.told.save_minutes or self.place("stage") != self.told.stages.index(stage):
                    self.save()
                    self.validate(stage)
                    saved = since = self.since_report = time.monotonic()
            self.barrier.wait()
            if self.place("group") == 0:
                self.make_plan()

    since_report = 0.0

    def make_plan(self) -> None:
        short = self.told.curriculum_s if self.place("epoch") == 0 else math.inf
        self.plan = self.corpus.plan(self.told.batch_s, self.told.seed, self.place("epoch"), self.told.workers, short)
        if not self.since_report:
            self.since_report = time.monotonic()

    def step(self, stage: Stage) -> tuple[Batch, float, float]:
        """One update with this worker's batch of the group."""
        told, group = self.told, self.place("group")
        seed = (told.seed, self.place("epoch"), group)
        rng = np.random.default_rng((*seed, 1 + self.rank))
        augment = told.augment if self.place("epoch") else None
        batch = self.corpus.batch(self.plan[group * told.workers + self.rank], rng, augment)
        contexts = self.model.config.contexts
        weights = np.array(told.context_weights or (1.0,) * len(contexts))
        context = contexts[np.random.default_rng((*seed, 0)).choice(len(contexts), p=weights / weights.sum())]
        self.arena.gradients[self.rank].zero_()
        loss = loss_of(self.model, batch, context, stage, told.bf16, told.joint_cells)
        loss.backward()
        self.barrier.wait()
        gradient = self.arena.gather(self.rank)
        self.barrier.wait()
        number = self.place("step") + 1
        lr = learning_rate(stage, self.place("stage_step"), float(self.clock[ELAPSED]))
        update = Step(lr, number, told.beta1, told.beta2, told.weight_decay, told.clip_norm, told.ema_decay)
        return batch, float(loss.detach()), self.arena.update(self.rank, gradient, update)

    def advance(self, stage: Stage, seconds: float) -> None:
        """Moves the shared places on by one group that took so many seconds."""
        self.move("elapsed_s", float(self.clock[ELAPSED]) + seconds)
        for name in ("step", "stage_step", "group"):
            self.move(name, self.place(name) + 1)
        enough = self.told.max_steps is not None and self.place("step") >= self.told.max_steps
        self.move("ending", enough or self.place("asked"))
        if self.place("group") >= len(self.plan) // self.told.workers:
            self.move("group", 0)
            self.move("epoch", self.place("epoch") + 1)
        if self.clock[ELAPSED] >= 60.0 * stage.minutes:
            self.move("stage", self.place("stage") + 1)
            self.move("elapsed_s", 0)
            self.move("stage_step", 0)

    def report(self, stage: Stage, losses: list[float], norm: float, seconds: float) -> None:
        rate = seconds * self.told.workers / max(1e-9, time.monotonic() - self.since_report)
        lr = learning_rate(stage, self.place("stage_step"), float(self.clock[ELAPSED]))
        self.log(
            f"{stage.name} {self.clock[ELAPSED] / 60:.1f} min, step {self.place('step')}, epoch {self.place('epoch')} "
            f"({self.place('group')}/{len(self.plan) // self.told.workers}): loss {np.mean(losses):.3f}, "
            f"norm {norm:.2f}, lr {lr:.2e}, {rate:.0f} s of audio a second"
        )

    def validate(self, stage: Stage) -> None:
        """Greedy CTC, and the transducer once it is trained, with the averaged weights at the longest latency."""
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

    def save(self) -> None:
        """Checkpoint, whole or not at all."""
        path = Path(self.told.run) / release.CHECKPOINT
        state = {"arena": self.arena.state(), "clock": self.clock.clone(), "model": self.model.config.to_dict()}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    @staticmethod
    def log(text: str) -> None:
        print(time.strftime("%H:%M:%S"), text, flush=True)


def work(rank: int, told: Settings, shared: tuple[Model, Arena, Tensor, Any]) -> None:
    """A worker process; SIGTERM and SIGINT let worker 0 save and all of them end."""
    clock = shared[2]
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: clock[ASKED:].fill_(1.0))
    Trainer(told, rank, shared).run()


def train(told: Settings) -> None:
    folder = Path(told.run)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_sentencepiece(Path(told.tokenizer).read_bytes())
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    corpus = Corpus(Path(told.cache), told.train, tokenizer, told.max_s)
    model = new_model(told, tokenizer, corpus)
    arena = Arena(model, told.workers)
    clock = torch.zeros(len(PLACES), dtype=torch.float64).share_memory_()
    if (folder / release.CHECKPOINT).exists():
        state = torch.load(folder / release.CHECKPOINT, weights_only=True)
        arena.restore(state["arena"])
        clock.copy_(state["clock"])
        clock[ENDING:] = 0
    context = mp.get_context("spawn")
    shared = (model, arena, clock, context.Barrier(told.workers, timeout=600))
    others = [context.Process(target=work, args=(rank, told, shared), daemon=True) for rank in range(1, told.workers)]
    for process in others:
        process.start()
    work(0, told, shared)
    for process in others:
        process.join()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train", description="start or resume a training run")
    parser.add_argument("--config", type=Path, required=True, help="yaml file, see models/training/default.yaml")
    train(settings.load(parser.parse_args(argv).config))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
