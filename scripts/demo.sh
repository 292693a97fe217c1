#!/usr/bin/env bash
# From nothing to a recall table: draw scenes, pack stores, train on two ranks, evaluate, write the report.
# What is there already is kept; `make clean` starts afresh.
#
#   scripts/demo.sh [FOLDER]        default: .demo
#
#   COUNTS  flags of make_scenes.py, such as "--train 60"
#   FLAGS   flags of the training, such as "--num_train_steps 20"
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.demo}
bin=${BIN:-.venv/bin}
export SCENES=$folder/scenes
ranks=("$bin/horovodrun" -np 2 "$bin/python")
read -ra counts <<<"${COUNTS:-}"
read -ra flags <<<"${FLAGS:-}"

say() { printf '\n== %s\n' "$1"; }

say "scenes and stores: $SCENES"
"$bin/python" scripts/make_scenes.py --output "$SCENES" "${counts[@]}"
"$bin/python" scripts/check_db.py --txt_db "$SCENES/txt_db/itm_scenes_test.db" --img_db "$SCENES/img_db/test" \
    --max_bb 10 --min_bb 2

say "training: horovodrun -np 2 python train/itm_hn.py --config config/demo-uniter.json"
"${ranks[@]}" train/itm_hn.py --config config/demo-uniter.json --output_dir "$folder/run" "${flags[@]}"

say "evaluation of the best checkpoint on unseen scenes (by default 500, chance: R@1 0.2)"
"${ranks[@]}" train/evaluate.py --config "$folder/run/config.json"

say "report"
"$bin/python" scripts/report.py "$folder/run" --pictures "$SCENES/pictures" --captions "$SCENES/captions.jsonl"
