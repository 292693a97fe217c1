"""Train with hard negatives from anchored pools: score a pool without gradient, keep the hardest, train on them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config.command.settings_read import training_on_pools
from train.entry import leave, main
from train.loop.pool_regime import PoolRegime
from train.loop.training import Training

if __name__ == "__main__":
    leave(main("itm_hn", __doc__ or "", Training(PoolRegime), training_on_pools))
