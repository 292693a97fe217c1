#!/usr/bin/env bash
# The evidence of docs/evidence.md: UNITER with hard negatives against both forms of IAIS, three seeds each, on drawn scenes.
# Nine runs of demonstration size; what is finished already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
export SCENES=.demo/scenes
python=.venv/bin/python

$python scripts/make_scenes.py --output "$SCENES"
if [ ! -d .demo/boxes ]; then
    $python scripts/build_imgdb.py jpeg "$SCENES/pictures" --captions "$SCENES/captions.jsonl" --split test \
        --annotated_boxes --keep_all --whitener "$SCENES"/img_db/train/*/whitener.npz --output .demo/boxes.new
    mv .demo/boxes.new .demo/boxes
fi
$python scripts/ablate.py --configs config/demo-uniter.json config/demo-iais-{singular,distributed}.json \
    --seeds 1 2 3 --ranks 2 --output_dir .demo/ablation --evaluate "--isda --test_img_db .demo/boxes" \
    --report txt_r1 txt_r10 img_r1 img_r10 rsum isda-test/mean
