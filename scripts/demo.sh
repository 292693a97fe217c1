#!/usr/bin/env bash
# From nothing to a recall table: draw scenes, pack stores, train on two ranks, evaluate, write the report.
# What is there already is kept; `make clean` starts afresh.
set -euo pipefail
cd "$(dirname "$0")/.."
export SCENES=.demo/scenes
python=.venv/bin/python
ranks=".venv/bin/horovodrun -np 2 $python"

say() { printf '\n== %s\n' "$1"; }

say "scenes and stores: $SCENES"
$python scripts/make_scenes.py --output "$SCENES"
$python scripts/check_db.py --txt_db "$SCENES/txt_db/itm_scenes_test.db" --img_db "$SCENES/img_db/test" \
    --max_bb 10 --min_bb 2

say "training: horovodrun -np 2 python train/itm_hn.py --config config/demo-uniter.json"
$ranks train/itm_hn.py --config config/demo-uniter.json --output_dir .demo/run

say "evaluation of the best checkpoint on 500 unseen scenes (chance: R@1 0.2)"
$ranks train/evaluate.py --config .demo/run/config.json

say "report"
$python scripts/report.py .demo/run --pictures "$SCENES/pictures" --captions "$SCENES/captions.jsonl"
