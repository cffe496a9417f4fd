"""What networks.py measured as text and as a picture: the Pareto front, and the ratios to the peers."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

OWN_GOAL, LINE_GOAL = 1.5, 5.0
"""Images/s over the peer compared with, on the fold's own mix and on a line's."""

MARGIN_POINTS = 1.0


def front(networks: dict[str, dict[str, Any]]) -> list[str]:
    """Networks that no other beats in both INT8 images/s and mIoU; those without either are left out."""
    known = {n: (r["int8_per_s"], r["mean_iou"]) for n, r in networks.items() if r.get("int8_per_s") and r["mean_iou"]}

    def beaten(name: str) -> bool:
        mine = known[name]
        return any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in known.values())

    return sorted(name for name in known if not beaten(name))


def judge(networks: dict[str, dict[str, Any]], rates: dict[str, list[float]]) -> dict[str, Any] | None:
    """Our images/s with the gate on over the fastest peer within a point of our mIoU, or the most accurate one.

    Ratios are medians over rounds. None where the study has no accuracy for us or for any peer.
    """
    mine = networks["lpc-net"]["mean_iou"]
    peers = {n: r for n, r in networks.items() if n != "lpc-net" and r["mean_iou"] is not None and r.get("int8_per_s")}
    if mine is None or not peers:
        return None
    as_good = [name for name, row in peers.items() if row["mean_iou"] >= mine - MARGIN_POINTS]
    if as_good:
        peer, why = (
            max(as_good, key=lambda name: peers[name]["int8_per_s"]),
            "the fastest whose mIoU is ours - 1 or more",
        )
    else:
        peer, why = (
            max(peers, key=lambda name: peers[name]["mean_iou"]),
            "the most accurate: none is as good as ours - 1",
        )

    def against(key: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[f"lpc-net {key}"], rates[f"{peer} int8"], strict=True))

    ratios = {key: against(key) for key in ("gate off", "own mix", "line mix")}
    return {
        "peer": peer,
        "chosen_as": why,
        "ratio": ratios,
        "own_mix_goal": OWN_GOAL,
        "line_mix_goal": LINE_GOAL,
        "reached": ratios["own mix"] >= OWN_GOAL and ratios["line mix"] >= LINE_GOAL,
    }


def text_of(record: dict[str, Any]) -> str:
    """A table, the front, the ratios and notes on what the figures are not."""
    lines = [f"{'':<26}{'FP32/s':>9}{'INT8/s':>9}{'mIoU':>8}  weights"]
    for name, row in record["networks"].items():
        fp32, int8, iou = row.get("fp32_per_s"), row.get("int8_per_s"), row["mean_iou"]
        cells = [f"{value:9.1f}" if value else f"{'-':>9}" for value in (fp32, int8)]
        lines.append(f"{name:<26}{''.join(cells)}{f'{iou:8.1f}' if iou else '       -'}  {row['weights']}")
    for key, value in record["networks"]["lpc-net"]["by_gate"].items():
        lines.append(f"{'  lpc-net, ' + key:<26}{'':>9}{value:9.1f}")
    lines.append(f"Pareto front: {', '.join(record['front']) or 'unknown, the study has no accuracies'}")
    goal = record["targets"]
    if goal:
        ratios = ", ".join(f"{key} {value:.2f}" for key, value in goal["ratio"].items())
        lines.append(f"times the images/s of {goal['peer']} ({goal['chosen_as']}): {ratios}")
    lines += notes(record)
    return "\n".join(lines)


def notes(record: dict[str, Any]) -> list[str]:
    """What must be said with the figures."""
    lines = [f"{name}: missing ({reason})" for name, reason in record["missing"].items()]
    random = [name for name, row in record["networks"].items() if row["weights"] == "random"]
    if random:
        lines.append(f"Speed alone, random weights: {', '.join(random)}.")
    if "yolov8n-seg" in record["networks"]:
        lines.append("yolov8n-seg: the network alone, without non-maximum suppression and without assembling masks.")
    if record["bundle"]["gate_from"] != "the bundle":
        lines.append(f"The bundle has no gate: its threshold was calibrated on {record['bundle']['gate_from']}.")
    if record["study"] is None:
        lines.append("There is no study: run benchmarks/accuracy/study.py for accuracies.")
    else:
        lines += ["mIoU of the study:", *record["study"]["caption"]]
    if record["quick"]:
        lines.append("--quick: these figures mean nothing.")
    return lines


def plot(record: dict[str, Any], path: Path) -> None:
    """Images/s, on a logarithmic axis, against mIoU; networks without accuracy as lines at their speed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for name, row in record["networks"].items():
        if row["mean_iou"] is None:
            if row.get("int8_per_s"):
                axes.axvline(row["int8_per_s"], color="grey", linestyle=":", linewidth=1)
                axes.annotate(f"{name} (speed alone)", (row["int8_per_s"], 0.02), rotation=90, fontsize=7,
                              xycoords=("data", "axes fraction"))  # fmt: skip
            continue
        ours = row.get("by_gate", {})
        points = [(speed, f"{name}, {key}") for key, speed in ours.items()]
        points = points or [(row[f"{kind}_per_s"], f"{name} {kind.upper()}") for kind in ("fp32", "int8")]
        low, high = row["mean_iou_bounds"]
        errors = [[max(0.0, row["mean_iou"] - low)], [max(0.0, high - row["mean_iou"])]]
        for speed, label in points:
            if speed:
                axes.errorbar([speed], [row["mean_iou"]], yerr=errors, fmt="s" if ours else "o", label=label, capsize=3)
    axes.set_xscale("log")
    axes.set_xlabel(f"images/s on {record['threads']} threads of {record['processor']}", fontsize=8)
    axes.set_ylabel("mIoU of the study, points (95 %)")
    axes.grid(alpha=0.3, which="both")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
