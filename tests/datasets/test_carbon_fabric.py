from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcnet_edge.datasets.carbon_fabric import GENERATOR_VERSION, MIN_DEFECT_PX, CarbonFabric
from lpcnet_edge.datasets.fabric_camera import WIDEST_GAP_PX, render
from lpcnet_edge.datasets.fabric_plan import (
    BROKEN_TOW,
    CLASSES,
    FUZZ_BALL,
    GAP,
    WRINKLE,
    FabricSettings,
    plan_frame,
)
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import Sample

DEFECTS = range(1, len(CLASSES))


@pytest.fixture(scope="module")
def fabric() -> CarbonFabric:
    return CarbonFabric(120, seed=11)


@pytest.fixture(scope="module")
def samples(fabric: CarbonFabric) -> list[Sample]:
    return [fabric.read(index) for index in range(len(fabric))]


def of_class(samples: list[Sample], kind: int) -> list[Sample]:
    return [sample for sample in samples if sample.entry.label == kind]


def count_pieces(mask: np.ndarray, kind: int) -> int:
    """Connected pieces of a class."""
    return cv2.connectedComponents((mask == kind).astype(np.uint8), connectivity=8)[0] - 1


def test_the_same_seed_gives_the_same_bytes(fabric: CarbonFabric, samples: list[Sample]) -> None:
    for index in (0, 7, 31):
        again = CarbonFabric(40, seed=11).read(index)
        assert again.image.tobytes() == samples[index].image.tobytes()
        assert again.mask.tobytes() == samples[index].mask.tobytes()
        assert again.entry == samples[index].entry


def test_reading_order_does_not_matter() -> None:
    one, other = CarbonFabric(3, seed=2), CarbonFabric(3, seed=2)
    forward = [one.read(i).image for i in range(3)]
    backward = [other.read(i).image for i in (2, 1, 0)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_no_two_frames_are_alike(samples: list[Sample]) -> None:
    assert len({hashlib.sha256(sample.image.tobytes()).digest() for sample in samples}) == len(samples)
    assert not np.array_equal(samples[0].image, CarbonFabric(1, seed=12).read(0).image)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(128, 420), width=st.integers(128, 420), seed=st.integers(0, 2**40), index=st.integers(0, 10**6)
)
def test_any_size_gives_an_image_and_its_mask(height: int, width: int, seed: int, index: int) -> None:
    chosen = FabricSettings(height_px=height, width_px=width, defect_share=1.0)
    image, mask = render(chosen, seed, index)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8
    planned = {defect.kind for defect in plan_frame(chosen, seed, index).defects}
    assert set(np.unique(mask)) - {0} <= planned
    label = plan_frame(chosen, seed, index).label
    assert np.count_nonzero(mask == label) >= MIN_DEFECT_PX


def test_every_label_agrees_with_its_mask(samples: list[Sample]) -> None:
    for sample in samples:
        if sample.entry.label:
            assert np.count_nonzero(sample.mask == sample.entry.label) >= MIN_DEFECT_PX, sample.entry.name
        else:
            assert not sample.mask.any(), sample.entry.name


def test_classes_are_balanced_without_drawing() -> None:
    labels = [entry.label for entry in CarbonFabric(2000, seed=5).entries]
    assert np.bincount(labels).tolist() == [1000, 200, 200, 200, 200, 200]
    uneven = np.bincount([entry.label for entry in CarbonFabric(2000, seed=5, defect_share=0.3).entries])
    assert abs(uneven[0] - 1400) <= 40
    assert all(abs(count - 120) <= 40 for count in uneven[1:])


def test_entries_tell_part_weave_and_light(fabric: CarbonFabric) -> None:
    assert len({entry.name for entry in fabric.entries}) == len(fabric)
    assert fabric.entries[3].part == "fabric-11-3"
    assert {entry.strata["weave"] for entry in fabric.entries} == {"twill", "plain"}
    assert {entry.strata["light"] for entry in fabric.entries} == {"raking", "ring", "dome"}


