"""Why a bundle may not decide as float did: what is wrong with it, found by looking at it and by trying.

A cause is a fact about the bundle (a scale, an order of channels), stated with its evidence. It does not depend on
limits: a sound bundle has none, but for the parts that its gate's alpha allows it to miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from lpcnet_edge.build.calibration_file import read_calibration
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.opening import REFERENCE_FILES, has_reference
from lpcnet_edge.check.scales import (
    LEVELS,
    QuantisedStage,
    TensorUse,
    float_weights,
    quantised_stage,
    tensor_uses,
    weight_gain,
)
from lpcnet_edge.errors import BadArtifact
from lpcnet_edge.types import Image, Segmenter

CALIBRATION_FILE = "calibration.json"

UNSOUND = ("calibration", "scale", "channel_order")
"""Kinds of cause that contradict what the bundle says of itself."""

SCALE_TOLERANCE = 0.02
"""A scale may differ by this share from what the calibration says: it is stored in float32."""

GAIN_TOLERANCE = 0.1
"""Rounding to 8 bits changes the size of a layer's weights by far less than this share."""

SWAPPED_GAP = 0.05
"""A swap moves the scores by this much a tile or more (0.10 to 0.22 were seen); rounding to INT8 by 0.02 at most."""

SATURATED_SHARE = 0.01
"""No calibration method here clips a share of values as large as this, on images like those it saw."""

WIDE = 8.0
"""A range this many times the largest value seen leaves 16 levels or fewer on either side of zero."""


@dataclass(frozen=True)
class Cause:
    """What is wrong: its kind, the sentence with the evidence, and what to do."""

    kind: str
    message: str
    mend: str


def find_causes(
    bundle: Bundle,
    candidate: Segmenter,
    reference: Segmenter,
    tiles: Sequence[Image],
    gate: Mapping[str, Any],
) -> list[Cause]:
    """Everything found, the most certain first: channel order, scales, ranges, gate.

    Parameters
    ----------
    candidate, reference
        As they were compared.
    tiles
        (S, S[, 3]) uint8, a few of the images on which the two differ most.
    gate
        ``bundle_gate`` of the report.
    """
    found = list(_channel_order(candidate, reference, tiles))
    if bundle.manifest.precision == "int8":
        found += _of_scales(bundle, tiles)
    found += _of_gate(gate)
    return found


def stages_of(bundle: Bundle) -> dict[str, QuantisedStage]:
    """The scales and weights of both stages, as the bundle's own files hold them."""
    return {
        stage: quantised_stage(onnx.load_model_from_string(bundle.read(spec.file)))
        for stage, spec in bundle.manifest.stages.items()
    }


def reference_stages(bundle: Bundle) -> dict[str, bytes]:
    """The float pair in the bundle, serialised."""
    return dict(zip(bundle.manifest.stages, (bundle.read(name) for name in REFERENCE_FILES), strict=True))


def stated_ranges(bundle: Bundle) -> dict[str, float]:
    """The range of every tensor as calibration.json has it; empty where the bundle has none.

    Raises ``BadArtifact`` where it is damaged or was edited.
    """
    if CALIBRATION_FILE not in bundle.manifest.files:
        return {}
    calibration = read_calibration(bundle.file(CALIBRATION_FILE))
    return {name: tensor.range for name, tensor in calibration.tensors.items()}


def _channel_order(candidate: Segmenter, reference: Segmenter, tiles: Sequence[Image]) -> Iterator[Cause]:
    """With the channels turned round, does the candidate say what the reference says as they are?"""
    if candidate.channels != 3 or not tiles:
        return
    stacked = np.stack(tiles)
    wanted = reference.predict(stacked)
    gaps = []
    for given in (stacked, np.ascontiguousarray(stacked[..., ::-1])):
        found = candidate.predict(given)
        gaps.append(float(np.abs(found.score - wanted.score).sum()) + float((found.classes != wanted.classes).mean()))
    as_is, turned = gaps
    if turned < 0.5 * as_is and as_is > SWAPPED_GAP * len(tiles):
        yield Cause(
            "channel_order",
            f"the channels are swapped: given RGB instead of BGR, the bundle is {as_is / max(turned, 1e-9):.1f} times "
            f"nearer to float on the {len(tiles)} images where they differ most",
            "export again with the channels in the order of training (BGR), and look for a swap before the first layer",
        )


