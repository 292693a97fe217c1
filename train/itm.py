"""Train on batches of matching pairs: the other items of the global batch are the negatives, offline ones may join."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config.command.settings_read import training_on_batches
from train.entry import leave, main
from train.loop.batch_regime import BatchRegime
from train.loop.training import Training

if __name__ == "__main__":
    leave(main("itm", __doc__ or "", Training(BatchRegime), training_on_batches))
