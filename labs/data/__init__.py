"""Load small real image sets, and find and survive what is wrong with others."""

from labs.data import faults
from labs.data.batch import WatchedLoader, collate
from labs.data.composed import (
    Composed,
    flowers,
    flowers_with_masks,
    photos,
    photos_with_masks,
)
from labs.data.idx import clothes, digits
from labs.data.images import ImageSet
from labs.data.oxford import flowers102
from labs.data.robust import RobustImageDataset
from labs.data.scan import scan_images
from labs.data.shipped import DamagedAssetError
from labs.data.trees import AerialTrees, aerial_trees

__all__ = [
    "AerialTrees",
    "Composed",
    "DamagedAssetError",
    "ImageSet",
    "RobustImageDataset",
    "WatchedLoader",
    "aerial_trees",
    "clothes",
    "collate",
    "digits",
    "faults",
    "flowers",
    "flowers102",
    "flowers_with_masks",
    "photos",
    "photos_with_masks",
    "scan_images",
]