def undamaged_share(fabric: CarbonFabric, index: int, sample: Sample) -> float:
    """Share of a defect's pixels that look as they do without it: fabric that shows through its gaps."""
    twin, empty = render(replace(fabric.settings, defect_share=0.0), fabric.seed, index)
    assert not empty.any()
    difference = np.abs(sample.image.astype(np.int16) - twin).max(axis=2)
    return float((difference[sample.mask == sample.entry.label] <= 8).mean())


def test_fine_gaps_belong_to_their_defect(fabric: CarbonFabric, samples: list[Sample]) -> None:
    """The mask has no slit or hole narrower than the widest gap, though intact fabric shows inside it."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (WIDEST_GAP_PX - 3, WIDEST_GAP_PX - 3))
    for sample in samples:
        own = (sample.mask == sample.entry.label).astype(np.uint8)
        if sample.entry.label:
            closed = cv2.morphologyEx(own, cv2.MORPH_CLOSE, kernel) & (sample.mask == 0)
            assert np.count_nonzero(closed & ~own & 1) < 0.06 * np.count_nonzero(own), sample.entry.name


@pytest.mark.parametrize("kind", [BROKEN_TOW, FUZZ_BALL, GAP, WRINKLE])
def test_intact_fabric_shows_inside_defects(fabric: CarbonFabric, samples: list[Sample], kind: int) -> None:
    chosen = [(i, s) for i, s in enumerate(samples) if s.entry.label == kind][:8]
    assert np.median([undamaged_share(fabric, i, s) for i, s in chosen]) > 0.05


def test_most_defects_are_one_piece(samples: list[Sample]) -> None:
    for kind in DEFECTS:
        pieces = [count_pieces(sample.mask, kind) for sample in of_class(samples, kind)]
        assert np.mean(np.array(pieces) <= 2) >= 0.8, CLASSES[kind]


def test_a_defect_changes_its_pixels_and_nothing_far_away(fabric: CarbonFabric, samples: list[Sample]) -> None:
    changed: dict[int, list[float]] = {kind: [] for kind in DEFECTS}
    undamaged = replace(fabric.settings, defect_share=0.0)
    for index, sample in itertools.islice(((i, s) for i, s in enumerate(samples) if s.entry.label), 40):
        twin, _ = render(undamaged, fabric.seed, index)
        difference = np.abs(sample.image.astype(np.int16) - twin).max(axis=2)
        far = cv2.distanceTransform((sample.mask == 0).astype(np.uint8), cv2.DIST_L2, 3) > 60
        assert not difference[far].any(), sample.entry.name
        changed[sample.entry.label].append(float((difference[sample.mask == sample.entry.label] > 8).mean()))
    for kind in DEFECTS:
        assert min(changed[kind]) > 0.4, CLASSES[kind]
        assert np.median(changed[kind]) > 0.55, CLASSES[kind]


def test_swapped_channels_would_show(samples: list[Sample]) -> None:
    blue, red = (np.array([sample.image[..., c].mean() for sample in samples]) for c in (0, 2))
    assert np.mean(red > blue) > 0.75
    # Tracer tows: colour that neither the light nor the noise explains.
    spread = [np.ptp(cv2.blur(sample.image, (3, 3)).astype(np.int16), axis=2) for sample in samples]
    assert np.mean([(chroma > 40).mean() > 0.005 for chroma in spread]) > 0.6


def test_a_large_frame_has_the_same_weave_and_few_defects() -> None:
    settings_ = FabricSettings(height_px=2048, width_px=2448, defect_share=1.0)
    image, mask = render(settings_, 4, 1)
    assert image.shape == (2048, 2448, 3)
    assert np.count_nonzero(mask) >= MIN_DEFECT_PX
    tiles = mask[:2048, :2304].reshape(8, 256, 9, 256).any(axis=(1, 3))
    assert tiles.mean() < 0.12
    small = plan_frame(replace(settings_, height_px=256, width_px=256), 4, 1)
    assert plan_frame(settings_, 4, 1).tow_px == small.tow_px


def test_a_frame_can_be_crowded() -> None:
    crowded = FabricSettings(height_px=700, width_px=700, defect_share=1.0, mean_extra_defects=6.0, max_defects=5)
    counts = [len(plan_frame(crowded, 1, index).defects) for index in range(50)]
    assert max(counts) == 5
    assert np.mean(counts) > 3


def test_a_selection_keeps_its_frames_and_changes_the_digest(fabric: CarbonFabric, samples: list[Sample]) -> None:
    chosen = fabric.select([5, 2]).select([1])
    assert [entry.name for entry in chosen.entries] == ["fabric-11-2"]
    assert np.array_equal(chosen.read(0).image, samples[2].image)
    assert len(fabric.entries) == 120


def test_the_digest_follows_everything_that_decides_the_pixels() -> None:
    base = CarbonFabric(10, seed=1)
    others = [
        CarbonFabric(11, seed=1),
        CarbonFabric(10, seed=2),
        CarbonFabric(10, seed=1, size=300),
        CarbonFabric(10, seed=1, defect_share=0.4),
        base.select(range(9)),
        base.select([1, 0, *range(2, 10)]),
    ]
    digests = {dataset.digest() for dataset in (base, *others)}
    assert len(digests) == len(others) + 1
    assert CarbonFabric(10, seed=1).digest() == base.digest()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height_px", 100),
        ("width_px", 9000),
        ("width_px", 256.0),
        ("tow_px", (22.0, 12.0)),
        ("tow_px", 15.0),
        ("rotation_deg", 45.0),
        ("plain_share", -0.1),
        ("tracer_share", float("nan")),
        ("defect_share", 1.5),
        ("defect_share", "half"),
        ("mean_extra_defects", -1.0),
        ("max_defects", 0),
    ],
)
def test_a_bad_setting_is_named(name: str, value: object) -> None:
    with pytest.raises(BadConfig, match=name) as caught:
        FabricSettings(**{name: value})  # type: ignore[arg-type]
    assert caught.value.mend


def test_a_bad_count_or_seed_is_named() -> None:
    for count in (0, 99_999_999_999):
        with pytest.raises(BadConfig, match=f"count is {count}"):
            CarbonFabric(count)
    with pytest.raises(BadConfig, match="seed is -1"):
        CarbonFabric(3, seed=-1)


# Version, then per frame: label, mask pixels, and the image's mean by channel (B, G, R). Raise GENERATOR_VERSION with
# any change of these numbers. Means and areas rather than hashes: another CPU may round a pixel otherwise.
GOLDEN = (
    1,
    [
        (0, 0, (69.14, 72.6, 78.77)),
        (4, 523, (74.58, 85.41, 90.25)),
        (2, 1766, (68.26, 79.91, 83.13)),
        (1, 1316, (78.7, 88.15, 94.74)),
        (4, 645, (46.82, 56.44, 60.02)),
        (0, 0, (55.5, 56.5, 58.86)),
        (1, 1832, (46.69, 52.82, 58.93)),
        (3, 502, (58.02, 65.72, 67.01)),
    ],
)


def test_the_output_changes_only_with_the_version() -> None:
    version, frames = GOLDEN
    assert version == GENERATOR_VERSION
    dataset = CarbonFabric(len(frames), seed=2025, defect_share=0.75)
    for index, (label, area_px, means) in enumerate(frames):
        sample = dataset.read(index)
        assert sample.entry.label == label
        assert abs(np.count_nonzero(sample.mask) - area_px) <= 3
        np.testing.assert_allclose(sample.image.mean(axis=(0, 1)), means, atol=0.02)
