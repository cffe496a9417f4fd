"""One run from end to end: bundle, backend, sources and pipeline opened together, results in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from threading import Condition
from types import TracebackType
from typing import Any

import cv2

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.isolated import IsolatedBackend
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.config import from_mapping, suggest
from lpcnet_edge.errors import BadConfig, UsageError
from lpcnet_edge.runtime.bulk import BulkRun
from lpcnet_edge.runtime.framing import check_mask
from lpcnet_edge.runtime.inbox import Inbox
from lpcnet_edge.runtime.live import LiveRun
from lpcnet_edge.runtime.parts import PartJoiner
from lpcnet_edge.runtime.pipeline import Pipeline, Result
from lpcnet_edge.runtime.room import Room
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sources import Source, open_source
from lpcnet_edge.types import PartVerdict, Verdict

SourceSpec = str | Path | Iterable[object] | Source

_READ_AHEAD = 16
"""Frames that are decoded and wait for a slot in bulk."""

_READ_AHEAD_BYTES = 32 << 20
"""Within so many bytes small ones may be four times as many."""


class Session:
    """A run over one source, or live over several that share the engines. A context manager; iterate once.

    Parameters
    ----------
    bundle
        An open bundle, or its folder.
    sources
        What :func:`~lpcnet_edge.runtime.sources.open_source` takes, or open sources, which are closed at the end.
    settings
        Of the run.
    backend
        A name for :func:`~lpcnet_edge.backends.choice.open_backend`, or a function that opens one; it is called again
        after a failure.
    live
        None: where a source comes at its own pace.
    keep_maps
        Whether results carry class maps.
    skip
        Names of frames to leave out, of image files.
    on_part
        Called with the verdict on each part, where the settings name views.

    Raises
    ------
    UsageError
        Several sources and not live, or another number of views than sources.
    BadConfig
        The mask of what to inspect cannot be read, or the settings do not fit the bundle.
    LpcnetError
        What opening a bundle, a backend or a source raises.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        sources: Sequence[SourceSpec],
        settings: RunSettings | None = None,
        *,
        backend: str | Callable[[], Backend] = "auto",
        live: bool | None = None,
        keep_maps: bool = False,
        skip: Container[str] = (),
        on_part: Callable[[PartVerdict], None] | None = None,
    ) -> None:
        self.settings = settings or RunSettings()
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self._check_views(len(sources))
        check_mask(self.settings.framing)
        self._parts = PartJoiner(self.settings.views, self.settings.view_timeout_ms) if self.settings.views else None
        self._on_part = on_part or (lambda part: None)
        self._backend = backend
        self._inboxes: list[Inbox] = []
        self._sources: list[Source] = []
        self._room: Room | None = None
        self._stopping = False
        self.started_s = self.ended_s = 0.0
        opened = self._open_backend()
        try:
            self.about = opened.about
            for place, spec in enumerate(sources):
                self._sources.append(self._open(spec, place, skip))
            self.live = any(source.live for source in self._sources) if live is None else live
            if len(sources) > 1 and not self.live:
                raise UsageError("several sources share the engines only live", mend="add --live, or run them in turn")
            rule = self.settings.live
            self._room = Room(
                opened,
                self._open_backend,
                first_s=rule.reopen_first_s,
                largest_s=rule.reopen_largest_s,
                background=self.live,
            )
            self.pipeline = Pipeline(self.bundle, self.settings, opened.name, keep_maps=keep_maps)
        except BaseException:
            self.close()
            opened.close()
            raise

    @property
    def gate_in_words(self) -> str:
        """Which tiles stage 2 sees, and what is promised for it."""
        asked, threshold, gate = self.settings.gate, self.pipeline.threshold, self.bundle.manifest.gate
        if threshold is None:
            return f"off{' in this bundle' if asked == 'auto' else ''}: stage 2 sees every tile"
        if asked == "auto":
            sure, missed = "", "expected to be missed"
            if gate.confidence is not None:
                sure, missed = f"with {100 * gate.confidence:.6g} % confidence ", "missed"
            return (
                f"scores from {threshold:.6g}: {sure}at most {100 * (gate.alpha or 0):.3g} % of defective parts are "
                f"{missed} (calibrated on {gate.parts} parts{self._framed_otherwise})"
            )
        return f"scores from {threshold:.6g}, given for this run: nothing is promised for it"

    @property
    def _framed_otherwise(self) -> str:
        """What to add where frames became tiles in another way when the gate was calibrated."""
        about = self.bundle.manifest.provenance.get("gate")
        was = about.get("framing") if isinstance(about, Mapping) else None
        now = self.settings.framing.mode if self.settings.framing is not None else "by size"
        if was in (None, now):
            return ""
        return f" with framing {was}, this run's is {now}: it holds only where both make the same tiles"

    @property
    def source_names(self) -> list[str]:
        """Of the sources, in order."""
        return [source.name for source in self._sources]

    @property
    def total(self) -> int | None:
        """Frames to come, where every source knows."""
        totals = [source.total for source in self._sources]
        return None if None in totals else sum(total for total in totals if total is not None)

    @property
    def reopened(self) -> int:
        """How often the backend was opened again after a failure."""
        return self._room.reopened if self._room is not None else 0

    @property
    def waited_s(self) -> float:
        """In bulk: how long deciding has waited for frames to be read."""
        return sum(inbox.waited_s for inbox in self._inboxes)

    def counters(self) -> dict[str, dict[str, int]]:
        """By source: its own counters, and ``dropped`` here; those of sources of one name are added up."""
        found: dict[str, Counter[str]] = {}
        for source, inbox in zip(self._sources, self._inboxes, strict=False):
            found.setdefault(source.name, Counter()).update({**source.counters(), "dropped": inbox.dropped})
        return {name: dict(counts) for name, counts in found.items()}

    def stop(self) -> None:
        """Take no further frame; those taken get their verdicts, then the iteration ends. For signal handlers too."""
        self._stopping = True
        for inbox in self._inboxes:
            inbox.ask_to_stop()

    def __iter__(self) -> Iterator[Result]:
        """Results in the order of each source's frames; raises what ended a source, after all of them."""
        assert self._room is not None
        # Numpy's and our own copies are short; OpenCV's threads would fight with the engines for the same cores.
        cv2.setNumThreads(1)
        rule, changed = self.settings.live, Condition()
        self.started_s = time.monotonic()
        run: BulkRun | LiveRun
        if self.live:
            run = LiveRun(self.pipeline, self._room, self._inboxes, rule, self._idle)
            run.warm_up()
            waiting, when_full, small_bytes = rule.waiting, rule.when_full, 0
        else:
            waiting, when_full, small_bytes = _READ_AHEAD, "block", _READ_AHEAD_BYTES
        self.started_s = time.monotonic()
        self._inboxes += [Inbox(source, waiting, when_full, changed, small_bytes) for source in self._sources]
        if self._stopping:
            self.stop()
        if not self.live:
            run = BulkRun(self.pipeline, self._room, self._inboxes[0], self.settings.bulk)
        try:
            for result in run:
                try:
                    yield result
                finally:  # whoever takes no more has this one
                    self._join(result.verdict, result.item.source)
        finally:
            self.ended_s = time.monotonic()
            self._tell(self._parts.close() if self._parts else [])  # also where a source ended with an error

    def close(self) -> None:
        """Stop reading and let go of everything; twice is fine."""
        for inbox in self._inboxes:
            inbox.stop()
        for source in self._sources:
            source.close()
        if self._room is not None:
            self._room.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _open_backend(self) -> Backend:
        if not isinstance(self._backend, str):
            if self.settings.isolate:
                raise UsageError(
                    "a backend that is a function cannot be opened in a process of its own", mend="name it"
                )
            return self._backend()
        if self.settings.isolate:
            opened: Backend = IsolatedBackend(
                self.bundle, self._backend, hang_s=self.settings.live.hang_s, cuda=self.settings.cuda
            )
        else:
            opened = open_backend(self.bundle, self._backend, cuda=self.settings.cuda)
        self._backend = opened.name  # `auto` chooses once: verdicts record it
        return opened

    def _open(self, spec: SourceSpec, place: int, skip: Container[str]) -> Source:
        if isinstance(spec, Source):
            return spec
        views, settings = self.settings.views, self.settings.source
        if views:
            settings = replace(settings, name=views[place])
        return open_source(spec, settings, channels=self.bundle.manifest.channels, skip=skip)

    def _check_views(self, sources: int) -> None:
        views = self.settings.views
        if views and len(views) != sources:
            raise UsageError(
                f"{len(views)} views are named ({', '.join(views)}) and {sources} source(s) given",
                mend="name one view for each source, in their order",
            )

    def _join(self, verdict: Verdict, view: str) -> None:
        if self._parts is not None:
            self._tell(self._parts.add(view, verdict))

    def _idle(self) -> float | None:
        if self._parts is None:
            return None
        self._tell(self._parts.due())
        return self._parts.next_due_s()

    def _tell(self, parts: Sequence[PartVerdict]) -> None:
        for part in parts:
            self._on_part(part)


