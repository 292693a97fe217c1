#!/usr/bin/env bash
# AOQ (Chen et al., ECCV 2020) on drawn scenes, from nothing to the recalls of the ensembles: VSRN learns from the
# negatives of its batches, the hardest of the whole set are mined with it, and VSRN and BFAN learn anew from both.
#
#   scripts/recipes/aoq.sh [FOLDER]        default: .demo/aoq
#
#   NP      ranks of each program, by horovodrun (default: 1, which is faster for models of this size on one machine);
#           updates are of 32 items all the same
#   SCENES  the drawn scenes (default: .demo/scenes); made where they are not there
#   FLAGS   further flags of every training, such as "--num_train_steps 20"
#
# The same command again goes on where this one was stopped. With stores and configs of your own put in the place of
# SCENES and config/demo-*.json it is the published experiment: config/vsrn-f30k.json, config/aoq-bfan-equal-f30k.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.demo/aoq}
bin=${BIN:-.venv/bin}
export SCENES=${SCENES:-.demo/scenes} OFFLINE=$folder/vsrn/offline
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # several would wait for each other: the models are small

ranks=${NP:-1}
start=("$bin/python")
[ "$ranks" = 1 ] || start=("$bin/horovodrun" -np "$ranks" "$bin/python")
read -ra flags <<<"${FLAGS:-} --train_batch_size $((32 / ranks))"

say() { printf '\n== %s\n' "$1"; }
train() {  # train RUN CONFIG SEED
    say "$1: train/itm.py --config config/$2.json --seed $3"
    "${start[@]}" train/itm.py --config "config/$2.json" --seed "$3" --output_dir "$folder/$1" "${flags[@]}"
}
both() {  # both RUN CONFIG SEED RUN CONFIG SEED: side by side where each run is one process, else one after the other
    if [ "$ranks" = 1 ]; then
        train "${@:1:3}" &
        local other=$!
        train "${@:4:3}"
        wait "$other"
    else
        train "${@:1:3}"
        train "${@:4:3}"
    fi
}
ensemble() {  # ensemble NAME RUN RUN
    say "$1: the mean of what $2 and $3 give a pair"
    "$bin/python" train/evaluate.py --config "$folder/$2/config.json" --output_dir "$folder/$1" \
        --scores "$folder/$2" "$folder/$3"
}

[ -d "$SCENES" ] || "$bin/python" scripts/make_scenes.py --output "$SCENES"

train vsrn demo-vsrn 1
say "mining: the hardest texts of each image and images of each text, over all training pairs"
"${start[@]}" train/mine.py --config "$folder/vsrn/config.json"

both aoq-vsrn demo-aoq-vsrn 1 aoq-vsrn-2 demo-aoq-vsrn 2
both aoq-bfan-equal demo-aoq-bfan-equal 1 aoq-bfan-prob demo-aoq-bfan-prob 1

ensemble ensemble-vsrn aoq-vsrn aoq-vsrn-2
ensemble ensemble-bfan aoq-bfan-equal aoq-bfan-prob

say "all of them"
"$bin/python" scripts/compare_runs.py "$folder"/{vsrn,aoq-vsrn,aoq-vsrn-2,aoq-bfan-equal,aoq-bfan-prob}
