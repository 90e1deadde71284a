"""Models with random weights for both sides of `streamer bench peers`: SIZE.nemo, and what sherpa-onnx wants of it.

Runs under a Python that has NeMo (docs/benchmarks/cpu.md), knows nothing of ours. How fast a model is does not depend
on its weights, but for the tokens that come out: so the joint is made to speak as often as people do, at every latency.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nemo
import nemo.collections.asr as nemo_asr
import onnx
import sentencepiece
import soundfile
import torch
from omegaconf import OmegaConf
from onnxruntime.quantization import QuantType, quantize_dynamic

SIZES = {"small": (16, 176, 4, 320), "large": (17, 512, 8, 640)}  # layers, width, heads, predictor and joint
LEFT, RIGHTS = 70, (0, 1, 6, 13)  # frames of 80 ms
VOCABULARY = 1024
TOKENS_A_SECOND = 3.0
LOUD_LOGITS = 4.6  # their spread: of as many words as there are, some stand out in each frame
PREDICTED = 0.5  # how much the predictor sways the joint: by more, some labels say nothing ever after
TURNS = 2  # the recording is heard twice over, from so many places on
MOST_BIAS, HALVINGS, SEEDS = 40.0, 7, 3
FRAME_S = 0.08
EXTERNAL_BYTES = 1.8e9  # a protobuf ends at 2 GiB
PARTS = {"encoder": "encoder", "decoder": "decoder", "joint": "joiner"}  # NeMo's name and sherpa-onnx's


def tokenizer(folder: Path) -> Path:
    """A folder as NeMo wants it; any English serves, and NeMo's own comments are at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.model").exists():
        text = folder / "text.txt"
        files = sorted(Path(nemo.__file__).parent.rglob("*.py"))[:400]
        lines = (line.strip().lower() for file in files for line in file.read_text("utf-8", "ignore").splitlines())
        text.write_text("\n".join(line for line in lines if line.startswith(("#", '"'))), "utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY, model_type="bpe",
            character_coverage=1.0, bos_id=-1, eos_id=-1, minloglevel=2,
        )  # fmt: skip
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        names = [pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size())]
        bert = [name[1:] or name if name.startswith("▁") else f"##{name}" for name in names]
        (folder / "vocab.txt").write_text("\n".join(bert), "utf-8")
    return folder


def config(size: str, tokens: Path) -> Any:
    """As the published cache-aware FastConformer hybrids are."""
    layers, width, heads, hidden = SIZES[size]
    features = {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", "sample_rate": 16000,
        "normalize": "NA", "window_size": 0.025, "window_stride": 0.01, "window": "hann", "features": 80, "n_fft": 512,
        "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
    }  # fmt: skip
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder", "feat_in": 80, "feat_out": -1, "n_layers": layers,
        "d_model": width, "use_bias": True, "subsampling": "dw_striding", "subsampling_factor": 8,
        "subsampling_conv_channels": 256, "causal_downsampling": True, "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos", "n_heads": heads, "att_context_size": [[LEFT, right] for right in RIGHTS],
        "att_context_style": "chunked_limited", "xscaling": True, "untie_biases": True, "pos_emb_max_len": 5000,
        "conv_kernel_size": 9, "conv_norm_type": "layer_norm", "conv_context_size": "causal", "dropout": 0.1,
        "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1, "stochastic_depth_drop_prob": 0.0,
    }  # fmt: skip
    augment = {
        "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0,
        "freq_width": 27, "time_width": 0.05,
    }  # fmt: skip
    decoder = {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder", "normalization_mode": None,
        "random_state_sampling": False, "blank_as_pad": True,
        "prednet": {"pred_hidden": hidden, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
    }  # fmt: skip
    joint = {
        "_target_": "nemo.collections.asr.modules.RNNTJoint", "log_softmax": None, "preserve_memory": False,
        "fuse_loss_wer": False, "fused_batch_size": -1,
        "jointnet": {"joint_hidden": hidden, "activation": "relu", "dropout": 0.2},
    }  # fmt: skip
    ctc = {
        "ctc_loss_weight": 0.3, "use_cer": False, "ctc_reduction": "mean_batch", "decoding": {"strategy": "greedy"},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": None, "num_classes": -1,
            "vocabulary": [],
        },
    }  # fmt: skip
    beam = {"beam_size": 2, "return_best_hypothesis": False, "score_norm": True}
    return OmegaConf.create({
        "sample_rate": 16000, "log_prediction": False, "train_ds": None, "validation_ds": None, "test_ds": None,
        "model_defaults": {"enc_hidden": width, "pred_hidden": hidden, "joint_hidden": hidden},
        "tokenizer": {"dir": str(tokens), "type": "bpe"}, "preprocessor": features, "spec_augment": augment,
        "encoder": encoder, "decoder": decoder, "joint": joint, "aux_ctc": ctc,
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}, "beam": beam},
        "interctc": {"loss_weights": [], "apply_at_layers": []},
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.005, "clamp": -1.0}},
        "optim": {"name": "adamw", "lr": 1e-3},
    })  # fmt: skip


