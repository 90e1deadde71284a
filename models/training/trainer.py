"""The training loop, top to bottom: `python -m models.training.trainer --config X.yaml` starts or resumes a run.

Three ways to be many, one loop: workers on one CPU share the weights and wait for nobody; processes that torchrun
started add up their gradients at every update; one process alone does all of it. Every draw is a function of seed,
epoch and place, so that a run which was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import multiprocessing as mp

from models.config import ModelConfig
from models.tokenizer import Tokenizer
from models.training import origin, sentences, settings, teacher
from models.training.arena import Arena, Step
from models.training.checkpoint import RunFolder
from models.training.data import Corpus
from models.training.journal import Journal
from models.training.objective import full_precision_subsampling, loss_of
from models.training.prepare import prepare
from models.training.progress import Job, Progress, WorkerLost
from models.training.ranks import Ranks
from models.training.settings import Settings, Stage
from models.training.validation import validate
from models.transducer import Model


def learning_rate(stage: Stage, step: int, done: float) -> float:
    """Linear warm-up over steps, times a half cosine over the stage, of which the share `done` is over."""
    cosine = stage.final_lr + (stage.peak_lr - stage.final_lr) * 0.5 * (1.0 + math.cos(math.pi * done))
    return cosine * min(1.0, (step + 1) / max(1, stage.warmup_steps))


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of one process group have in common."""

    model: Model
    arena: Arena
    progress: Progress
    tokenizer: Tokenizer


