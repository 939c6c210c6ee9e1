"""Solvers: how the next weights follow from gradients.

All weights of a module are one vector and all gradients another, so that a step costs a few calls
whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skae._torch_compat import Rate, adam_step

Memory = dict[str, Tensor]


class FlatWeights:
    """The trainable weights of a module in one vector, their gradients in another.

    The parameters of the module and their ``grad`` become views of the two. Matrices come first.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [weights for weights in module.parameters() if weights.requires_grad]
        if not parameters:
            raise ValueError(
                "The network has no weights to train: all of its parameters are frozen, or it has "
                "none. Give `network` parameters that require gradients."
            )
        parameters.sort(key=lambda weights: weights.ndim <= 1)  # keeps the order otherwise
        sizes = [weights.numel() for weights in parameters]
        self.values = torch.cat([weights.detach().flatten() for weights in parameters])
        self.gradients = torch.zeros_like(self.values)
        self.n_in_matrices = sum(weights.numel() for weights in parameters if weights.ndim > 1)
        for weights, values, gradients in zip(
            parameters, self.values.split(sizes), self.gradients.split(sizes), strict=True
        ):
            weights.data = values.view(weights.shape)
            weights.grad = gradients.view(weights.shape)


def adam(weights: Tensor, gradients: Tensor, memory: Memory, rate: Rate) -> None:
    """Kingma & Ba, "Adam: a method for stochastic optimization", ICLR (2015)."""
    memory["step"] += 1
    adam_step(
        weights,
        gradients,
        memory["mean"],
        memory["mean_square"],
        memory["step"],
        rate,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
    )


def adadelta(weights: Tensor, gradients: Tensor, memory: Memory, rate: Rate) -> None:
    """Zeiler, "Adadelta: an adaptive learning rate method", arXiv:1212.5701 (2012)."""
    rho, eps = 0.9, 1e-6
    memory["mean_square"].mul_(rho).addcmul_(gradients, gradients, value=1.0 - rho)
    change = (memory["mean_square_change"] + eps).sqrt_()
    change.div_((memory["mean_square"] + eps).sqrt_()).mul_(gradients)
    memory["mean_square_change"].mul_(rho).addcmul_(change, change, value=1.0 - rho)
    weights -= rate * change


def rmsprop(weights: Tensor, gradients: Tensor, memory: Memory, rate: Rate) -> None:
    """Tieleman & Hinton, "Neural networks for machine learning", lecture 6.5 (2012)."""
    rho, eps = 0.99, 1e-8
    memory["mean_square"].mul_(rho).addcmul_(gradients, gradients, value=1.0 - rho)
    weights -= rate * (gradients / memory["mean_square"].sqrt().add_(eps))


def sgd(weights: Tensor, gradients: Tensor, memory: Memory, rate: Rate) -> None:
    """Nesterov's momentum as in Sutskever et al., "On the importance of initialization and
    momentum in deep learning", ICML (2013).
    """  # noqa: D205
    momentum = 0.9
    memory["velocity"].mul_(momentum).add_(gradients)
    weights -= rate * torch.add(gradients, memory["velocity"], alpha=momentum)


class Rule(NamedTuple):
    """A rule for steps and what belongs to it."""

    step: Callable[[Tensor, Tensor, Memory, Rate], None]
    """Changes weights and memory in place."""

    memory: tuple[str, ...]
    """Names of what it remembers: "step" is their number, the others are vectors."""

    learning_rate_init: float
    """What "auto" stands for."""

    decoupled: bool = False
    """Whether decay shrinks the weights directly, not by way of the gradient (Loshchilov & Hutter
    2019)."""


MOMENTS = ("step", "mean", "mean_square")

SOLVERS = {
    # Adadelta's steps have the size of the weights themselves, hence the factor of one.
    "adadelta": Rule(adadelta, ("mean_square", "mean_square_change"), 1.0),
    "adam": Rule(adam, MOMENTS, 3e-3),
    "adamw": Rule(adam, MOMENTS, 3e-3, decoupled=True),
    "rmsprop": Rule(rmsprop, ("mean_square",), 1e-3),
    "sgd": Rule(sgd, ("velocity",), 1e-2),
}


class Solver:
    """A rule at work on the weights of a module.

    Parameters
    ----------
    weights : FlatWeights
    name : str
        Key of `SOLVERS`.
    alpha : float
        Weight decay of matrices; biases and other vectors are left alone.
    memory : dict of str to ndarray, default=None
        What `memory_arrays` gave, to go on from there.
    """

    def __init__(
        self,
        weights: FlatWeights,
        name: str,
        alpha: float,
        memory: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.rule = SOLVERS[name]
        self.weights = weights
        self.alpha = alpha
        self.memory = {
            part: weights.values.new_zeros(() if part == "step" else len(weights.values))
            for part in self.rule.memory
        }
        for part, array in (memory or {}).items():
            self.memory[part].copy_(torch.from_numpy(array))

    def step(self, rate: Rate) -> None:
        """Change the weights by what their gradients say."""
        weights = self.weights
        if self.alpha > 0.0:
            matrices = weights.values[: weights.n_in_matrices]
            if self.rule.decoupled:
                matrices *= 1.0 - rate * self.alpha
            else:
                weights.gradients[: weights.n_in_matrices].add_(matrices, alpha=self.alpha)
        self.rule.step(weights.values, weights.gradients, self.memory, rate)

    def memory_arrays(self) -> dict[str, np.ndarray]:
        """Copy the memory into arrays."""
        return {part: tensor.cpu().numpy().copy() for part, tensor in self.memory.items()}
