"""Settings of a run, as they stand in a station's YAML. ``docs/running.md`` is for those who write them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.config import refuse_non_finite
from lpcnet_edge.decision import Rules
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.sinks.settings import SinkSettings
from lpcnet_edge.runtime.sources.settings import SourceSettings

MAX_SLOT_TILES = 1024
"""Tiles of one slot at most, and of one frame: 8192 x 6000 px are 999 of 256 px."""

MAX_BULK_TILES = 4096
"""Tiles of all slots at most: of 256 px and in colour they take 0.4 MB each, 1.6 GB in all; hundreds keep every core at
work, and more only wait."""

LONGEST_S = 1e6
"""Of every time, eleven days: libraries count milliseconds in 32 bits, and Python's own waits end at 292 years."""


def _refuse_endless(settings: object) -> None:
    """Raise ``ValueError`` naming the first time of a dataclass that is beyond ``LONGEST_S``."""
    for of in fields(settings):  # type: ignore[arg-type]  # called by dataclasses on themselves
        value, name = getattr(settings, of.name), of.name
        longest = 1e3 * LONGEST_S if name.endswith("_ms") else LONGEST_S if name.endswith("_s") else None
        if longest is not None and value is not None and value > longest:
            raise ValueError(f"{name} is {value:g}; it is {longest:g} at most")


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How frames are decided that come at their own pace.

    Attributes
    ----------
    deadline_ms
        From the moment a frame was taken to its verdict; later is a reject. None: no deadline.
    when_full
        What a source does that is ahead by ``waiting`` frames: ``block`` waits, ``drop-oldest`` gives the oldest up,
        which becomes a reject. A camera's own queue drops its oldest when it is kept waiting.
    waiting
        Frames of each source that may wait.
    reopen_first_s, reopen_largest_s
        A backend that failed is opened again at once. Where it then does not open, or fails before any work is done,
        the next time comes after the first pause, which doubles up to the largest.
    hang_s
        A backend that works on a slot for so long counts as failed. Where it has a process of its own, that process is
        killed when it does not answer for so long and half a second for each tile, in bulk too; its opening, and on a
        GPU the making of its slots, have ten minutes more.
    """

    deadline_ms: float | None = None
    when_full: Literal["block", "drop-oldest"] = "block"
    waiting: int = 2
    reopen_first_s: float = 0.5
    reopen_largest_s: float = 10.0
    hang_s: float = 10.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        _refuse_endless(self)
        if self.deadline_ms is not None and self.deadline_ms <= 0:
            raise ValueError(f"deadline_ms is {self.deadline_ms}; it is above 0, or null for none")
        if self.waiting < 1:
            raise ValueError(f"waiting is {self.waiting}; at least 1 frame waits")
        if not 0 < self.reopen_first_s <= self.reopen_largest_s:
            raise ValueError("reopen_first_s lies above 0 and at most at reopen_largest_s")
        if self.hang_s <= 0:
            raise ValueError(f"hang_s is {self.hang_s}; it is above 0")


@dataclass(frozen=True, slots=True)
class BulkSettings:
    """How frames are decided that wait for us.

    Attributes
    ----------
    slots
        Sets of buffers in flight: one is filled while another is in stage 1 and a third in stage 2. At least 2.
    tiles
        Tiles a slot holds at least, 1 to ``MAX_SLOT_TILES``; frames share it, and one that needs more gets a larger
        slot. Slots times tiles are at most ``MAX_BULK_TILES``, since that memory is taken.
    linger_ms
        A slot that is not full goes on when no frame has come for so long.
    """

    slots: int = 3
    tiles: int = 32
    linger_ms: float = 50.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        _refuse_endless(self)
        if self.slots < 2:
            raise ValueError(f"slots is {self.slots}; it takes 2, one to fill and one at work")
        if not 1 <= self.tiles <= MAX_SLOT_TILES:
            raise ValueError(f"tiles is {self.tiles}; a slot holds 1 to {MAX_SLOT_TILES}")
        if self.slots * self.tiles > MAX_BULK_TILES:
            raise ValueError(f"{self.slots} slots of {self.tiles} tiles are more than {MAX_BULK_TILES} tiles of memory")
        if self.linger_ms < 0:
            raise ValueError(f"linger_ms is {self.linger_ms}; it is 0 or more")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """A run. What is None is the bundle's.

    Attributes
    ----------
    framing
        How a frame becomes tiles. None decides by each frame's size: one of more than ``TILED_FROM`` tiles along a side
        is cut into tiles, others are resized, as in training and in the checks.
    gate
        ``off``, ``auto`` (the bundle's) or a threshold, for which nothing is promised.
    budget_tiles
        A frame that picks more tiles for stage 2 is a reject.
    uncertain
        A frame that would pass although a tile's score lies in this band asks for review.
    rules
        Verdict rules.
    views
        Names of the sources that see one part each; their verdicts of a ``part_id`` are joined.
    view_timeout_ms
        A view that comes later than this after the part's first is missing.
    build_at_first_use
        Whether ``lpcnet-edge run`` with a backend of TensorRT builds this machine's plans of the bundle where there are
        none, and runs the self-test on them, which takes minutes. Else that is an error that names the command.
    isolate
        Whether the backend runs in a process of its own, whose death costs its work in flight and a restart.
    cuda
        How a backend on a GPU uses it.
    """

    framing: Framing | None = None
    gate: Literal["off", "auto"] | float = "auto"
    budget_tiles: int | None = None
    uncertain: tuple[float, float] | None = None
    rules: Rules | None = None
    views: tuple[str, ...] = ()
    view_timeout_ms: float = 1000.0
    build_at_first_use: bool = False
    isolate: bool = False
    cuda: CudaSettings = field(default_factory=CudaSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    bulk: BulkSettings = field(default_factory=BulkSettings)
    source: SourceSettings = field(default_factory=SourceSettings)
    sinks: SinkSettings = field(default_factory=SinkSettings)

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        _refuse_endless(self)
        for name, kind in _NESTED.items():  # from Python anything can be given
            value = getattr(self, name)
            if not (isinstance(value, kind) or (value is None and name in ("framing", "rules"))):
                raise TypeError(f"{name} is {value!r}; it takes {kind.__name__}(...)")
        if isinstance(self.gate, str) and self.gate not in ("off", "auto"):  # from Python; any other text was `off`
            raise ValueError(f"gate is {self.gate!r}; it is off, auto or a number from 0 to 1")
        if not isinstance(self.gate, str) and not 0 <= self.gate <= 1:
            raise ValueError(f"the gate's threshold is {self.gate}; it lies between 0 and 1")
        if self.budget_tiles is not None and self.budget_tiles < 1:
            raise ValueError(f"budget_tiles is {self.budget_tiles}; it is 1 or more")
        if self.uncertain is not None and not 0 <= self.uncertain[0] < self.uncertain[1] <= 1:
            raise ValueError(f"uncertain is {list(self.uncertain)}; it rises, from 0 to 1")
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"a view is named twice: {', '.join(self.views)}")
        if self.view_timeout_ms <= 0:
            raise ValueError(f"view_timeout_ms is {self.view_timeout_ms}; it is above 0")


_NESTED = {
    "framing": Framing,
    "rules": Rules,
    "cuda": CudaSettings,
    "live": LiveSettings,
    "bulk": BulkSettings,
    "source": SourceSettings,
    "sinks": SinkSettings,
}