def frames(model: Any, audio: torch.Tensor) -> list[torch.Tensor]:
    """The encoder's frames of the audio (recordings, samples) at each latency: (recordings, width, frames).

    Without those near the ends, which see less than the others and look like nothing else.
    """
    found = []
    for right in RIGHTS:
        model.encoder.set_default_att_context_size([LEFT, right])
        encoded, _ = model(input_signal=audio, input_signal_length=torch.full(audio.shape[:1], audio.shape[1]))
        found.append(encoded[:, :, LEFT : -1 - max(RIGHTS)].contiguous())
    return found


def alike(groups: list[torch.Tensor]) -> torch.Tensor:
    """A square matrix that takes out of each group of rows what its mean has of its own.

    How far frames see moves the frames of random weights as much as what they hear does: the words would come at one
    latency alone.
    """
    means = torch.stack([rows.mean(0) for rows in groups])
    apart, _ = torch.linalg.qr((means - means.mean(0))[1:].T)
    kept: torch.Tensor = torch.eye(len(apart)) - apart @ apart.T
    return kept


def spread(projection: torch.nn.Linear, inputs: torch.Tensor, much: float = 1.0) -> None:
    """Make what this layer gives for the inputs (rows) vary about zero by so much.

    The frames of an untrained encoder are nearly the same vector: what they differ by is what there is to hear.
    """
    outputs = projection(inputs)
    factor = much / (outputs - outputs.mean(0)).std()
    projection.weight.mul_(factor)
    projection.bias.copy_(-projection.weight @ inputs.mean(0))


def make_it_speak(model: Any, audio: torch.Tensor, blank_bias: float | None) -> list[float]:
    """Set the joint; tokens a second at each latency."""
    heard, joint = frames(model, audio), model.joint
    groups = [encoded.transpose(1, 2).flatten(0, 1) for encoded in heard]
    joint.enc.weight.copy_(joint.enc.weight @ alike(groups))
    spread(joint.enc, torch.cat(groups))
    labels = torch.arange(VOCABULARY)[:, None]
    predicted, _ = model.decoder.predict(labels, None, add_sos=False, batch_size=VOCABULARY)
    spread(joint.pred, predicted[:, 0], PREDICTED)
    tried = [(uneven(draw(model, seed, heard, blank_bias)), seed) for seed in range(SEEDS)]
    return draw(model, min(tried)[1], heard, blank_bias)


def draw(model: Any, seed: int, heard: list[torch.Tensor], blank_bias: float | None) -> list[float]:
    """Draw the joint's last layer, and find its blank's bias; tokens a second at each latency."""
    torch.manual_seed(seed)
    out = model.joint.joint_net[-1]
    out.weight.copy_(torch.randn_like(out.weight) * LOUD_LOGITS / math.sqrt(out.in_features))
    out.bias.zero_()
    decode, found = model.decoding.rnnt_decoder_predictions_tensor, list[float]()
    low, high = (0.0, MOST_BIAS) if blank_bias is None else (blank_bias, blank_bias)
    for _ in range(HALVINGS if low < high else 1):
        out.bias[-1] = (low + high) / 2
        found.clear()
        for encoded in heard:
            said = decode(encoded, torch.full(encoded.shape[:1], encoded.shape[2]), return_hypotheses=True)
            found.append(sum(len(one.y_sequence) for one in said) / (FRAME_S * encoded.shape[0] * encoded.shape[2]))
        if sum(found) / len(found) > TOKENS_A_SECOND:
            low = float(out.bias[-1])
        else:
            high = float(out.bias[-1])
    return found