class Trainer:
    """One worker of a run: claims updates and makes them. The first also keeps time, log and checkpoints."""

    def __init__(
        self, told: Settings, worker: int, shared: Shared, ranks: Ranks, others: Sequence[BaseProcess] = ()
    ) -> None:
        self.told, self.worker, self.ranks, self.others = told, worker, ranks, others
        self.model, self.arena, self.progress = shared.model, shared.arena, shared.progress
        self.tokenizer = shared.tokenizer
        self.corpus = corpus_of(told, told.train, self.tokenizer, self.model.config, taught=True)
        self.sentences = sentences_of(told, self.tokenizer)
        self.folder = RunFolder(Path(told.run))
        self.journal = Journal(self.folder.path, told.tensorboard, silent=bool(worker) or not ranks.first)
        self.arena.attach(self.model, self.arena.weights, self.arena.gradients[worker])
        if ranks.device.type == "cpu":
            torch.set_num_threads(1)  # two of one process wait for each other at every operation on a busy machine
            full_precision_subsampling(self.model)
        self.plans: dict[int, list[list[list[int]]]] = {}

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """The updates of an epoch; each is some batches of utterances."""
        if epoch not in self.plans:
            short = self.told.curriculum_s if epoch == 0 else None
            limit = math.inf if short is None else short
            batches = self.corpus.plan(self.told.batch_s, self.told.seed, epoch, limit)
            size = self.told.accumulate
            self.plans = {epoch: [batches[at : at + size] for at in range(0, len(batches), size)]}
        return self.plans[epoch]

    def run(self) -> None:
        """The loop: updates until the last stage is over, or somebody asks to end."""
        self.learn()
        last = saved = reported = time.monotonic()
        at_stage = int(self.progress.get("stage"))
        while (job := self.progress.claim(lambda epoch: len(self.plan(epoch)))) is not None:
            stage = self.told.stages[job.stage]
            norm = self.update(job, stage)
            if self.worker:
                continue
            now = time.monotonic()
            self.agree(now - last)
            last = now
            over, at_stage = self.progress.get("stage") != at_stage, int(self.progress.get("stage"))
            if not self.ranks.first:
                continue
            self.show(stage)
            if self.progress.get("losses") >= self.told.log_steps:
                self.report(job, stage, norm, now - reported)
                reported = now
                if lost(self.others):
                    return
            if over or now - saved > 60.0 * self.told.save_minutes:
                self.folder.save(self.model, self.arena, self.progress)
                self.validate(stage)
                saved = time.monotonic()

    def learn(self) -> None:
        """Training mode; the running statistics of a batch norm stay those of the model that was loaded."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()

    def update(self, job: Job, stage: Stage) -> float:
        """Losses and gradients of this process's batches, and an update of the weights; the gradient's norm."""
        told, batches = self.told, self.plan(job.epoch)[job.batch]
        contexts = self.model.config.contexts
        weights = np.array(told.context_weights or (1.0,) * len(contexts))
        drawn = np.random.default_rng((told.seed, job.epoch, job.batch, 0))
        context = contexts[drawn.choice(len(contexts), p=weights / weights.sum())]
        labels = sum(len(self.corpus.utterances[index].ids) for batch in batches for index in batch)
        gradient = self.arena.gradients[self.worker].zero_()
        loss, audio_s = torch.zeros((), device=self.ranks.device), 0.0
        for place in range(self.ranks.rank, len(batches), self.ranks.world):
            one, seconds = self.loss(job, place, context, stage)
            one = one / labels
            one.backward()
            loss, audio_s = loss + one.detach(), audio_s + seconds
        told_s = self.ranks.add_up(torch.tensor([float(loss), audio_s], device=self.ranks.device)).tolist()
        self.ranks.add_up(gradient)
        with self.progress.locked():
            lr = learning_rate(stage, int(self.progress.get("stage_step")), self.progress.done(stage))
            number = int(self.progress.get("step")) + 1
            numbers = Step(lr, number, told.beta1, told.beta2, told.weight_decay, told.clip_norm, told.ema_decay)
            norm = self.arena.update(self.worker, numbers)
            self.progress.heard(told_s[1], told_s[0])
        return norm

    def loss(self, job: Job, place: int, context: tuple[int, int], stage: Stage) -> tuple[Tensor, float]:
        """The summed loss of one batch of an update, and its seconds of audio."""
        told, seed = self.told, (self.told.seed, job.epoch, job.batch, place + 1)
        undisturbed = job.epoch == 0 and told.curriculum_s is not None
        indices = self.plan(job.epoch)[job.batch][place]
        batch = self.corpus.batch(indices, np.random.default_rng(seed), None if undisturbed else told.augment)
        if told.dropout:
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
        moved = batch.to(self.ranks.device)
        loss = loss_of(self.model, moved, context, stage, told.bf16, told.joint_cells)
        if stage.sentence_weight and self.sentences is not None:  # for as many labels as the batch has
            drawn = self.sentences.draw(np.random.default_rng((*seed, 1)), sentences.DRAWN)
            read = sentences.loss(self.model, *(part.to(self.ranks.device) for part in drawn))
            loss = loss + stage.sentence_weight * int(batch.id_lengths.sum()) * read
        return loss, batch.seconds

    def agree(self, seconds: float) -> None:
        """Counts time, the first process's for all, and ends all when one is asked to end."""
        told = torch.tensor([seconds if self.ranks.first else 0.0, self.progress.get("asked")], dtype=torch.float64)
        passed, asked = self.ranks.add_up(told.to(self.ranks.device)).tolist()
        if asked:
            self.progress.ask_to_end()
        self.progress.pass_time(passed)

    def show(self, stage: Stage) -> None:
        """The bar at a terminal."""
        told = self.told
        done = (self.progress.get("stage") + self.progress.done(stage)) / len(told.stages)
        step = int(self.progress.get("step"))
        if told.max_steps is not None:
            done = max(done, step / max(1, told.max_steps))
        losses = self.progress.get("losses")
        recent = f"loss {self.progress.get('loss_sum') / losses:.3f}" if losses else ""
        self.journal.progress(done, f"{stage.name} step {step} {recent}")

    def report(self, job: Job, stage: Stage, norm: float, seconds: float) -> None:
        audio_s, loss = self.progress.take_report()
        step = int(self.progress.get("step"))
        at = f"{self.progress.get('elapsed_s') / 60:.1f} min" if self.progress.get("stage") == job.stage else "end"
        lr = learning_rate(stage, int(self.progress.get("stage_step")), self.progress.done(stage))
        speed = audio_s / max(1e-9, seconds)
        self.journal.line(
            f"{stage.name} {at}, step {step}, epoch {job.epoch} ({job.batch}/"
            f"{len(self.plan(job.epoch))}): loss {loss:.3f}, norm {norm:.2f}, lr {lr:.2e}, "
            f"{speed:.0f} s of audio a second"
        )
        numbers = {"loss": loss, "norm": norm, "lr": lr, "audio_s_per_s": speed}
        self.journal.numbers(step, {f"train/{name}": value for name, value in numbers.items()})

    def validate(self, stage: Stage) -> None:
        """Greedy texts of the dev set by the averaged weights: offline at the longest latency, and streamed."""
        began = time.monotonic()
        config = self.model.config
        dev = corpus_of(self.told, (self.told.dev,), self.tokenizer, config, math.inf)
        heads = (*(["ctc"] if config.ctc else []), *(["rnnt"] if stage.rnnt_weight else []))
        self.arena.attach(self.model, self.arena.ema)
        self.model.eval()
        chosen = dev.balanced(self.told.dev_per_source)
        heard = validate(self.model, dev, chosen, self.tokenizer, heads, self.told.dev_latency_ms)
        self.arena.attach(self.model, self.arena.weights, self.arena.gradients[self.worker])
        self.learn()
        for one in heard:
            for line in one.lines():
                self.journal.line(line)
            self.journal.numbers(int(self.progress.get("step")), {f"dev/wer {one.way}": one.wer})
        self.journal.line(f"validation took {time.monotonic() - began:.1f} s")


