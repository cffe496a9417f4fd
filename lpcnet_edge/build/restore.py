"""Precision restore: layers return to float, the most sensitive first, until the engine decides as float did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.judging import Judgement
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import place, quantisable, quantise
from lpcnet_edge.errors import BuildFailed
from lpcnet_edge.files import write_atomically

Progress = Callable[[int, int], None]

LEAST_INT8_SHARE = 0.5
"""Of the multiply-adds of both stages, the share that must stay in INT8; with less, INT8 is no longer worth it."""

_LOGITS = {"localization": "stage1/head", "confidence": "stage2/decoder/classify"}


@dataclass(frozen=True)
class Step:
    """One point of the curve of accuracy against restored layers."""

    restored: tuple[str, ...]
    int8_share: float
    judgement: Judgement


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of every quantisable convolution for one tile, by name."""
    counts = {}
    for node in quantisable(from_model(model)):
        outputs = node.outputs[0].shape[1:]
        counts[node.name] = int(np.prod(outputs) * np.prod(node.inputs[1].values.shape[1:]))
    return counts


def sqnr_db(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """Signal to quantisation noise ratio in dB: 10 log10(sum x^2 / sum (x - y)^2)."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - candidate).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))


def sensitivity(
    pair: OnnxPair,
    ranges: Mapping[str, float],
    tiles: NDArray[np.uint8],
    progress: Progress | None = None,
    *,
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """SQNR (dB) at the stage's logits with only that layer quantised, for every quantisable layer; lowest first.

    ``only`` names the layers to try, where not all.
    """
    embedding = _run(pair.localization, "localization", tiles, None)[1]
    models = {"localization": pair.localization, "confidence": pair.confidence}
    layers = {stage: place(from_model(model)).convs for stage, model in models.items()}
    tried = {stage: [name for name in names if only is None or name in only] for stage, names in layers.items()}
    total, done = sum(map(len, tried.values())), 0
    found: dict[str, float] = {}
    for stage, model in models.items():
        wanted, _ = _run(model, stage, tiles, embedding)
        for layer in tried[stage]:
            alone = quantise(model, ranges, [name for name in layers[stage] if name != layer])
            found[layer] = sqnr_db(wanted, _run(alone, stage, tiles, embedding)[0])
            done += 1
            if progress is not None:
                progress(done, total)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def kept_sensitivity(
    pair: OnnxPair, ranges: Mapping[str, float], tiles: NDArray[np.uint8], cache: Path, progress: Progress | None = None
) -> dict[str, float]:
    """:func:`sensitivity` of all layers, from the folder ``cache`` where it was measured of just these three before."""
    digest = hashlib.sha256(json.dumps([tiles.shape, sorted(ranges.items())]).encode())
    for data in (pair.localization.SerializeToString(), pair.confidence.SerializeToString(), tiles.tobytes()):
        digest.update(hashlib.sha256(data).digest())
    path = cache / f"{digest.hexdigest()}.json"
    layers = {name for model in (pair.localization, pair.confidence) for name in place(from_model(model)).convs}
    try:
        found = {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
        if set(found) == layers:
            return found
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # not there, or damaged: measured again
    found = sensitivity(pair, ranges, tiles, progress)
    write_atomically(path, json.dumps(found))
    return found


def restore(
    order: Sequence[str],
    costs: Mapping[str, int],
    judge: Callable[[tuple[str, ...]], Judgement],
    max_drop: float,
    first: Judgement,
    *,
    tuned: bool = False,
) -> list[Step]:
    """Return layers to float in ``order`` until nothing is broken; the steps, the last of which holds.

    Then those return to INT8 that turn out not to be needed, all but the last at once or else one by one, the most
    costly first: the order is that of each layer alone, and one that disturbs its stage's logits most need not be the
    one that moves a decision.

    ``judge`` measures the engines with these layers in float. Raises ``BuildFailed`` when INT8 would be left with less
    than half of the multiply-adds; ``tuned`` says that a fine-tune has been tried, so that it is not proposed.
    """
    total = sum(costs.values())
    steps = [Step((), 1.0, first)]
    restored: tuple[str, ...] = ()
    while broken := steps[-1].judgement.broken(max_drop):
        if len(restored) == len(order):
            raise _hopeless(f"INT8 does not decide as float did, with every layer in float: {'; '.join(broken)}", tuned)
        kept, restored = restored, (*restored, order[len(restored)])
        share = 1.0 - sum(costs[name] for name in restored) / total
        if share < LEAST_INT8_SHARE:
            raise _hopeless(
                f"INT8 does not decide as float did with {len(kept)} layers in float, and one more leaves INT8 "
                f"{share:.0%} of the multiply-adds: {'; '.join(broken)}",
                tuned,
            )
        steps.append(Step(restored, share, judge(restored)))

    def holds(fewer: tuple[str, ...]) -> bool:
        judgement = judge(fewer)
        if judgement.broken(max_drop):
            return False
        steps.append(Step(fewer, 1.0 - sum(costs[name] for name in fewer) / total, judgement))
        return True

    needs_more = len(restored) > 2 and not holds(restored[-1:])
    for name in sorted(steps[-1].restored[:-1], key=lambda name: -costs[name]):
        fewer = tuple(other for other in steps[-1].restored if other != name)
        if not (needs_more and fewer == restored[-1:]):
            holds(fewer)
    return steps


def _hopeless(message: str, tuned: bool) -> BuildFailed:
    first = "fine-tune for longer (--qat STEPS)" if tuned else "build with --qat"
    return BuildFailed(
        message, mend=f"{first}, with --fp16, with more calibration tiles, or allow more with --max-drop"
    )


def _run(
    model: onnx.ModelProto, stage: str, tiles: NDArray[np.uint8], embedding: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    logits = _LOGITS[stage]
    engine = open_engine("onnxruntime", model.SerializeToString(), extra_outputs=[logits])
    feeds: dict[str, NDArray[np.generic]] = {"pixels": tiles}
    if stage == "confidence":
        assert embedding is not None
        feeds |= {"embedding": embedding, "picked": np.arange(len(tiles), dtype=np.int32)}
    found = engine.run(feeds)
    return found[logits], found.get("embedding")