def uneven(said: list[float]) -> float:
    """How far the worst of these rates is from what was wanted; 0 is right on."""
    return max(abs(math.log(max(rate, 0.01) / TOKENS_A_SECOND)) for rate in said)


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    """NeMo writes beside where it runs."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def export(model: Any, right: int) -> None:
    """Write encoder, decoder and joiner, fp32 and int8, and tokens.txt into the present folder."""
    model.encoder.set_default_att_context_size([LEFT, right])
    model.set_export_config({"decoder_type": "rnnt", "cache_support": True})
    for part, name in PARTS.items():
        getattr(model, part).export(f"{name}.onnx")
    pieces = [*model.joint.vocabulary, "<blk>"]
    Path("tokens.txt").write_text("".join(f"{piece} {number}\n" for number, piece in enumerate(pieces)), "utf-8")
    encoder = onnx.load("encoder.onnx")
    for key, value in about(model).items():
        entry = encoder.metadata_props.add()
        entry.key, entry.value = key, str(value)
    big = encoder.ByteSize() > EXTERNAL_BYTES
    onnx.save(encoder, "encoder.onnx", save_as_external_data=big, location="encoder.weights")
    for name in PARTS.values():
        quantize_dynamic(f"{name}.onnx", f"{name}.int8.onnx", weight_type=QuantType.QUInt8)


def about(model: Any) -> dict[str, object]:
    """What sherpa-onnx reads in the encoder's metadata."""
    encoder, decoder, cut = model.encoder, model.decoder, model.encoder.streaming_cfg
    shift, before = (
        value[1] if isinstance(value, list) else value for value in (cut.chunk_size, cut.pre_encode_cache_size)
    )
    layers, width = len(encoder.layers), encoder.d_model
    return {
        "vocab_size": decoder.vocab_size, "window_size": shift + before, "chunk_shift": shift, "normalize_type": "",
        "cache_last_channel_dim1": layers, "cache_last_channel_dim2": cut.last_channel_cache_size,
        "cache_last_channel_dim3": width, "cache_last_time_dim1": layers, "cache_last_time_dim2": width,
        "cache_last_time_dim3": encoder.conv_context_size[0], "pred_rnn_layers": decoder.pred_rnn_layers,
        "pred_hidden": decoder.pred_hidden, "subsampling_factor": 8, "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": "1", "model_author": "random weights",
    }  # fmt: skip


@torch.no_grad()
def main() -> None:
    """Make the sizes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--audio", type=Path, required=True, help="some seconds of speech, 16 kHz, that it shall speak to"
    )
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--blank-bias", type=float, help=f"default: what gives {TOKENS_A_SECOND:g} tokens a second")
    parser.add_argument("--out", type=Path, default=Path("peers"))
    args = parser.parse_args()
    pcm, rate = soundfile.read(args.audio, dtype="float32")
    if rate != 16000 or pcm.ndim != 1:
        parser.error(f"{args.audio}: got {rate} Hz and {pcm.ndim} dimensions, expected 16000 Hz mono")
    out = args.out.resolve()
    audio = torch.stack([torch.from_numpy(pcm).repeat(2).roll(-turn * len(pcm) // TURNS) for turn in range(TURNS)])
    tokens = tokenizer(out / f"tokenizer{VOCABULARY}")
    for size in args.sizes:
        torch.manual_seed(0)
        model = nemo_asr.models.EncDecHybridRNNTCTCBPEModel(cfg=config(size, tokens)).eval()
        model.preprocessor.featurizer.dither = 0.0
        said = make_it_speak(model, audio, args.blank_bias)
        print(
            f"{size}: {sum(x.numel() for x in model.parameters()):,} parameters; tokens a second at each latency:",
            *said,
        )
        assert all(map(math.isfinite, said))
        model.save_to(str(out / f"{size}.nemo"))
        for right in RIGHTS:
            with within(out / f"{size}-{80 * (right + 1)}ms"):
                export(model, right)
                print(Path.cwd(), *(f"{file.name} {file.stat().st_size:,}" for file in sorted(Path.cwd().iterdir())))


if __name__ == "__main__":
    main()
