"""What ``calibrate rules`` is worth on parts that it has not seen: calibrated on one half, judged on the other.

    python benchmarks/accuracy/rules.py BUNDLE --data DIR [--fold N] [--halves 500] [--seed 1] [--json]

The engines run once over all images; then the defective and the good parts are halved at random, the least confidence
is found on one half with alpha: auto, and the escapes and the overkill of the other half are counted. The mean share of
escapes is to be held against the mean alpha: the promise is that it is not above.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.cli.console import progress_bar
from lpcnet_edge.datasets import open_dataset, with_fold
from lpcnet_edge.errors import BadData, LpcnetError
from lpcnet_edge.metrics.conformal import find_threshold
from lpcnet_edge.runtime.rules_calibration import Seen, inspect_labelled
from lpcnet_edge.runtime.settings import RunSettings


def take(seen: Seen, flags: NDArray[np.bool_]) -> Seen:
    """The images that are flagged."""
    chosen = flags.nonzero()[0]
    return Seen(
        [seen.parts[n] for n in chosen],
        [seen.images[n] for n in chosen],
        seen.defective[chosen],
        seen.stopped[chosen],
        seen.surest[chosen],
    )


def halve(seen: Seen, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Alpha, and of the other half the escapes and the overkill, as shares, with the overkill before."""
    bad = sorted({part for part, is_bad in zip(seen.parts, seen.defective, strict=True) if is_bad})
    good = sorted(set(seen.parts) - set(bad))
    mine = {str(part) for parts in (bad, good) for part in rng.permutation(parts)[: len(parts) // 2]}
    here = np.array([part in mine for part in seen.parts])
    ours, others = take(seen, here), take(seen, ~here)
    found = find_threshold(ours.surest, ours.parts, ours.defective)
    before = others.outcomes("part")
    # Rules never ask for less than they did: what passes already passes at every threshold.
    after = replace(others, stopped=others.surest >= max(found.threshold, 0.0)).outcomes("part")
    return found.alpha, after.escapes.share, after.overkill.share, before.overkill.share


def check_halves(seen: Seen) -> None:
    """Raise ``BadData`` where a half would hold no defective or no good part."""
    bad = {part for part, is_bad in zip(seen.parts, seen.defective, strict=True) if is_bad}
    good = set(seen.parts) - bad
    if min(len(bad), len(good)) < 2:
        raise BadData(
            f"there are {len(bad)} defective and {len(good)} good parts, and both halves need some of each",
            mend="give images of two or more parts of each kind",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--fold", nargs="+", default=[])
    parser.add_argument("--halves", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.halves < 1:
        parser.error(f"--halves {args.halves}: use 1 or more")
    try:
        bundle, data = open_bundle(args.bundle), open_dataset(args.data)
        data = with_fold(data, set(args.fold)) if args.fold else data
        settings = RunSettings(rules=bundle.manifest.rules)
        total = len(data.entries)
        with progress_bar("inspecting") as progress:
            seen = inspect_labelled(bundle, data, settings, "auto", lambda done: progress(done, total))
        check_halves(seen)
        rng = np.random.default_rng(args.seed)
        halves = [halve(seen, rng) for _ in range(args.halves)]
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    rows = 100 * np.array(halves).mean(axis=0)
    names = ("alpha", "escapes", "overkill", "overkill_before")
    found = {name: round(float(value), 2) for name, value in zip(names, rows, strict=True)}
    if args.json:
        print(json.dumps({"bundle": bundle.id, "halves": args.halves, **found}))
    else:
        print(f"{args.halves} halves of {data.name}: mean points of the parts in the other half")
        for name, value in found.items():
            print(f"{name:<18}{value:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
