"""Magnetic Tile with folds by image at random, as published figures have them. It leaks: for comparing with those only.

    python benchmarks/accuracy/by_image.py --data DIR --out runs/by-image
    lpcnet-edge train --data runs/by-image --recipe benchmarks/accuracy/by-image.yaml --exclude-fold 1 \
        --start carbon-fabric --out runs/image
    lpcnet-edge check --weights runs/image/weights.safetensors --data runs/by-image --fold 1

The folds are those of ``study.py --split image``: the same on every machine. Photographs of one tile, of one and the
same defect, stand in training and in test. ``--out`` gets links to the images and an index of its own.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

from study_runs import deal_images

from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.datasets.base import inside
from lpcnet_edge.datasets.magnetic_tile import COLUMNS
from lpcnet_edge.datasets.tables import read_table
from lpcnet_edge.errors import BadInput, LpcnetError, UsageError
from lpcnet_edge.files import write_atomically


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    try:
        entries = open_dataset(str(args.data)).entries
        fold_of = dict(zip((entry.name for entry in entries), deal_images(entries), strict=True))
        index = args.data / "tiles.csv"
        if not index.exists():
            raise BadInput(f"{args.data} has no tiles.csv", mend="give the Magnetic Tile folder with its index")
        if args.out.exists():
            raise UsageError(f"{args.out} exists", mend="name another folder with --out")
        named = [(inside(args.data, row["image"], str(index)), row) for _, row in read_table(index, COLUMNS)]
        rows = [{**row, "fold": fold_of[path.relative_to(args.data).as_posix()]} for path, row in named]
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    folders = sorted(path for path in args.data.iterdir() if path.is_dir())  # before --out may be one of them
    args.out.mkdir(parents=True)
    for folder in folders:
        (args.out / folder.name).symlink_to(folder.resolve())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(args.out / "tiles.csv", text.getvalue())
    print(f"{args.out}: {len(rows)} images, folds by image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
