"""The mean of the weights of several runs of one network, and the card that says so.

    python benchmarks/accuracy/average.py RUN RUN... --out DIR [--note TEXT]

Each RUN is a folder that ``lpcnet-edge train`` left; the runs begin one with the weights of another, else their mean
is of no use. The card is the last run's, with the digests of all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import yaml

from lpcnet_edge.errors import LpcnetError, UsageError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.weights import load_network, save_weights


def average(runs: list[Path], out: Path, note: str) -> str:
    """Write ``weights.safetensors`` and ``card.yaml``; returns the digest of the former."""
    networks = [load_network(run / "weights.safetensors") for run in runs]
    last = networks[-1]
    if any((n.network.config, n.tile_px) != (last.network.config, last.tile_px) for n in networks):
        raise UsageError("the runs are of different networks", mend="give runs that begin with each other's weights")
    states = [network.network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in states[-1].items()
    }
    cards = [yaml.safe_load((run / "card.yaml").read_text("utf-8")) for run in runs]
    # The card names the images of the last run alone, by which later checks tell what was trained on.
    if any(card["data"]["digest"] != cards[-1]["data"]["digest"] for card in cards):
        raise UsageError("the runs are of different images", mend="give runs of one dataset and the same folds")
    out.mkdir(parents=True, exist_ok=True)
    digest = save_weights(out / "weights.safetensors", last.network.config, mean, last.tile_px)
    averaged = [
        {"sha256": one["weights"]["sha256"], "steps": one["recipe"]["steps"], "seed": one["recipe"]["seed"]}
        for one in cards
    ]
    card = cards[-1]
    card["weights"]["sha256"] = digest
    card["run"]["averaged"] = averaged
    if note:
        card["run"]["note"] = note
    write_atomically(out / "card.yaml", yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120))
    return digest


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    try:
        print(average(args.runs, args.out, args.note))
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