def inspect(
    bundle: str | Path,
    source: SourceSpec,
    *,
    backend: str = "auto",
    settings: RunSettings | None = None,
    live: bool | None = None,
    trusted_key: str | Path | None = None,
    **changes: Any,
) -> Iterator[Verdict]:
    """The verdict on every frame of a source, in order; ``docs/running.md`` has examples.

    Parameters
    ----------
    bundle
        The folder of a bundle.
    source
        A folder, file, glob, camera or stream (``docs/sources.md``), or an iterable of arrays, frames or paths of
        image files.
    backend
        ``auto``, ``openvino``, ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx``, ``torch-cuda``, or ``null``, which
        computes nothing, for measuring (:data:`lpcnet_edge.backends.choice.BACKENDS`).
    settings
        Of the run; ``changes`` replace single ones, such as ``gate="off"`` or ``rules=Rules(...)``, which may
        also be a mapping, as it would stand in a YAML file.
    live
        One frame at a time with its deadline; None: where the source is a camera.
    trusted_key
        PEM file of a public key that must have signed the bundle.

    Raises
    ------
    UsageError
        A name among ``changes`` is no setting, or a value is not one that it may have.
    LpcnetError
        What opening and reading raise; a frame that cannot be inspected raises nothing, it is a reject.
    """
    known = [field.name for field in fields(RunSettings)]
    for name in changes:
        if name not in known:
            raise UsageError(f"inspect: no setting is called '{name}'", mend=suggest(name, known))
    try:
        plain = {name: value for name, value in changes.items() if isinstance(value, Mapping)}
        read = from_mapping(RunSettings, plain, "inspect")
        chosen = replace(settings or RunSettings(), **changes | {name: getattr(read, name) for name in plain})
    except BadConfig as exc:
        raise UsageError(exc.message, mend=exc.mend) from exc
    except (TypeError, ValueError) as exc:
        raise UsageError(f"inspect: {exc}", mend="docs/running.md lists the settings") from exc
    key = Path(trusted_key) if trusted_key is not None else None
    opened = open_bundle(bundle, trusted_key=key)
    with Session(opened, [source], chosen, backend=backend, live=live) as session:
        for result in session:
            yield result.verdict
