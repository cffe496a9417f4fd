"""A fold's accuracy with and without the images whose physical tile also stands in another fold.

    python benchmarks/accuracy/without_twins.py --weights magnetic-tile --data DIR [--fold 1] [--json]

The folds of ``tiles.csv`` cut some tiles apart (docs/data.md). Here the file numbers tell the tiles; images of a tile
that the table also puts into another fold are left out of the second figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from typing import Any

from lpcnet_edge.check.evaluate import evaluate
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import LpcnetError
from lpcnet_edge.network.weights import load_network
from lpcnet_edge.types import Segmenter

FIGURES = ("mean_iou", "mean_pixel_accuracy", "defect_iou")


def measure_without_twins(network: Segmenter, data: str, fold: str) -> dict[str, dict[str, Any]]:
    """Figures of a fold as a whole and without the images that have a twin in another fold."""
    table, numbers = open_dataset(data), open_dataset(data, grouping="numbers")
    tile_of = {entry.name: entry.part for entry in numbers.entries}
    folds_of = defaultdict(set)
    for entry in table.entries:
        folds_of[tile_of[entry.name]].add(entry.strata["fold"])
    whole = [i for i, entry in enumerate(table.entries) if entry.strata["fold"] == fold]
    alone = [i for i in whole if len(folds_of[tile_of[table.entries[i].name]]) == 1]
    found = {}
    for name, chosen in (("whole fold", whole), ("without twins", alone)):
        candidate = evaluate(network, table.select(chosen)).to_json()["candidate"]
        per_class = {key: row["iou"] for key, row in candidate["per_class"].items()}
        figures = {key: candidate[key] for key in FIGURES}
        found[name] = {"images": len(chosen), **figures, "iou_per_class": per_class}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--weights", default="magnetic-tile")
    parser.add_argument("--data", required=True)
    parser.add_argument("--fold", default="1")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        found = measure_without_twins(load_network(args.weights), args.data, args.fold)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    if args.json:
        print(json.dumps(found))
    else:
        for name, row in found.items():
            print(name, *(f"{key} {value}" for key, value in row.items()), sep="\n    ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
