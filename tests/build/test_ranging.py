"""Ranges come from the cache only where everything that they depend on agrees; the method that wins is the best."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from check_doubles import ArrayDataset, mask_with
from exported import Exported
from onnx import numpy_helper

from lpcnet_edge.build.calibration_set import CalibrationRecipe, CalibrationSet, pick_calibration_set
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.histogram import Histogram
from lpcnet_edge.build.observe import batches, observe
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.ranges import METHODS
from lpcnet_edge.build.ranging import Ranging, find_ranges, methods_report
from lpcnet_edge.errors import BadArtifact

Seen = list[str]


@pytest.fixture(scope="module")
def engines(small: Exported) -> Engines:
    n = small.network
    return Engines(small.pair, classes=n.classes, channels=1, tile_px=64, backend="onnxruntime", batch=8, cache=None)


@pytest.fixture(scope="module")
def chosen() -> CalibrationSet:
    masks = [mask_with((1 + i % 2, 4 + i, 9, 20, 6 + i)) if i % 2 else mask_with() for i in range(20)]
    data = ArrayDataset(masks, [f"part{i}" for i in range(20)])
    return pick_calibration_set(data, CalibrationRecipe(tiles=10, candidates=20, strata=("class",)), 64)


def find(engines: Engines, chosen: CalibrationSet, cache: Path, **changes: str) -> tuple[Ranging, Seen]:
    phases: Seen = []
    options = {"weights_sha256": "0" * 64, "method": "auto", **changes}
    found = find_ranges(
        engines,
        options["weights_sha256"],
        chosen,
        np.stack(list(chosen.tiles())),
        options["method"],
        cache,
        lambda phase, *_: phases.append(phase),
    )
    return found, list(dict.fromkeys(phases))


MEASURED = ["observing activations", "comparing methods"]


@dataclass(frozen=True)
class Kept:
    """What the first search found, and the cache that it left."""

    found: Ranging
    phases: Seen
    cache: Path

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.cache, to / "cache"))


@pytest.fixture(scope="module")
def first(engines: Engines, chosen: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    cache = tmp_path_factory.mktemp("calibrations")
    return Kept(*find(engines, chosen, cache), cache)


def test_the_winner_overlaps_most_with_float(engines: Engines, chosen: CalibrationSet, first: Kept) -> None:
    found = first.found
    assert first.phases == MEASURED
    assert not found.reused
    assert set(found.methods) == set(METHODS)
    report = methods_report(found)
    row = report["methods"][report["method"]]
    assert (row["mask_iou"], row["pixels"]) == max((r["mask_iou"], r["pixels"]) for r in found.methods.values())
    tiles = np.stack(list(chosen.tiles()))
    wanted, ours = engines.reference().predict(tiles).classes, engines.quantised(found.ranges).predict(tiles).classes
    both, either = ((wanted > 0) & (ours > 0)).sum(), ((wanted > 0) | (ours > 0)).sum()
    assert row["mask_iou"] == pytest.approx(100 * both / either)
    assert row["pixels"] == pytest.approx(100 * (wanted == ours).mean())


def test_it_is_reused_with_its_table_where_all_agrees(engines: Engines, chosen: CalibrationSet, first: Kept) -> None:
    again, phases = find(engines, chosen, first.cache)
    assert phases == []
    assert again.reused
    assert again.note == "calibration reused"
    assert (again.calibration, again.methods) == (first.found.calibration, first.found.methods)


def test_it_is_measured_again_where_anything_differs(
    engines: Engines, chosen: CalibrationSet, first: Kept, tmp_path: Path
) -> None:
    cache = first.copy(tmp_path)
    found, phases = find(engines, chosen, cache, method="entropy")
    assert phases == ["observing activations"]
    assert methods_report(found)["method"] == "entropy"
    assert found.methods == {}
    assert found.note.startswith("calibrated, since nothing is kept in ")
    assert find(engines, chosen, cache, method="entropy", weights_sha256="1" * 64)[1] == ["observing activations"]
    other = replace(chosen, entries=chosen.entries[:-1])
    assert find(engines, other, cache, method="entropy")[1] == ["observing activations"]
    assert find(engines, chosen, cache, method="entropy")[1] == []
    # The same weights and names of tensors, as after a change of the network's own source.
    pair = OnnxPair(*(copy.deepcopy(model) for model in (engines.pair.localization, engines.pair.confidence)))
    (middle,) = (t for t in pair.localization.graph.initializer if t.name == "preprocess/centre.constant1")
    middle.CopyFrom(numpy_helper.from_array(np.array(64.0, np.float32), middle.name))
    changed, phases = find(engines.of(pair), chosen, cache, method="entropy")
    assert phases == ["observing activations"]
    assert changed.ranges != found.ranges


def test_what_was_edited_is_refused(engines: Engines, chosen: CalibrationSet, first: Kept, tmp_path: Path) -> None:
    cache = first.copy(tmp_path)
    (kept,) = [path for path in cache.iterdir() if not path.name.endswith(".methods.json")]
    kept.write_text(kept.read_text().replace('"count": ', '"count": 1', 1))
    with pytest.raises(BadArtifact, match="damaged or was edited"):
        find(engines, chosen, cache)


def test_a_calibration_of_other_tensors_is_measured_again(
    engines: Engines, chosen: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(engines, chosen, tmp_path, method="mse")
    monkeypatch.setattr(engines, "quantised_tensors", lambda: {"another/tensor"})
    found, phases = find(engines, chosen, tmp_path, method="mse")
    assert phases == ["observing activations"]
    assert "is of other tensors" in found.note


@pytest.mark.parametrize("table", [None, '{"calibration": "0", "methods": {"mse": {}}}', "{"])
def test_a_table_that_is_gone_or_of_another_is_made_again(
    table: str | None, engines: Engines, chosen: CalibrationSet, first: Kept, tmp_path: Path
) -> None:
    cache = first.copy(tmp_path)
    (path,) = cache.glob("*.methods.json")
    path.unlink() if table is None else path.write_text(table)
    again, phases = find(engines, chosen, cache)
    assert phases == ["comparing methods"]
    assert again.methods == first.found.methods
    assert find(engines, chosen, cache)[1] == []


def test_every_tile_is_observed_once(small: Exported) -> None:
    """A batch that is not full counts what it holds, and the histograms are those of the tensors themselves."""
    told: list[tuple[int, int]] = []

    def tiles() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        yield from small.tiles[:11]

    found = observe(small.pair, tiles(), 11, lambda done, total: told.append((done, total)))
    assert told == [(8, 11), (11, 11)]
    pixels = Histogram("pixels")
    pixels.update((small.tiles[:11].astype(np.float32) - 128) / 127)
    assert found["stage1/stem/relu"].count == 11 * 8 * 32 * 32
    assert found["preprocess/normalise"].count == 2 * 11 * 64 * 64, "both stages have one of this name"
    assert found["preprocess/normalise"].maximum == pytest.approx(pixels.maximum)
    assert found["preprocess/normalise"].minimum == pytest.approx(pixels.minimum)


def test_batches_hold_every_tile_in_order() -> None:
    tiles = [np.full((2, 2), i, np.uint8) for i in range(7)]
    assert [batch[:, 0, 0].tolist() for batch in batches(iter(tiles), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
