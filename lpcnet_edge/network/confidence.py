"""Stage 2: a real-time encoder-decoder whose deepest features know what stage 1 saw, and the PCM at its end."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.network.blocks import Context, Conv, Merge, Residual
from lpcnet_edge.network.config import NetworkConfig
from lpcnet_edge.network.pixel_confidence import PixelConfidence


class Level(nn.Module):
    """One resolution of the encoder: a 3x3 convolution of stride 2, then residual blocks."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.down = Conv(inputs, width, stride=2)
        for index in range(blocks):
            self.add_module(f"block{index + 1}", Residual(width))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


class Encoder(nn.Module):
    """Strides 2 to 32. The localization embedding enters at stride 16 through a 1x1 projection that starts at zero."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = config.encoder_widths
        b4, b8, b16, b32 = config.encoder_blocks
        self.stem = Conv(config.channels, w2, stride=2)
        self.level4 = Level(w2, w4, b4)
        self.level8 = Level(w4, w8, b8)
        self.level16 = Level(w8, w16, b16)
        self.project: nn.Conv2d | None = None
        if config.embed_localization:
            self.project = nn.Conv2d(config.localization_widths[-1], w16, 1)
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        self.level32 = Level(w16, w32, b32)
        self.context = Context(w32)

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x2 = self.stem(x)
        x4 = self.level4(x2)
        x8 = self.level8(x4)
        x16 = self.level16(x8)
        if self.project is not None:
            x16 = functional.relu(x16 + self.project(embedding))
        return x2, x4, x8, x16, self.context(self.level32(x16))


class Decoder(nn.Module):
    """From stride 32 back to 2, adding a lateral at each doubling; class logits at half resolution."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = config.encoder_widths
        width, half = config.decoder_width, max(1, config.decoder_width // 2)
        self.entry = Conv(w32, width, size=1)
        self.up16 = Merge(w16, width, width)
        self.up8 = Merge(w8, width, width)
        self.up4 = Merge(w4, width, half)
        self.up2 = Merge(w2, half, half)
        self.classify = nn.Conv2d(half, len(config.classes), 1)
        # Not near zero, as is usual for heads: the classes would then stay unseparated for hundreds of steps.
        nn.init.kaiming_normal_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(self, levels: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        x2, x4, x8, x16, x32 = levels
        x = self.up16(self.entry(x32), x16)
        x = self.up2(self.up4(self.up8(x, x8), x4), x2)
        logits: Tensor = self.classify(x)
        return logits


class ConfidenceNet(nn.Module):
    """Stage 2 as a whole.

    Input: normalised tiles (N, C, H, W) float32 and stage 1's embedding (N, E, H/16, W/16). Output: initial and
    refined class logits, both (N, K, H/2, W/2); without the PCM they are the same tensor.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.pcm = PixelConfidence(len(config.classes), config.pcm_window) if config.refine_pixels else None

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(self.encoder(x, embedding))

    def decode(self, levels: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Both logits from the encoder's maps at strides 2 to 32.

        The refined ones have no gradient but for the PCM's own parameters: it learns from what the network says, and
        the network does not learn to be refined (docs/method.md).
        """
        initial = self.decoder(levels)
        return initial, self.pcm(initial.detach()) if self.pcm is not None else initial
