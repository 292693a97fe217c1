#!/usr/bin/env bash
# The evidence for AOQ (docs/evidence.md): VSRN and BFAN with the losses of its ablation, three seeds each, on drawn scenes.
# Candidates are mined once, with the VSRN of the first seed. 24 runs of demonstration size; what is finished is kept.
#
#   FLAGS="--train_txt_dbs ... --img_dim 32 --vocab_size 1200" scripts/evidence-aoq.sh FOLDER      for other stores
set -euo pipefail
cd "$(dirname "$0")/.."
export SCENES=${SCENES:-.demo/scenes}
python=.venv/bin/python
folder=${1:-.demo/aoq-ablation}
flags=${FLAGS:-}
read -ra words <<<"$flags"

$python scripts/make_scenes.py --output "$SCENES"
export OMP_NUM_THREADS=1
$python train/itm.py --config config/demo-vsrn.json --seed 1 --output_dir "$folder/mined" "${words[@]}"
$python train/mine.py --config "$folder/mined/config.json"
quintuplet="--objective quintuplet --hardest_from 0.5 --offline $folder/mined/offline --offline_range 50"
$python scripts/ablate.py --configs config/demo-vsrn.json config/demo-bfan-equal.json --seeds 1 2 3 --jobs 2 \
    --vary triplet "OffTri: $quintuplet --pairs false --adaptive false" "OffQuin: $quintuplet --adaptive false" \
    "AOQ: $quintuplet" --flags "$flags" --output_dir "$folder" --report txt_r1 img_r1 rsum
