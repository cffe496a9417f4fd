"""What a training step changes: the network, the optimiser's state and the averaged weights, and how they are kept."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lpcnet_edge.network.feed import Batch
from lpcnet_edge.network.imagenet import Hints
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.losses import LossTerms, lpc_loss, stage1_loss
from lpcnet_edge.network.model import LpcNet, Outputs, full_size, normalise
from lpcnet_edge.network.precision import autocast_dtype
from lpcnet_edge.network.recipe import Recipe


class Optimisation:
    """Network, optimiser and averaged weights of one training, and one step of it."""

    def __init__(self, network: LpcNet, recipe: Recipe, teacher: FloatNetwork | None = None) -> None:
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher: LpcNet | None = None
        if teacher is not None:
            own = copy.deepcopy(teacher.network).eval()  # its owner may go on with it elsewhere
            self.teacher = own.to(self.device, memory_format=torch.channels_last)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.hints = Hints(network.config).place(self.device) if recipe.loss.hints else None
        self.learned = [*self.network.parameters(), *(self.hints.parameters() if self.hints is not None else ())]
        flat = [p for p in self.learned if p.ndim <= 1]
        deep = [p for p in self.learned if p.ndim > 1]
        groups = [{"params": deep, "weight_decay": recipe.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.dtype = autocast_dtype(recipe.precision, self.device)
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine down to a hundredth."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return recipe.learning_rate * (step + 1) / recipe.warmup_steps
        done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def train_step(self, step: int, batch: Batch) -> LossTerms:
        pixels, mask = (torch.from_numpy(array).to(self.device) for array in batch)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        x = normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            heat_logits, embedding = self.network.localization(x)
            if self.hints is not None:
                levels = self.network.confidence.encoder(x, embedding)
                logits = self.network.confidence.decode(levels)
                apart = self.hints(levels[1:], self.hints.wanted(x))
            elif not self.recipe.loss.stage1_only:
                logits = self.network.confidence(x, embedding)
        if self.recipe.loss.stage1_only:
            terms = stage1_loss(heat_logits, mask.long(), self.recipe.loss)
        else:
            outputs = Outputs(heat_logits, embedding, *logits)
            taught = None if self.teacher is None else self._taught(self.teacher, x)
            terms = lpc_loss(outputs, mask.long(), self.recipe.loss, weight_loss=self.recipe.weight_loss, taught=taught)
            if self.hints is not None:
                terms = replace(terms, total=terms.total + self.recipe.loss.hints * apart, hints=apart.detach())
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(terms.total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.learned, self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._update_average(step)
        return terms

    @torch.no_grad()
    def _taught(self, teacher: LpcNet, x: Tensor) -> Tensor:
        """A teacher's class probabilities (N, K, H, W) for normalised tiles."""
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = teacher(x).refined
        return torch.softmax(full_size(logits, *x.shape[2:]), dim=1)

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        state = self.network.state_dict()
        floating = [name for name, value in state.items() if value.dtype.is_floating_point]
        torch._foreach_lerp_([self.average[n] for n in floating], [state[n] for n in floating], 1 - decay)

    def averaged(self) -> FloatNetwork:
        """A copy of the network with the averaged weights."""
        network = copy.deepcopy(self.network)
        network.load_state_dict({name: value.detach().cpu().clone() for name, value in self.average.items()})
        return FloatNetwork(network, self.recipe.tile_px, device=self.device.type)

    def is_finite(self) -> bool:
        """Whether every averaged weight is a number: one step that is not spoils them for good."""
        return all(bool(torch.isfinite(value).all()) for value in self.average.values())

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({} if self.hints is None else {"hints": self.hints.state_dict()}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.hints is not None:
            self.hints.load_state_dict(state["hints"])
        average: dict[str, Tensor] = state["average"]
        self.average = {name: value.to(self.device) for name, value in average.items()}
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:  # empty where the run so far needed none: it began on a processor, or in another type
            self.scaler.load_state_dict(state["scaler"])


def loss_figures(terms: LossTerms) -> dict[str, float]:
    """The terms as plain numbers, by the names that metrics.csv has."""
    return {
        "loss": float(terms.total.detach()),
        "localization": float(terms.localization),
        "tile": float(terms.tile),
        "refined": float(terms.refined),
        "initial": float(terms.initial),
        **({} if terms.distilled is None else {"distilled": float(terms.distilled)}),
        **({} if terms.hints is None else {"hints": float(terms.hints)}),
    }
