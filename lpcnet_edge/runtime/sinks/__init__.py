"""Where verdicts go: ``with open_sinks(settings, classes) as sinks: sinks.write(item, verdict, class_map)``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from lpcnet_edge.errors import SinkFailed
from lpcnet_edge.runtime.framing import Region
from lpcnet_edge.runtime.sinks.base import Sink, encode_line, record_line
from lpcnet_edge.runtime.sinks.lines import CsvSink, JsonlSink, frames_written
from lpcnet_edge.runtime.sinks.pictures import CallbackSink, MaskSink, OverlaySink, draw_verdict
from lpcnet_edge.runtime.sinks.runner import SinkRunner
from lpcnet_edge.runtime.sinks.settings import DeliverySettings, SinkSettings
from lpcnet_edge.runtime.sinks.sqlite import SqliteSink
from lpcnet_edge.runtime.sources.frame import Item
from lpcnet_edge.types import ClassMap, Verdict

log = logging.getLogger(__name__)

__all__ = [
    "CallbackSink",
    "CsvSink",
    "DeliverySettings",
    "JsonlSink",
    "MaskSink",
    "OverlaySink",
    "Sink",
    "SinkRunner",
    "SinkSettings",
    "Sinks",
    "SqliteSink",
    "draw_verdict",
    "encode_line",
    "frames_written",
    "open_sinks",
    "record_line",
]


class Sinks:
    """Several sinks, each behind its own :class:`SinkRunner`; one that fails stops neither the others nor the line."""

    def __init__(self, sinks: Sequence[Sink], settings: DeliverySettings | None = None) -> None:
        self.runners = [SinkRunner(sink, settings) for sink in sinks]

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        """Hand the verdict on one frame to all; the arrays must not be written to afterwards."""
        for runner in self.runners:
            runner.write(item, verdict, classes)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all is written; False where a sink fails or the time is up."""
        return all([runner.flush(timeout_s) for runner in self.runners])

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """By the sink's name, see :meth:`SinkRunner.counters`."""
        return {runner.sink.name: runner.counters() for runner in self.runners}

    def close(self) -> None:
        """Close all; then raise one ``SinkFailed`` for all that have not written everything. Twice is fine."""
        failures = []
        for runner in self.runners:
            try:
                runner.close()
            except SinkFailed as exc:
                failures.append(exc)
        if failures:
            raise SinkFailed("; ".join(exc.message for exc in failures), mend=failures[0].mend) from failures[0]

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SinkFailed as exc:
            if error is None:
                raise
            log.error("%s", exc)  # what ended the run goes on up


def open_sinks(
    settings: SinkSettings,
    classes: Sequence[str],
    *,
    region: Region | None = None,
    by_source: bool = False,
    callback: Callable[[Item, Verdict, ClassMap | None], None] | None = None,
    extra: Sequence[Sink] = (),
) -> Sinks:
    """Open every sink that the settings name, and those given; raises ``SinkFailed`` for one that cannot be.

    Parameters
    ----------
    settings
        Files and folders.
    classes
        Class names by index, for the colours of overlays.
    region
        What class maps stand for where frames are resized and not all of a frame is inspected.
    by_source
        Whether pictures go into a folder by the name of their source, where frames of several may be called alike.
    callback
        Called once per frame from a thread of its own.
    extra
        Sinks of your own.
    """
    sinks: list[Sink] = []
    try:
        if settings.jsonl is not None:
            sinks.append(JsonlSink(settings.jsonl))
        if settings.csv is not None:
            sinks.append(CsvSink(settings.csv))
        if settings.sqlite is not None:
            sinks.append(SqliteSink(settings.sqlite))
        if settings.masks is not None:
            sinks.append(MaskSink(settings.masks, by_source=by_source))
        if settings.overlays is not None:
            picture, of = settings.overlay_format, settings.overlay_of
            sinks.append(
                OverlaySink(settings.overlays, classes, picture=picture, of=of, region=region, by_source=by_source)
            )
        if callback is not None:
            sinks.append(CallbackSink(callback))
    except SinkFailed:
        for sink in sinks:
            sink.close()
        raise
    return Sinks([*sinks, *extra], settings.delivery)
