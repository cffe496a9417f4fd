"""The gate from the study's records: every image scored by a stage 1 that has not seen its part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.metrics import calibrate_gate


def gate_out_of_fold(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What a gate calibrated by part clears and misses, over the records of one configuration and seed.

    Each defective part is left out in turn, the gate calibrated on the others (alpha ``auto``), and the part is missed
    where every defective image of it scores below that threshold. None where there is no score or no second part.
    """
    rows = [
        (part, float(score), name == "defective_scores", _defect(row["images"]))
        for record in records
        for part, row in record["parts"].items()
        for name in ("free_scores", "defective_scores")
        for score in row.get(name, ())
    ]
    scores = np.array([score for _, score, _, _ in rows])
    defective = np.array([bad for _, _, bad, _ in rows], dtype=np.bool_)
    parts = np.array([part for part, _, _, _ in rows])
    names = sorted(set(parts[defective].tolist())) if len(rows) else []
    if len(names) < 2:
        return None
    whole = calibrate_gate(scores, parts.tolist(), defective)
    missed = [name for name in names if _misses(name, scores, parts, defective)]
    weakest = min(names, key=lambda name: scores[defective & (parts == name)].max())
    classes = {part: label for part, _, bad, label in rows if bad}
    return {
        "defective_parts": len(names),
        "alpha": whole.alpha,
        "threshold": whole.threshold,
        "free_images": int(np.count_nonzero(~defective)),
        "free_images_cleared": 100 * whole.cleared,
        "missed_left_out": missed,
        "held_back_by": {"part": weakest, "class": classes[weakest]},
    }


def _defect(images: dict[str, int]) -> str:
    """The defect class that most of a part's images show, ``free`` where none does."""
    return max((name for name in images if name != "free"), key=lambda name: images[name], default="free")


def _misses(name: str, scores: NDArray[np.float64], parts: NDArray[np.str_], defective: NDArray[np.bool_]) -> bool:
    others = parts != name
    found = calibrate_gate(scores[others], parts[others].tolist(), defective[others])
    return bool(scores[~others & defective].max() < found.threshold)


def sentence(found: dict[str, Any]) -> str:
    """What the tables say of it."""
    missed, held = found["missed_left_out"], found["held_back_by"]
    return (
        f"The gate, every image scored out of fold: at alpha {found['alpha']:.3g} from {found['defective_parts']} "
        f"defective parts it clears {found['free_images_cleared']:.1f} % of {found['free_images']} free images; each "
        f"part left out in turn, it misses {len(missed)} ({', '.join(missed) or 'none'}). "
        f"Held back by part {held['part']} ({held['class']})."
    )
