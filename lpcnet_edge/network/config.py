"""What a network of this family is made of, as one frozen value that travels with its weights."""

from __future__ import annotations

from dataclasses import dataclass

from lpcnet_edge.errors import BadConfig, UsageError

STRIDE_PX = 16
"""Stage 1's heatmap and embedding have one cell per this many pixels."""

STEM_STRIDE_PX = 2
TILE_MULTIPLE_PX = 32
LARGEST_TILE_PX = 4096
"""Side of a tile or crop, at most."""

MOST_BLOCKS = 256
"""At one stride; a damaged file may ask for any number."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a :class:`~lpcnet_edge.network.model.LpcNet`.

    Attributes
    ----------
    classes
        Class names; index 0 is the background.
    channels
        1 for grey tiles, 3 for BGR.
    localization_widths
        Stage 1: channels at strides 2, 4, 8, 16 and 32, then of the embedding.
    encoder_widths
        Stage 2: channels at strides 2, 4, 8, 16 and 32.
    encoder_blocks
        Stage 2: residual blocks at strides 4, 8, 16 and 32.
    decoder_width
        Channels of stage 2's decoder at strides 4 to 32 (half of it at stride 2).
    pcm_window
        Side k of the pixel confidence module's neighbourhood, odd, in blocks of 2 x 2 px of the half-resolution logits.
    embed_localization, weight_loss, refine_pixels
        The three switches: stage 1's embedding in stage 2, stage 1's heatmap in the loss, and the PCM.
    """

    classes: tuple[str, ...]
    channels: int = 1
    localization_widths: tuple[int, int, int, int, int, int] = (16, 32, 64, 96, 64, 64)
    encoder_widths: tuple[int, int, int, int, int] = (32, 32, 64, 128, 160)
    encoder_blocks: tuple[int, int, int, int] = (2, 2, 2, 1)
    decoder_width: int = 64
    pcm_window: int = 5
    embed_localization: bool = True
    weight_loss: bool = True
    refine_pixels: bool = True

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise BadConfig(
                f"classes are {list(self.classes)}: a background and defect classes, all different, are needed",
                mend="name the background first, then each defect class once",
            )
        if len(self.classes) > 255:
            raise BadConfig(f"{len(self.classes)} classes do not fit a uint8 class map", mend="use at most 255 classes")
        if self.channels not in (1, 3):
            raise BadConfig(f"channels is {self.channels}", mend="use 1 for grey or 3 for BGR tiles")
        if self.pcm_window < 3 or self.pcm_window % 2 == 0:
            raise BadConfig(f"pcm_window is {self.pcm_window}", mend="use an odd number of blocks, 3 or more")
        widths = (*self.localization_widths, *self.encoder_widths, self.decoder_width)
        if any(width < 1 for width in widths) or any(count < 1 for count in self.encoder_blocks):
            raise BadConfig("a width or a block count is below 1", mend="use positive numbers")
        if max(self.encoder_blocks) > MOST_BLOCKS:
            raise BadConfig(f"encoder_blocks are {list(self.encoder_blocks)}", mend=f"use at most {MOST_BLOCKS}")


_PRESETS: dict[str, dict[str, object]] = {
    "edge": {},
    "large": {
        "localization_widths": (32, 64, 96, 128, 128, 96),
        "encoder_widths": (32, 64, 128, 256, 320),
        "encoder_blocks": (2, 3, 4, 2),
        "decoder_width": 128,
    },
}


def preset(name: str, classes: tuple[str, ...], channels: int, **changes: object) -> NetworkConfig:
    """The named preset (``edge`` or ``large``) for a dataset's classes and channels; raises ``UsageError``."""
    if name not in _PRESETS:
        raise UsageError(f"no preset is called {name!r}", mend=f"use one of: {', '.join(_PRESETS)}")
    return NetworkConfig(classes=classes, channels=channels, **{**_PRESETS[name], **changes})  # type: ignore[arg-type]
