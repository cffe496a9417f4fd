"""How well class maps that `lpcnet-edge run --masks` wrote agree with a dataset's own masks, at full resolution.

python scripts/mask_agreement.py MASKS DATASET
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from lpcnet_edge import metrics
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.datasets.masks import read_index_mask
from lpcnet_edge.errors import LpcnetError
from lpcnet_edge.imaging import resize_mask


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("masks", type=Path)
    parser.add_argument("dataset")
    args = parser.parse_args()
    predicted, dataset = args.masks, open_dataset(args.dataset)
    classes = len(dataset.classes)
    total = np.zeros((classes, classes), dtype=np.int64)
    right = 0
    for index, entry in enumerate(dataset.entries):
        truth = dataset.read(index).mask
        found = read_index_mask(predicted / f"{Path(entry.name).name}.png", dataset.classes)
        if found.shape != truth.shape:  # a frame judged as one tile
            found = resize_mask(found, truth.shape[0], truth.shape[1])
        total += metrics.confusion_matrix(truth, found, classes)
        right += bool(truth.any()) == bool(found.any())
    print(
        f"against the masks drawn: {right} of {len(dataset.entries)} frames rightly passed or rejected, "
        f"mIoU {100 * metrics.mean_iou(total):.1f}, IoU of defect {100 * metrics.defect_iou(total):.1f}"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LpcnetError as exc:
        print(f"error: {exc.message}\nmend: {exc.mend}", file=sys.stderr)
        sys.exit(exc.exit_code)
