#!/usr/bin/env bash
# The evidence for LAPS (docs/evidence.md): the same towers compared by pooled vectors, by all patches, and by the patches that
# matter, three seeds each, on the pictures of drawn scenes. Nine runs of demonstration size; what is finished is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
export SCENES=${SCENES:-.demo/scenes}
python=.venv/bin/python
folder=${1:-.demo/laps-ablation}

$python scripts/make_scenes.py --output "$SCENES"
export OMP_NUM_THREADS=1
$python scripts/ablate.py --configs config/demo-laps.json --seeds 1 2 3 --jobs 2 \
    --vary "pooled: --alignment pooled" "all-patches: --alignment max_mean" "LAPS" \
    --output_dir "$folder" --report txt_r1 txt_r10 img_r1 img_r10 rsum train_s