def _of_scales(bundle: Bundle, tiles: Sequence[Image]) -> list[Cause]:
    stages = stages_of(bundle)
    changed = list(_changed_scales(bundle, stages))
    if not has_reference(bundle):
        return changed
    reference = reference_stages(bundle)
    gains = list(_changed_weights(stages, reference))
    if changed or gains or not tiles:
        return [*changed, *gains]
    scales = {stage: found.activations for stage, found in stages.items()}
    return list(_ranges(tensor_uses(reference, scales, tiles)))


def _changed_scales(bundle: Bundle, stages: Mapping[str, QuantisedStage]) -> Iterator[Cause]:
    """Scales that are not those of calibration.json."""
    try:
        stated = {name: value / LEVELS for name, value in stated_ranges(bundle).items()}
    except BadArtifact as exc:
        yield Cause("calibration", exc.message, "build the bundle again from its weights")
        return
    for stage, found in stages.items():
        for name, scale in found.activations.items():
            ratio = scale / stated[name] if stated.get(name) else 1.0
            if abs(ratio - 1) > SCALE_TOLERANCE and name != "preprocess/normalise":
                yield Cause(
                    "scale",
                    f"the scale of {name} in {bundle.manifest.stages[stage].file} is {ratio:.3g} times that of "
                    "calibration.json",
                    "the file was changed after its calibration: build the bundle again from its weights",
                )


def _changed_weights(stages: Mapping[str, QuantisedStage], reference: Mapping[str, bytes]) -> Iterator[Cause]:
    """Weights that are not the float ones, rounded."""
    for stage, data in reference.items():
        plain = float_weights(onnx.load_model_from_string(data))
        for name, own in stages[stage].weights.items():
            if name not in plain or plain[name].shape != own.shape:
                continue
            gain = weight_gain(plain[name], own)
            if abs(gain - 1) > GAIN_TOLERANCE and not _turned(plain[name], own):
                yield Cause(
                    "scale",
                    f"the weights {name} of the {stage} stage are {gain:.3g} times those of the float network: the "
                    "scale of this layer is wrong",
                    "build the bundle again from its weights; if it comes back, keep this layer in float",
                )


def _turned(plain: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> bool:
    """Whether the weights fit with their input channels turned round: that is told by trying, not as a scale."""
    return plain.shape[1] == 3 and abs(weight_gain(plain[:, ::-1], own) - 1) < GAIN_TOLERANCE


def _ranges(uses: Mapping[str, TensorUse]) -> Iterator[Cause]:
    narrow = {name: use for name, use in uses.items() if use.saturated > SATURATED_SHARE}
    wide = {name: use for name, use in uses.items() if use.largest and use.range > WIDE * use.largest}
    if narrow:
        name = max(narrow, key=lambda key: narrow[key].saturated)
        use = narrow[name]
        yield Cause(
            "range",
            f"the calibration ranges are too narrow for these images: {len(narrow)} of {len(uses)} tensors saturate, "
            f"{name} ends at {use.range:.3g} where these images reach {use.largest:.3g} "
            f"({100 * use.saturated:.1f} % of its values are cut off)",
            "calibrate with images of this line, at these exposures (`lpcnet-edge build --data`, docs/calibration.md)",
        )
    if len(wide) > len(uses) // 4:
        name = max(wide, key=lambda key: wide[key].range / wide[key].largest)
        use = wide[name]
        yield Cause(
            "range",
            f"the calibration ranges are too wide for these images: of {len(wide)} of {len(uses)} tensors less than "
            f"1/{WIDE:g} is used, {name} reaches {use.largest:.3g} of {use.range:.3g}",
            "calibrate with images of this line, without outliers, or with --method percentile (docs/calibration.md)",
        )


def _of_gate(gate: Mapping[str, Any]) -> Iterator[Cause]:
    if not gate["missed"]:
        return
    missed = {name: row["missed"] for name, row in gate["per_class"].items() if row["missed"]}
    names = sorted(missed, key=lambda name: -missed[name])
    counts = ", ".join(f"{missed[name]} of {name}" for name in names)
    promise = f"where its alpha allows {100 * gate['alpha']:.3g} %"
    yield Cause(
        "gate",
        f"the gate at {gate['threshold']:.4g} clears {gate['missed']} of {gate['defective_parts']} defective parts "
        f"(95 %: {gate['low']:.1f} to {gate['high']:.1f} %), {promise}: {counts}",
        "calibrate the gate again (lpcnet-edge calibrate gate): the largest threshold that misses none of these parts "
        f"is {gate['largest_without_a_miss']:.4g}; or improve the localization of {names[0]}",
    )
