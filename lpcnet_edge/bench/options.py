"""How much is measured, and of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lpcnet_edge.errors import UsageError
from lpcnet_edge.runtime.framing import Framing


@dataclass(frozen=True, slots=True)
class Options:
    """A benchmark.

    Attributes
    ----------
    backend
        A name for ``open_backend``.
    batches
        Batch sizes of the stages' measurements, powers of two; None: 1 and the largest that a run uses.
    seconds
        Of each measurement, in each round.
    rounds
        What is compared is measured in turn, round after round.
    frames
        Different frames at most.
    gate
        Of the pipeline, as in ``run``.
    framing
        How frames become tiles; None: as in ``run``.
    quick
        A fast look: its figures show that it works, and little more.
    """

    backend: str = "auto"
    batches: tuple[int, ...] | None = None
    seconds: float = 3.0
    rounds: int = 3
    frames: int = 48
    gate: Literal["off", "auto"] | float = "auto"
    framing: Framing | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rounds < 1 or self.frames < 1:
            raise UsageError("seconds, rounds and frames are above 0", mend="give numbers above 0")
        for batch in self.batches or ():
            if not 1 <= batch <= 64 or batch & (batch - 1):
                raise UsageError(f"the batch size {batch}", mend="use powers of two from 1 to 64: 1,2,4,8,16")


def quick(options: Options) -> Options:
    """The same, in a fraction of the time."""
    from dataclasses import replace

    return replace(options, seconds=min(options.seconds, 0.3), rounds=1, frames=min(options.frames, 8), quick=True)
