"""A picture to what a tower takes in: cut, resized, mirrored and scaled by the product."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data.records.pixels import Crop, crop_square, resize_whole
from model.laps import IMAGENET
from model.parts.backbone import scaled

LOOK = torch.tensor(IMAGENET["pixel_mean"]), torch.tensor(IMAGENET["pixel_std"])


def image_transform(case: Any) -> dict[str, Tensor]:
    picture, side = Image.fromarray(case.inputs["image"].numpy()), case.config["img_res"]
    if case.config["train"]:
        crop = Crop(*case.inputs["crop"].tolist(), flip=bool(case.inputs["flip"]))
        pixels = crop_square(picture, crop, side)
    else:
        pixels = resize_whole(picture, side)
    return {"pixels": scaled(torch.from_numpy(pixels.copy())[None], *LOOK)[0]}


OPS = {"image_transform": image_transform}
