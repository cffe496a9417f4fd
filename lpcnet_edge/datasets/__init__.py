"""Labelled images: where they come from, how they are split, and what is wrong with them."""

from lpcnet_edge.datasets.coco import Coco
from lpcnet_edge.datasets.folder import Folder
from lpcnet_edge.datasets.inspect import Finding, describe, inspect_dataset
from lpcnet_edge.datasets.magnetic_tile import MagneticTile
from lpcnet_edge.datasets.selection import where, with_fold, without_fold
from lpcnet_edge.datasets.spec import open_dataset

__all__ = [
    "Coco",
    "Finding",
    "Folder",
    "MagneticTile",
    "describe",
    "inspect_dataset",
    "open_dataset",
    "where",
    "with_fold",
    "without_fold",
]