def corpus_of(
    told: Settings,
    names: Sequence[str],
    tokenizer: Tokenizer,
    config: ModelConfig,
    max_s: float | None = None,
    taught: bool = False,
) -> Corpus:
    """Cached manifests as the settings want their texts, their lengths and, if `taught`, their teacher."""
    longest = told.max_s if max_s is None else max_s
    guide = teacher.Teacher(Path(told.teacher), names, told.teacher_delay) if told.teacher and taught else None
    return Corpus(Path(told.cache), names, tokenizer, config, longest, told.text == "plain", guide)


def sentences_of(told: Settings, tokenizer: Tokenizer) -> sentences.Sentences | None:
    """Sentences of the settings, for runs that have any."""
    return sentences.Sentences(told.sentences, tokenizer, told.text == "plain") if told.sentences else None


def lost(others: Sequence[BaseProcess]) -> list[str]:
    """The workers that ended otherwise than by coming to the end."""
    return [f"worker {rank} ended with code {one.exitcode}" for rank, one in enumerate(others, 1) if one.exitcode]


def work(worker: int, told: Settings, shared: Shared, ranks: Ranks, others: Sequence[BaseProcess] = ()) -> Trainer:
    """What a worker process does; SIGTERM and SIGINT make all of them end after their batch, and the first save."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: shared.progress.ask_to_end())
    trainer = Trainer(told, worker, shared, ranks, others)
    try:
        trainer.run()
    finally:
        trainer.journal.close()
    return trainer


def train(told: Settings) -> None:
    """Start or resume a run; refuses before it writes. Raises WorkerLost after it has saved what the others learnt."""
    ranks = Ranks.join(told.device)
    try:
        _check_processes(told, ranks)
        _train(told, ranks)
    finally:
        ranks.leave()


def _check_processes(told: Settings, ranks: Ranks) -> None:
    if told.workers > 1 and (ranks.world > 1 or ranks.device.type != "cpu"):
        raise ValueError(f"settings.workers: got {told.workers}, expected 1 under torchrun or on a GPU")
    if told.accumulate % ranks.world:
        raise ValueError(f"settings.accumulate: got {told.accumulate}, expected a multiple of {ranks.world} processes")


def _train(told: Settings, ranks: Ranks) -> None:
    start = origin.read(told)
    folder, config, tokenizer = RunFolder(Path(told.run)), start.config, start.tokenizer
    state = folder.state(config, tokenizer)
    prepared = prepare(told, tokenizer, config.mels, ranks.first)
    ranks.wait()  # for features
    corpus = corpus_of(prepared, prepared.train, tokenizer, config, taught=True)
    sentences_of(told, tokenizer)
    if ranks.first:
        folder.begin(tokenizer)
    journal = Journal(folder.path, silent=not ranks.first)
    hours, count = corpus.seconds / 3600, len(corpus.utterances)
    journal.line(f"{hours:.2f} h, {count} utterances, {corpus.skipped} left out")
    model = origin.new_model(told, start, corpus, journal.line)
    if corpus.teacher is not None:
        teacher.add_head(model, corpus.teacher.dims)
    journal.close()
    context = mp.get_context("spawn")
    if ranks.device.type == "cuda":
        torch.set_default_device(ranks.device)  # states of encoder and search begin where the model is
        model.to(ranks.device)
    shared = Shared(model, Arena(model, told.workers), Progress(told, context), tokenizer)
    if state is not None:
        shared.arena.restore(state["arena"])
        shared.progress.restore(state["progress"])
    _work_together(prepared, shared, ranks, context, folder)


def _work_together(told: Settings, shared: Shared, ranks: Ranks, context: Any, folder: RunFolder) -> None:
    """All workers to the end of the run, the first one here; then the last checkpoint."""
    progress = shared.progress
    others = [
        context.Process(target=work, args=(worker, told, shared, ranks), daemon=True)
        for worker in range(1, told.workers)
    ]
    for process in others:
        process.start()
    work(0, told, shared, ranks, others)
    if lost(others):
        progress.ask_to_end()
    for process in others:
        process.join()
    if ranks.first:
        folder.save(shared.model, shared.arena, progress)
    if dead := lost(others):
        raise WorkerLost(f"{', '.join(dead)}; the run is saved and goes on when it is started again")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train", description="start or resume a training run")
    parser.add_argument("--config", type=Path, required=True, help="yaml file, such as models/training/tune.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes a value of the file")
    args = parser.parse_args(argv)
    try:
        train(settings.load(args.config, args.overrides))
    except (ValueError, WorkerLost) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
