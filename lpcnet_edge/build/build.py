"""The whole way: trained weights to a bundle of engines that decide as the float network did."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lpcnet_edge.build.calibration_file import calibration_json
from lpcnet_edge.build.calibration_set import CalibrationSet, pick_calibration_set
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.float_onnx import float_pair
from lpcnet_edge.build.golden import golden_files
from lpcnet_edge.build.half import to_half
from lpcnet_edge.build.judging import Judge, Judgement
from lpcnet_edge.build.lint import lint_tiles
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.parity import check_parity
from lpcnet_edge.build.provenance import fine_tune, made_from
from lpcnet_edge.build.qat import Candidate, tune
from lpcnet_edge.build.ranging import find_ranges, methods_report
from lpcnet_edge.build.report import as_json, curve, curve_png, lasting, summary
from lpcnet_edge.build.restore import Step, kept_sensitivity, multiply_adds, restore
from lpcnet_edge.build.settings import BuildResult, BuildSettings, Progress
from lpcnet_edge.bundle.cache import build_cache
from lpcnet_edge.bundle.manifest import Manifest, StageSpec, check_bundle_name, check_classes
from lpcnet_edge.bundle.model import tensor_specs
from lpcnet_edge.bundle.names import printable
from lpcnet_edge.bundle.write import check_out, write_bundle
from lpcnet_edge.datasets.remembered import Remembered
from lpcnet_edge.errors import BadData, BadWeights, BuildFailed, UsageError
from lpcnet_edge.machine import multiplies_bfloat16
from lpcnet_edge.network.weights import load_network, weights_path
from lpcnet_edge.types import Dataset, Segmenter

PARITY_TILES = 32
SENSITIVITY_TILES = 16

_HALF_NOTE = "FP16 was measured on the CPU: its weights rounded to float16, its activations in {}"

JudgeFactory = Callable[[Segmenter, Progress], Judge]
"""From the float reference to what measures candidates against it on the check split."""


def build_bundle(
    weights: str | Path,
    calibration_data: Dataset,
    out: Path,
    settings: BuildSettings,
    make_judge: JudgeFactory,
    progress: Progress,
) -> BuildResult:
    """Export, check parity, calibrate, quantise, tune or restore where needed, measure, and write the bundle.

    Parameters
    ----------
    weights
        Shipped name, or a ``.safetensors`` or ``.pt`` file of this network.
    calibration_data
        What the calibration set is picked from, and what a fine-tune trains on; nothing of the check split.
    out
        The bundle's folder; a bundle that stands there is replaced at the very end, or not at all.
    make_judge
        Given the float reference, returns the measure on the check split.

    Raises
    ------
    BuildFailed
        Parity with torch is broken, or no INT8 form decides as float did.
    BadWeights
        The weights cannot be used, or no bundle may have their classes.
    BadData
        The calibration set is refused by lint, or its images have other channels than the network takes, or a
        fine-tune would train on other classes than the network has.
    UsageError
        No bundle may be called as ``out`` is.
    And whatever reading weights, data and bundle raises.
    """
    watch = _Watch(progress)
    progress = watch
    progress("loading", 0, 1)
    check_out(out, sign_with=settings.sign_with)  # before an hour's work, not after it
    _check_name(out)
    network = load_network(weights)
    _check_classes(weights, network.classes)
    settings.rules.check_classes(network.classes)
    if calibration_data.channels != network.channels:
        raise BadData(
            f"{calibration_data.name} has {calibration_data.channels} channel(s), the network {weights} takes "
            f"{network.channels}",
            mend="take weights that were trained on such images; a folder or a COCO file can be read as the network "
            f"takes it, with --channels {network.channels}",
        )
    if settings.qat is not None and calibration_data.classes != network.classes:
        raise BadData(
            f"{calibration_data.name} to fine-tune on has the classes {', '.join(calibration_data.classes)}; the "
            f"network {weights} has {', '.join(network.classes)}",
            mend="name data of these classes, in this order, or leave --qat out",
        )
    calibration_data = Remembered(calibration_data)
    digest = hashlib.sha256(weights_path(weights).read_bytes()).hexdigest()
    progress("exporting", 0, 1)
    pair, exported = float_pair(network, digest, build_cache("exports"))
    engines = Engines(
        pair,
        classes=network.classes,
        channels=network.channels,
        tile_px=network.tile_px,
        backend=settings.backend,
        batch=settings.batch,
        cache=build_cache("compiled") if settings.backend == "openvino" else None,
    )
    recipe = settings.recipe_for(len(calibration_data.entries))
    chosen = pick_calibration_set(
        calibration_data, recipe, network.tile_px, lambda d, t: progress("picking calibration tiles", d, t)
    )
    tiles = _linted(chosen, calibrating=settings.precision == "int8")
    progress("checking parity", 0, 1)
    parity = check_parity(network, engines.reference(), tiles[:PARITY_TILES])
    judge = make_judge(engines.reference(), progress)
    notes = [exported]
    report: dict[str, Any] = {"parity": asdict(parity)}
    files: dict[str, bytes] = {}
    steps: list[Step] = []
    final, keep_float = pair, tuple[str, ...]()
    if settings.precision == "int8":
        ranging = find_ranges(engines, digest, chosen, tiles, settings.method, build_cache("calibrations"), progress)
        notes.append(ranging.note)
        int8 = Candidate(engines, ranging.calibration, _judged(engines, ranging.ranges, (), judge))
        if settings.qat is not None:
            int8 = tune(
                network,
                int8,
                calibration_data,
                judge,
                settings.qat,
                max_drop=settings.max_drop,
                tiles=tiles[:PARITY_TILES],
                progress=progress,
            )
            notes.append(int8.note)
            report["qat"] = int8.report
        steps = _hold(int8, tiles, judge, settings, build_cache("sensitivity"), progress)
        keep_float = steps[-1].restored
        final = int8.engines.quantised_pair(int8.ranges, keep_float)
        judgement = steps[-1].judgement
        report |= methods_report(ranging)
        report["restore"] = curve(steps, settings.max_drop)
        files["calibration.json"] = calibration_json(int8.calibration).encode()
        files["restore.png"] = curve_png(steps, settings.max_drop)
    else:
        judgement = _measured(engines, settings, judge)
        if settings.precision == "fp16":
            narrow = settings.backend == "openvino" and multiplies_bfloat16()
            notes.append(_HALF_NOTE.format("bfloat16" if narrow else "float32"))
    report["check"] = dict(judgement.report)
    models = {"localization": final.localization, "confidence": final.confidence}
    stages = {f"{name}.onnx": model.SerializeToString() for name, model in models.items()}
    progress("recording golden tiles", 0, 1)
    files |= stages | golden_files(stages, tiles)
    files |= {f"reference/{name}.onnx": m.SerializeToString() for name, m in _named(pair).items()}
    files["accuracy.json"] = as_json(lasting(report))
    files["calibration-set.json"] = as_json(chosen.to_manifest())
    if settings.plans:
        notes += _plans(settings, models, files, progress)
    manifest = Manifest(
        name=out.name,
        classes=network.classes,
        channels=1 if network.channels == 1 else 3,
        tile_px=network.tile_px,
        precision=settings.precision,
        localization=_stage("localization", final.localization, settings, keep_float),
        confidence=_stage("confidence", final.confidence, settings, keep_float),
        rules=settings.rules,
        provenance=printable(made_from(weights, digest, chosen, calibration_data, settings) | fine_tune(report)),
        accuracy=summary(judgement),
    )
    progress("writing", 0, 1)
    bundle = write_bundle(out, manifest, files, sign_with=settings.sign_with)
    phases = watch.seconds()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return BuildResult(
        bundle, report, sum(phases.values()), rss, phases, keep_float, tuple(note for note in notes if note)
    )


def _check_name(out: Path) -> None:
    try:
        check_bundle_name(out.name)
    except ValueError as exc:
        raise UsageError(f"{out}: {exc}", mend="give another --out: the folder's name becomes the bundle's") from exc


def _check_classes(weights: str | Path, classes: Sequence[str]) -> None:
    try:
        check_classes(classes)
    except ValueError as exc:
        raise BadWeights(f"{weights}: {exc}", mend="train with class names that can be printed") from exc


class _Watch:
    """Passes progress on, and measures how long each phase took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._marks: list[tuple[str, float]] = []

    def __call__(self, phase: str, done: int, total: int) -> None:
        if not self._marks or self._marks[-1][0] != phase:
            self._marks.append((phase, time.monotonic()))
        self._progress(phase, done, total)

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, up to now."""
        found: dict[str, float] = {}
        ends = [at for _, at in self._marks[1:]] + [time.monotonic()]
        for (phase, start), end in zip(self._marks, ends, strict=True):
            found[phase] = found.get(phase, 0.0) + end - start
        return found


def _judged(engines: Engines, ranges: Mapping[str, float], keep_float: tuple[str, ...], judge: Judge) -> Judgement:
    candidate = engines.quantised(ranges, keep_float)
    found = judge(candidate)
    candidate.close()
    return found


def _measured(engines: Engines, settings: BuildSettings, judge: Judge) -> Judgement:
    """Float as it is; or the float16-typed pair, which must decide as float did."""
    if settings.precision == "fp32":
        return judge(engines.reference())
    candidate = engines.compile(OnnxPair(*(to_half(m) for m in _named(engines.pair).values())))
    found = judge(candidate)
    candidate.close()
    if broken := found.broken(settings.max_drop):
        raise BuildFailed(
            f"FP16 does not decide as float did: {'; '.join(broken)}",
            mend="build with --fp32, or allow more with --max-drop",
        )
    return found


def _hold(
    int8: Candidate,
    tiles: NDArray[np.uint8],
    judge: Judge,
    settings: BuildSettings,
    cache: Path,
    progress: Progress,
) -> list[Step]:
    """INT8 throughout if it holds, else with layers restored; the last step is the one that holds."""
    first, engines, ranges = int8.judgement, int8.engines, int8.ranges
    costs = multiply_adds(engines.pair.localization) | multiply_adds(engines.pair.confidence)
    if not first.broken(settings.max_drop):
        return [Step((), 1.0, first)]
    order = kept_sensitivity(
        engines.pair, ranges, tiles[:SENSITIVITY_TILES], cache, lambda d, t: progress("measuring sensitivity", d, t)
    )
    return restore(
        list(order),
        costs,
        lambda kept: _judged(engines, ranges, kept, judge),
        settings.max_drop,
        first,
        tuned=settings.qat is not None,
    )


def _linted(chosen: CalibrationSet, *, calibrating: bool) -> NDArray[np.uint8]:
    """The set's tiles, unless lint refuses them; too few only where ranges are found with them."""
    tiles = list(chosen.tiles())
    refused = [finding for finding in lint_tiles(tiles) if finding.severity == "refuse"]
    refused = [finding for finding in refused if calibrating or finding.kind != "too_few"]
    if refused:
        raise BadData(f"the calibration set is refused: {refused[0].message}", mend=refused[0].mend)
    return np.stack(tiles)


