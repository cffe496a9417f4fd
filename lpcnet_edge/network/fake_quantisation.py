"""A float network that rounds as its INT8 engine will: fake quantisation where a placement puts Q/DQ.

The network is traced into a graph, and every tensor that the placement quantises is rounded once, for exactly those
readers that the placement names: no reader is found by the network's code, so training and engine cannot disagree on
where. Gradients pass rounding as if it were not there (straight-through) and stop where a value is clipped; scales are
learned as logarithms (LSQ, Esser et al., ICLR 2020, eq. 3; TQT, Jain et al., MLSys 2020, for the logarithm).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from lpcnet_edge.errors import BuildFailed
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.quantisation import Quantisation

_STAGES = {"stage1": "localization", "stage2": "confidence"}
_OPERATORS = {operator.add: "add", functional.interpolate: "resize"}


class _Round(torch.autograd.Function):
    """scale * clip(round(x / scale), -levels - 1, levels); its backward needs the rounding error alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, levels: int) -> Tensor:
        ratio = x / scale
        rounded = ratio.round().clamp_(-levels - 1, levels)
        ctx.save_for_backward(rounded - ratio)
        ctx.levels = levels
        return rounded.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor | None, None]:
        gradient, (error,) = gradients[0], ctx.saved_tensors
        above, below = error < -0.5, error > 0.5  # rounding alone errs by half a step at most
        to_scale = None
        if ctx.needs_input_grad[1]:
            slope = error.masked_fill(above, ctx.levels).masked_fill_(below, -ctx.levels - 1)
            to_scale = (gradient * slope).sum()
        return gradient.masked_fill(above | below, 0.0), to_scale, None


class ActivationRounding(nn.Module):
    """Rounds a tensor to one scale, whose logarithm is learned as a change from the scale given, where ``learned``."""

    start: Tensor

    def __init__(self, scale: float, levels: int, scale_floor: float, *, learned: bool) -> None:
        super().__init__()
        self.levels, self.floor = levels, scale_floor
        self.register_buffer("start", torch.tensor(scale))
        self.change = nn.Parameter(torch.zeros(()), requires_grad=learned)

    def scale(self) -> Tensor:
        """The scale now, a scalar float32: at first exactly the one given."""
        return (self.start * self.change.exp()).clamp(min=self.floor)

    def forward(self, x: Tensor) -> Tensor:
        return _Round.apply(x, self.scale(), self.levels)  # type: ignore[no-any-return, no-untyped-call]


class _WeightRounding(nn.Module):
    """Rounds a weight (O, I, kh, kw) to a scale per output channel: its largest magnitude over the levels, floored."""

    def __init__(self, levels: int, scale_floor: float) -> None:
        super().__init__()
        self.levels, self.floor = levels, scale_floor

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).div(self.levels).clamp(min=self.floor)
        return _Round.apply(weight, scale, self.levels)  # type: ignore[no-any-return, no-untyped-call]


class FakeQuantised:
    """A folded network, and a module of the same parameters that computes what its INT8 engine computes.

    Parameters
    ----------
    network
        Of :func:`~lpcnet_edge.network.folding.folded`; its convolutions share their parameters with ``module``, so that
        training the one trains the other.
    quantisation
        Raises ``BuildFailed`` where it does not fit the network.

    Attributes
    ----------
    module
        From normalised tiles (N, C, H, W) to :class:`~lpcnet_edge.network.model.Outputs`.
    """

    def __init__(self, network: LpcNet, quantisation: Quantisation) -> None:
        self.network = network
        self.module = fx.GraphModule(network, fx.Tracer().trace(network))
        self._nodes = _by_name(self.module.graph)
        self._activations: dict[str, ActivationRounding] = {}
        for tensor in quantisation.uses:
            self._round_tensor(tensor, quantisation)
        self.module.recompile()
        self._convs = [self._conv(name) for name in quantisation.convs]
        for conv in self._convs:
            rounding = _WeightRounding(quantisation.levels, quantisation.scale_floor)
            parametrize.register_parametrization(conv, "weight", rounding)

    def scales(self) -> dict[str, float]:
        """The scale of every rounded tensor now."""
        return {name: float(rounding.scale().detach()) for name, rounding in self._activations.items()}

    def scale_parameters(self) -> list[nn.Parameter]:
        """What learns the scales."""
        return [rounding.change for rounding in self._activations.values() if rounding.change.requires_grad]

    def restore(self) -> LpcNet:
        """Stop rounding the weights: the network with the float weights that are rounded to what was trained."""
        for conv in self._convs:
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=False)
        return self.network

    def _round_tensor(self, tensor: str, quantisation: Quantisation) -> None:
        readers = [(self._reader(name), index) for name, index in quantisation.uses[tensor]]
        makers = {node.args[index] for node, index in readers}
        if len(makers) != 1:
            raise BuildFailed(
                f"the readers of {tensor} read {len(makers)} different tensors of the torch network",
                mend="build without --qat, and please report it",
            )
        maker = makers.pop()
        assert isinstance(maker, fx.Node)
        rounding = ActivationRounding(
            quantisation.scales[tensor],
            quantisation.levels,
            quantisation.scale_floor,
            learned=maker.op != "placeholder",  # the pixels' own scale holds every byte
        )
        target = f"rounding.{len(self._activations)}"
        self.module.add_submodule(target, rounding)
        with self.module.graph.inserting_after(maker):
            rounded = self.module.graph.call_module(target, (maker,))
        for node, index in readers:
            node.update_arg(index, rounded)
        self._activations[tensor] = rounding

    def _reader(self, name: str) -> fx.Node:
        stage, _, rest = name.partition("/")
        path = f"{_STAGES.get(stage, stage)}.{rest.replace('/', '.')}"
        # The export leaves the last name out where a block has one convolution only.
        node = self._nodes.get(path) or self._nodes.get(f"{path}.conv")
        if node is None:
            raise BuildFailed(
                f"the torch network has nothing that is {name} in the exported graph",
                mend="build without --qat, and please report it",
            )
        return node

    def _conv(self, name: str) -> nn.Conv2d:
        module = self.network.get_submodule(str(self._reader(name).target))
        assert isinstance(module, nn.Conv2d)
        return module


def _by_name(graph: fx.Graph) -> dict[str, fx.Node]:
    """Convolutions by the path of their module; additions and doublings as ``SCOPE.add``, ``SCOPE.add_2``, ..."""
    found: dict[str, fx.Node] = {}
    seen: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            found[str(node.target)] = node
        elif node.target in _OPERATORS:
            scope = next(reversed(node.meta.get("nn_module_stack") or {"": None}))
            name = f"{scope}.{_OPERATORS[node.target]}"
            seen[name] = seen.get(name, 0) + 1
            found[name if seen[name] == 1 else f"{name}_{seen[name]}"] = node
    return found
