"""How many free images stage 1 clears when no defective part is missed, out of fold over all folds.

    python benchmarks/accuracy/gate.py --data DIR [--out runs/gate] [--steps 3500] [--recipe magnetic-tile-wide]
        [--start carbon-fabric | --start ""] [--json]

For each fold, stage 1 is trained alone on the others (stage 2's loss has no weight, so it is not computed), then scores
the fold. The scores of all folds are pooled: every image is judged by a network that has not seen its part, and
``--start`` must not have either. Resumable: run it again after an interruption. ``--out`` gets a record a fold, which
says how it was made and is not taken for another run's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from lpcnet_edge.cli.console import TrainingDisplay
from lpcnet_edge.config import to_mapping
from lpcnet_edge.datasets import open_dataset, with_fold, without_fold
from lpcnet_edge.errors import BadData, LpcnetError, UsageError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.metrics import gate_by_image, gate_by_part
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.recipe import Recipe, load_recipe
from lpcnet_edge.network.training import train
from lpcnet_edge.network.weights import load_network, weights_path
from lpcnet_edge.types import Dataset


def score_fold(
    data: Dataset, fold: str, out: Path, recipe: Recipe, start: FloatNetwork | None, made: dict[str, object]
) -> list[dict[str, object]]:
    """Scores of a fold's images by a stage 1 trained without that fold; from the record if there is one."""
    record = out / f"fold-{fold}.json"
    if record.exists():
        found = json.loads(record.read_text())
        before = found.get("made", {}) if isinstance(found, dict) else {}
        changed = [name for name, value in made.items() if before.get(name) != value]
        if changed:
            raise UsageError(
                f"{record} was made with other settings: {', '.join(changed)}", mend="name another folder with --out"
            )
        rows: list[dict[str, object]] = found["rows"]
        return rows
    run = out / f"fold-{fold}"
    with TrainingDisplay() as display:
        summary = train(without_fold(data, {fold}), recipe, run, resume=True, progress=display, start=start)
    if summary.weights is None:
        raise KeyboardInterrupt
    network, held_out = load_network(summary.weights), with_fold(data, {fold})
    rows = []
    for index, entry in enumerate(held_out.entries):
        sample = held_out.read(index)
        tile = resize_image(sample.image, network.tile_px, network.tile_px)
        name = held_out.classes[entry.label] if entry.label else "free"
        score = float(network.predict(tile[None]).score[0])
        rows.append(
            {"part": entry.part, "class": name, "defective": bool(sample.mask.any()), "score": score, "fold": fold}
        )
    write_atomically(record, json.dumps({"made": made, "rows": rows}))
    return rows


def summarise(rows: list[dict[str, object]]) -> dict[str, object]:
    """Free images cleared, and what holds the gate back, by part and by image."""
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    defective = np.array([row["defective"] for row in rows], dtype=bool)
    parts = [str(row["part"]) for row in rows]
    by_part, by_image = gate_by_part(scores, parts, defective), gate_by_image(scores, defective)
    weakest = [{key: rows[int(index)][key] for key in ("part", "class", "fold")} for index in by_part.weakest[:3]]
    return {
        "images": len(rows),
        "free_images": int(by_part.free_images),
        "defective_parts": len({part for part, bad in zip(parts, defective, strict=True) if bad}),
        "cleared_no_part_missed": round(100 * float(by_part.cleared[0]), 2),
        "cleared_one_part_missed": round(100 * float(by_part.cleared[1]), 2) if len(by_part.cleared) > 1 else None,
        "cleared_no_image_missed": round(100 * float(by_image.cleared[0]), 2),
        "threshold": float(by_part.threshold[0]),
        "weakest_parts": weakest,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/gate"))
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--recipe", default="magnetic-tile-wide", help="name or path")
    parser.add_argument(
        "--start", metavar="WEIGHTS", default="carbon-fabric", help="as for `lpcnet-edge train`; '' for random weights"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        data = open_dataset(args.data)
        base = load_recipe(args.recipe)
        recipe = replace(base, steps=args.steps, loss=replace(base.loss, segmentation=0.0))
        start = load_network(args.start) if args.start else None
        folds = sorted({entry.strata["fold"] for entry in data.entries if "fold" in entry.strata})
        if len(folds) < 2:
            raise BadData(f"{data.name} has {len(folds)} folds", mend="give two or more in a column fold of its table")
        settings = json.dumps(to_mapping(recipe), sort_keys=True).encode()
        made: dict[str, object] = {
            "steps": args.steps,
            "recipe": Path(args.recipe).stem,
            "start": Path(args.start).stem or None,
            "data_digest": data.digest(),
            "recipe_sha256": hashlib.sha256(settings).hexdigest(),
            "start_sha256": hashlib.sha256(weights_path(args.start).read_bytes()).hexdigest() if args.start else None,
        }
        rows = [row for fold in folds for row in score_fold(data, fold, args.out, recipe, start, made)]
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    found = {**summarise(rows), **made}
    if args.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<28}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