def _plans(
    settings: BuildSettings,
    models: Mapping[str, onnx.ModelProto],
    files: dict[str, bytes],
    progress: Progress,
) -> list[str]:
    from lpcnet_edge.build.plans import StageOnnx, build_plans

    half = settings.precision != "fp32"
    stages = {
        name: StageOnnx(files[f"{name}.onnx"], to_half(model).SerializeToString() if half else None)
        for name, model in models.items()
    }
    notes: list[str] = []
    for module, capabilities in settings.plans.items():
        built = build_plans(
            stages,
            module=module,
            compute_capabilities=capabilities or None,
            timing_caches=build_cache("timing"),
            progress=_relay(module, progress),
        )
        files |= built.files
        notes += built.notes
    return notes


def _relay(module: str, progress: Progress) -> Callable[[float, str], None]:
    return lambda share, phase: progress(f"{module}: {phase}", round(100 * share), 100)


def _named(pair: OnnxPair) -> dict[str, onnx.ModelProto]:
    return {"localization": pair.localization, "confidence": pair.confidence}


def _stage(name: str, model: onnx.ModelProto, settings: BuildSettings, keep_float: tuple[str, ...]) -> StageSpec:
    return StageSpec(
        file=f"{name}.onnx",
        precision=settings.precision,
        inputs=tensor_specs(model.graph.input),
        outputs=tensor_specs(model.graph.output),
        float_layers=tuple(layer for layer in keep_float if any(node.name == layer for node in model.graph.node)),
    )
