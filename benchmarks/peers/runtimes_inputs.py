"""What runtimes.py measures with: image files, the network in the form that each runtime takes, and the gate."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from runtimes_graph import host_normalised, joined
from runtimes_loops import Job

from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.bench.frames import SEED
from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle
from lpcnet_edge.datasets import open_dataset, with_fold
from lpcnet_edge.datasets.base import FileDataset
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.errors import BadData, LpcnetError, UsageError
from lpcnet_edge.imaging import read_image
from lpcnet_edge.runtime.gate_calibration import calibrate_bundle
from lpcnet_edge.runtime.sources.images import list_images
from lpcnet_edge.types import Sample

DEFECTIVE = 0.05
STAGES = ("localization", "confidence")
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90]


class JpegFabric(CarbonFabric):
    """Generated fabric as its JPEG files show it."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        data = cv2.imencode(".jpg", sample.image, JPEG)[1]
        return replace(sample, image=np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8))


@dataclass(frozen=True)
class Workload:
    """Image files in a folder of their own, in order."""

    name: str
    files: tuple[Path, ...]
    says: str


def generated(folder: Path, *, count: int, size_px: tuple[int, int], name: str) -> Workload:
    """JPEG files of carbon fabric, (height, width) px."""
    share = DEFECTIVE if count > 1 else 1.0
    fabric = CarbonFabric(count, SEED, size=size_px, defect_share=share)
    folder.mkdir()
    files, defective = [], 0
    for number in range(count):
        sample = fabric.read(number)
        defective += bool(sample.mask.any())
        files.append(folder / f"{number:05}.jpg")
        cv2.imwrite(str(files[-1]), sample.image, JPEG)
    says = (
        f"{count} of generated carbon fabric (seed {SEED}), {size_px[1]} x {size_px[0]} px, {defective} with defects, "
        f"JPEG of quality {JPEG[1]}"
    )
    return Workload(name, tuple(files), says)


def given(bundle: Bundle, folder: Path, data: str, fold: str | None, count: int) -> Workload:
    """Files of a dataset, or of any folder, spread over it."""
    try:
        dataset = open_dataset(data)
    except LpcnetError:
        if fold is not None or not Path(data).is_dir():
            raise
        paths = [Path(data, name) for name in list_images(data, recursive=True)]
        name = Path(data).name
    else:
        if fold is not None:
            dataset = with_fold(dataset, {fold})
        if not isinstance(dataset, FileDataset):
            raise UsageError(f"{dataset.name} has no files", mend="leave --data out for generated fabric")
        paths, name = [dataset.image_path(index) for index in range(len(dataset.entries))], dataset.name
    if not paths:
        raise BadData(f"{data} holds no images", mend="give a folder with images")
    chosen = sorted({round(place) for place in np.linspace(0, len(paths) - 1, min(count, len(paths)))})
    folder.mkdir()
    files = []
    for number, index in enumerate(chosen):
        read_image(paths[index], bundle.manifest.channels)  # one that cannot be read is told now
        files.append(folder / f"{number:05}{paths[index].suffix}")
        shutil.copyfile(paths[index], files[-1])
    return Workload("frames", tuple(files), f"{len(files)} of the {len(paths)} images of {name}")


def jobs_of(bundle: Bundle, folder: Path) -> dict[str, Job]:
    """By precision, the float one first: the files that peers take, and the bundle that we do."""
    manifest = bundle.manifest
    own = manifest.precision
    pairs = {own: [bundle.read(manifest.stages[stage].file) for stage in STAGES]}
    bundles = {own: bundle.path}
    references = [f"reference/{stage}.onnx" for stage in STAGES]
    if own != "fp32" and all(name in manifest.files for name in references):
        pairs = {"fp32": [bundle.read(name) for name in references], **pairs}
        stages: dict[str, Any] = {
            stage: replace(manifest.stages[stage], file=f"{stage}.onnx", precision="fp32", float_layers=())
            for stage in STAGES
        }
        plain = replace(manifest, precision="fp32", gate=GateSpec(), files={}, **stages)
        bundles["fp32"] = folder / "fp32"
        write_bundle(folder / "fp32", plain, {f"{stage}.onnx": pairs["fp32"][n] for n, stage in enumerate(STAGES)})
    jobs: dict[str, Job] = {}
    for precision, pair in pairs.items():
        model = joined(*pair)
        place = folder / f"joined-{precision}.onnx"
        place.write_bytes(model.SerializeToString())
        hosted = folder / f"hosted-{precision}.onnx"
        hosted.write_bytes(host_normalised(model).SerializeToString())
        jobs[precision] = Job(
            files=(),
            model=place,
            hosted=hosted,
            bundle=bundles[precision].resolve(),
            tile_px=manifest.tile_px,
            channels=manifest.channels,
            classes=manifest.classes,
            rules=manifest.rules,
            threads=len(os.sched_getaffinity(0)),
        )
    return jobs


def gate_of(bundle: Bundle, asked: float | None, *, fabric: bool, frames: int) -> tuple[float | None, str]:
    """The gate's threshold and where it comes from."""
    gate = bundle.manifest.gate
    if asked is not None:
        return asked, f"The gate's threshold, {asked:g}, was given: nothing is promised for it."
    if gate.threshold is not None:
        return gate.threshold, f"The gate is the bundle's: alpha {gate.alpha:g}, {gate.parts} parts."
    if not fabric:
        return None, "The bundle has no gate, and none was given."
    backend = open_backend(bundle, "openvino")
    try:
        found = calibrate_bundle(bundle, backend, JpegFabric(frames, seed=SEED + 1))
    finally:
        backend.close()
    return found.threshold, f"The gate was calibrated for this run: alpha {found.alpha:g}, {found.parts} parts."
