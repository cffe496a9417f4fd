"""What a build writes for people: JSON, and the curve of accuracy against layers restored to float."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lpcnet_edge.build.judging import Judgement
from lpcnet_edge.build.restore import Step
from lpcnet_edge.files import finite


def as_json(value: Any) -> bytes:
    """Indented JSON; numbers that JSON cannot hold become null, bytes of names that are no UTF-8 ``\\xNN``."""
    return (json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def lasting(report: Mapping[str, Any]) -> dict[str, Any]:
    """What ``accuracy.json`` keeps of a report: all but how long a fine-tune took, since the same build is to make
    the same bytes."""
    qat = report.get("qat")
    if not qat:
        return dict(report)
    return {**report, "qat": {name: value for name, value in qat.items() if name != "seconds"}}


def curve_png(steps: Sequence[Step], max_drop: float) -> bytes:
    """mIoU of every step against the number of layers in float, with float's own and the least allowed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    reference = steps[0].judgement.reference_miou
    axes.axhline(reference, color="#444444", linewidth=1, label=f"float, {reference:.2f}")
    axes.axhline(
        reference - max_drop, color="#c03030", linewidth=1, linestyle="--", label=f"least allowed (-{max_drop:g})"
    )
    counts = [len(step.restored) for step in steps]
    values = [step.judgement.candidate_miou for step in steps]
    axes.plot(counts, values, marker="o", color="#2060a0", label="INT8")
    axes.set_xlabel("layers restored to float")
    axes.set_ylabel("mIoU on the check split")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def curve(steps: Sequence[Step], max_drop: float) -> list[dict[str, Any]]:
    """The steps of a restore, for ``accuracy.json``."""
    return [
        {
            "restored": list(step.restored),
            "int8_share": round(step.int8_share, 4),
            "mean_iou": round(step.judgement.candidate_miou, 3),
            "drop": round(step.judgement.drop, 3),
            "mask_iou": round(step.judgement.mask_iou, 3),
            "broken": step.judgement.broken(max_drop),
        }
        for step in steps
    ]


def summary(judgement: Judgement) -> dict[str, Any]:
    """The figures of a build that go into ``bundle.yaml``."""
    return {
        "reference_mean_iou": round(judgement.reference_miou, 3),
        "mean_iou": round(judgement.candidate_miou, 3),
        "mask_iou": round(judgement.mask_iou, 3),
        "pixels": round(judgement.pixels, 4),
        "new_escapes": len(judgement.new_escapes),
        "defects_lost": judgement.lost,
        "defects_caught_in_float": judgement.caught,
    }
