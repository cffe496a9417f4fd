"""The fine-tune rounds where the engine rounds, mends what calibration cannot, and is not taken where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from exported import Exported
from numpy.typing import NDArray
from torch.nn import functional

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.calibration_file import Calibration, CalibrationKey, calibration_of
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.judging import Judge, Judgement
from lpcnet_edge.build.observe import observe
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.qat import Candidate, quantisation_of, tune
from lpcnet_edge.build.quantise import LEVELS, place, quantise
from lpcnet_edge.build.settings import BuildSettings
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.network.fake_quantisation import FakeQuantised
from lpcnet_edge.network.folding import folded
from lpcnet_edge.network.model import normalise
from lpcnet_edge.network.quantisation import QatSettings
from lpcnet_edge.types import ClassMap, Entry, Sample, Segmenter

MAX_DROP = 2.0


class Marked:
    """Grey fabric of 64 px with a dark square or a bright line drawn on two tiles of three."""

    name = "marked"
    classes = ("background", "crack", "hole")
    channels = 1

    def __init__(self, tiles: NDArray[np.uint8], indices: Sequence[int]) -> None:
        self._tiles, self.indices = tiles, tuple(indices)

    @property
    def entries(self) -> list[Entry]:
        return [Entry(f"{i}.png", f"part{i}", i % 3) for i in self.indices]

    def read(self, index: int) -> Sample:
        entry = self.entries[index]
        image, mask = self._tiles[self.indices[index]].copy(), np.zeros((64, 64), np.uint8)
        if entry.label == 1:
            cv2.line(image, (4, 10), (60, 50), 230, 2)
            cv2.line(mask, (4, 10), (60, 50), 1, 2)
        elif entry.label == 2:
            image[20:36, 24:40] //= 3
            mask[20:36, 24:40] = 2
        return Sample(entry, image, mask)

    def select(self, indices: Sequence[int]) -> Marked:
        return Marked(self._tiles, [self.indices[i] for i in indices])

    def digest(self) -> str:
        return repr(self.indices)


def torch_classes(found: Exported, ranges: dict[str, float], tiles: NDArray[np.uint8]) -> ClassMap:
    """What the fake-quantised torch network says of tiles."""
    fake = FakeQuantised(folded(found.network.network), quantisation_of(found.pair, ranges))
    with torch.no_grad():
        logits = fake.module(normalise(torch.from_numpy(tiles))).refined
    doubled = functional.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
    return doubled.argmax(dim=1).to(torch.uint8).numpy()


def canonical_classes(int8: OnnxPair, tiles: NDArray[np.uint8]) -> ClassMap:
    """What the canonical INT8 files say, in ONNX Runtime with optimisations off."""
    first = open_engine("onnxruntime", int8.localization.SerializeToString(), optimise=False).run({"pixels": tiles})
    feeds = {"pixels": tiles, "embedding": first["embedding"], "picked": np.arange(len(tiles), dtype=np.int32)}
    second = open_engine("onnxruntime", int8.confidence.SerializeToString(), optimise=False).run(feeds)
    classes: ClassMap = second["classes"]
    return classes


@pytest.mark.parametrize(("which", "narrowed"), [("real", 0.2), ("small", 1.0)])
def test_before_any_training_torch_says_what_the_engine_says(
    which: str, narrowed: float, request: pytest.FixtureRequest
) -> None:
    """Ranges that are too narrow make rounding loud: a reader rounded too much or too little would show."""
    found: Exported = request.getfixturevalue(which)
    tiles = found.tiles[:3]
    ranges = {name: value * narrowed for name, value in found.ranges.items()}
    int8 = OnnxPair(*(quantise(model, ranges) for model in found.float_models.values()))
    engine = canonical_classes(int8, tiles)
    rounded = torch_classes(found, ranges, tiles)
    assert (rounded == engine).mean() >= 0.999
    # The same check sees one tensor rounded differently.
    wrong = dict(ranges)
    wrong["stage2/encoder/stem/relu"] *= 1.5
    defect = (rounded > 0) | (engine > 0)
    wronged = torch_classes(found, wrong, tiles)
    assert (wronged != engine)[defect].mean() > 4 * (rounded != engine)[defect].mean()
    # And what float says is not what the engine says, so agreement is no matter of course.
    assert (found.network.predict(tiles).classes != engine).mean() > 4 * (rounded != engine).mean()


def test_every_place_of_the_graphs_is_in_the_plain_data(real: Exported) -> None:
    quantisation = quantisation_of(real.pair, real.ranges)
    placements = [place(from_model(model)) for model in real.float_models.values()]
    assert set(quantisation.convs) == {name for p in placements for name in p.convs}
    readers = sorted(r for p in placements for readers in p.uses.values() for r in readers)
    assert sorted(r for readers in quantisation.uses.values() for r in readers) == readers
    assert quantisation.scales["preprocess/normalise"] == pytest.approx(1 / 127)


@pytest.fixture
def broken(small: Exported) -> Candidate:
    """The small network calibrated with ranges four times too narrow."""
    engines = Engines(
        small.pair, classes=Marked.classes, channels=1, tile_px=64, backend="onnxruntime", batch=8, cache=None
    )
    key = CalibrationKey(weights="w", preprocessing="p", calibration_set="s", method="minmax", tile_px=64)
    measured = calibration_of(key, observe(small.pair, small.tiles[:8], 8), "minmax")
    tensors = {name: replace(t, ranges={m: r / 4 for m, r in t.ranges.items()}) for name, t in measured.tensors.items()}
    calibration = Calibration(key, tensors)
    return Candidate(engines, calibration, agreement_with(engines, small)(quantised(engines, calibration)))


def quantised(engines: Engines, calibration: Calibration) -> Segmenter:
    return engines.quantised({name: scale * LEVELS for name, scale in calibration.scales().items()})


def agreement_with(engines: Engines, found: Exported) -> Judge:
    """Measures a candidate by the share of pixels that it and float agree on, over tiles that nothing trains on."""
    tiles = np.stack([Marked(found.tiles, range(12, 16)).read(index).image for index in range(4)])
    wanted = engines.of(found.pair).reference().predict(tiles).classes

    def judge(candidate: Segmenter) -> Judgement:
        agreed = 100 * float((candidate.predict(tiles).classes == wanted).mean())
        return Judgement(100.0, agreed, agreed, agreed, (), 0, 0)

    return judge


def run(small: Exported, broken: Candidate, settings: QatSettings, max_drop: float = MAX_DROP) -> Candidate:
    judge: Callable[[Segmenter], Judgement] = agreement_with(broken.engines, small)
    data = Marked(small.tiles, range(12))
    return tune(
        small.network,
        broken,
        data,
        judge,
        settings,
        max_drop=max_drop,
        tiles=small.tiles[:4],
        progress=lambda *_: None,
    )


def test_what_calibration_broke_is_mended(small: Exported, broken: Candidate) -> None:
    settings = QatSettings(steps=30, warmup_steps=3, batch=4, crop_px=64, learning_rate=1e-3, scale_rate=0.05, task=0.0)
    found = run(small, broken, settings)
    assert found.report["used"]
    assert found.report["steps"] == 30
    assert found.report["data"] == "marked"
    assert found.report["loss_last"] < 0.7 * found.report["loss_first"]
    before, after = found.report["calibrated"], found.report["fine_tuned"]
    assert before["broken"]
    assert after["drop"] < 0.7 * before["drop"]
    # What is quantised from it is what was judged, with the ranges learned.
    again = agreement_with(broken.engines, small)(quantised(found.engines, found.calibration))
    assert again.candidate_miou == pytest.approx(found.judgement.candidate_miou)
    assert found.ranges != broken.ranges
    assert found.calibration.key == broken.calibration.key
    assert "30 steps" in found.note
    assert "mIoU" in found.note
    # The measure's reference is still the original network.
    assert broken.engines.pair is small.pair
    assert found.engines.pair is not small.pair


def test_a_fine_tune_that_harms_is_not_taken(small: Exported, broken: Candidate) -> None:
    found = run(small, broken, QatSettings(steps=2, warmup_steps=0, batch=2, crop_px=64, learning_rate=1.0))
    assert not found.report["used"]
    assert "calibrated weights are kept" in found.note
    assert found.engines is broken.engines
    assert found.ranges == broken.ranges


def test_what_holds_is_left_alone(small: Exported, broken: Candidate) -> None:
    found = run(small, broken, QatSettings(), max_drop=100.0)
    assert found.report == {"used": False, "steps": 0, "calibrated": found.report["calibrated"]}
    assert found.engines is broken.engines
    assert "not fine-tuned" in found.note


def test_only_int8_is_fine_tuned() -> None:
    with pytest.raises(BadConfig, match="fp16"):
        BuildSettings(precision="fp16", qat=QatSettings())
