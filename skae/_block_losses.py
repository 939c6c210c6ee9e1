"""Losses of tables with columns of several kinds: a loss for each, with the fields of one `Loss`.

A column of a table may be several features, such as the zeros and ones of a category. Those of one
loss are computed together, so that many columns take as few operations as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from skae._losses import (
    LOSSES,
    Density,
    Loss,
    bernoulli,
    bernoulli_and_derivative,
    weighted_sum,
)
from skae.networks._dense import OUTPUT_ACTIVATIONS

# Shares of levels that are divided by are at least so large.
SMALLEST_SHARE = 1e-4
# Counts whose variance is nearly their mean need no smaller dispersion, and float64 has digits for
# its derivative.
SMALLEST_DISPERSION = 1e-4
# Rates are given back, and drawn around, up to so many units beyond the offset of their counts. An
# exponential function would leave all numbers behind for codes far from those of the rows.
FARTHEST_RATE = 100.0


class Block(NamedTuple):
    """The features of one column of a table, and their loss."""

    loss: str
    n_features: int
    weight: float = 1.0
    unit: tuple[float, float] = (0.0, 1.0)
    """Of counts, which are ``unit[0] + unit[1] * feature``."""


class Part(NamedTuple):
    """The loss of some features, and how a linear code starts there."""

    loss: Loss
    activate: Callable[[Tensor], Tensor]
    """Decoder's output -> reconstruction, all (batch, n)."""
    link: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(mean (n,), variance that a linear code explains (n,), its loadings (n_components, n)) ->
    offset (n,) and loadings of the decoder's output, with which it is that code to first order."""


class Constant:
    """An array that becomes a tensor on each device and in each dtype that asks for it."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self._tensors: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Give the numbers in device and dtype of a tensor; whole numbers stay such."""
        is_index = self._array.dtype.kind == "i"
        key = (x.device, torch.int64 if is_index else x.dtype)
        if key not in self._tensors:
            with torch.inference_mode(False):  # what is kept may be needed for gradients
                self._tensors[key] = torch.from_numpy(self._array).to(*key)
        return self._tensors[key]


class Segments:
    """Neighbouring features that belong together, such as the levels of a category.

    Parameters
    ----------
    widths : sequence of int
        Numbers of features of the segments, one after the other.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        widths_, n = np.asarray(widths), int(np.sum(widths))
        starts = np.cumsum(widths_) - widths_
        place = np.arange(widths_.max())
        inside = place < widths_[:, None]
        # Beyond the end of a segment is the feature that `apart` adds.
        self.places = Constant(np.where(inside, starts[:, None] + place, n))
        self.back = Constant(np.flatnonzero(inside))
        self.of_feature = Constant(np.repeat(np.arange(len(widths_)), widths_))
        self.first = starts
        self.is_first = Constant(np.isin(np.arange(n), starts).astype(np.float64))
        self.membership = Constant(np.repeat(np.eye(len(widths_)), widths_, axis=0))

    def apart(self, x: Tensor, beyond: float) -> Tensor:
        """(..., n) -> (..., n_segments, longest), with a number beyond the ends of segments."""
        return functional.pad(x, (0, 1), value=beyond)[..., self.places.like(x)]

    def together(self, x: Tensor) -> Tensor:
        """(..., n_segments, longest) -> (..., n)."""
        return x.flatten(-2).index_select(-1, self.back.like(x))

    def sums(self, x: Tensor) -> Tensor:
        """Sum of its segment for each feature, (..., n) -> (..., n)."""
        return (x @ self.membership.like(x)).index_select(-1, self.of_feature.like(x))


def categorical(widths: Sequence[int]) -> Part:
    """Cross-entropy of categories, whose levels are zeros and ones."""
    segments = Segments(widths)

    def log_probabilities(logits: Tensor) -> Tensor:
        apart = segments.apart(logits, -torch.inf)
        return segments.together(torch.log_softmax(apart, dim=-1))

    def elementwise(logits: Tensor, target: Tensor) -> Tensor:
        return -target * log_probabilities(logits)

    def with_derivatives(logits: Tensor, target: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        logarithms, weighted = log_probabilities(logits), target * shares
        total = -weighted_sum(logarithms, weighted)
        return total, logarithms.exp().mul_(segments.sums(weighted)).sub_(weighted)

    def sample(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
        drawn = np.zeros_like(mean)
        for start, width in zip(segments.first, widths, strict=True):
            shares = np.cumsum(np.maximum(mean[:, start : start + width], 0.0), axis=1)
            uniform = rng.uniform(size=(len(mean), 1)) * shares[:, -1:]
            level = (uniform >= shares[:, :-1]).sum(axis=1)
            drawn[np.arange(len(mean)), start + level] = 1.0
        return drawn

    def link(mean: Tensor, explained: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        # The softmax of log p + d is p (1 + d - p'd), and the loadings of a category sum to zero.
        # Levels that the code tells apart best would grow on average: exp(d) has this mean.
        share = mean.clamp(min=SMALLEST_SHARE)
        return share.log() - explained / share.square() / 2.0, loadings / share

    density = Density(elementwise, with_derivatives, sample)
    loss = Loss(
        elementwise,
        with_derivatives,
        density,
        "by_block",
        unit="cross-entropy (nats per column)",
        on_logits=True,
        support=(0.0, 1.0),
        remedy="Give each level a column of zeros and ones",
    )
    return Part(loss, lambda output: log_probabilities(output).exp(), link)


def ordinal(widths: Sequence[int]) -> Part:
    """Negative log-probability of ordered levels, each given that it is reached.

    A feature for each level but the lowest says whether the value is at least this level. The
    decoder gives the logit of that, given that the level before is reached [1]_. This is a
    distribution over the levels, which independent features are not.

    References
    ----------
    .. [1] Tutz, "Sequential models in categorical regression", Computational Statistics & Data
       Analysis 11 (1991).
    """
    segments = Segments(widths)

    def reached(target: Tensor) -> Tensor:
        before = functional.pad(target[..., :-1], (1, 0))
        return torch.maximum(before, segments.is_first.like(target))

    def elementwise(logits: Tensor, target: Tensor) -> Tensor:
        return bernoulli(logits, target) * reached(target)

    def with_derivatives(logits: Tensor, target: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        return bernoulli_and_derivative(logits, target, shares * reached(target))

    def activate(logits: Tensor) -> Tensor:
        apart = segments.apart(torch.sigmoid(logits), 1.0)
        return segments.together(apart.cumprod(dim=-1))

    def sample(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
        uniform = rng.uniform(size=(len(mean), len(widths)))
        return (np.repeat(uniform, widths, axis=1) < mean).astype(mean.dtype)

    def link(mean: Tensor, explained: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        # x / x_before to first order, and its logit.
        is_first = segments.is_first.like(mean)
        before = torch.where(is_first > 0.0, 1.0, functional.pad(mean[:-1], (1, 0)))
        loadings_before = functional.pad(loadings[:, :-1], (1, 0)) * (1.0 - is_first)
        before = before.clamp(min=SMALLEST_SHARE)
        share = (mean / before).clamp(1e-3, 1.0 - 1e-3)
        slope = 1.0 / (before * share * (1.0 - share))
        return share.logit(), slope * (loadings - share * loadings_before)

    density = Density(elementwise, with_derivatives, sample)
    loss = Loss(
        elementwise,
        with_derivatives,
        density,
        "by_block",
        unit="negative log-probability (nats per column)",
        on_logits=True,
        support=(0.0, 1.0),
        remedy="Give each level but the lowest a column that says whether it is reached",
    )
    return Part(loss, activate, link)


def negative_binomial(units: Sequence[tuple[float, float]]) -> Part:
    """Negative log-probability of counts, whose variance is the rate plus a share of its square.

    The decoder gives the logarithm of the rate, and the variance that is learned is that share,
    the dispersion.
    """
    offsets, steps = (Constant(np.asarray(column)) for column in zip(*units, strict=True))
    farthest_rates = np.array([offset + FARTHEST_RATE * step for offset, step in units])
    farthest = Constant(farthest_rates)

    def counts(x: Tensor) -> Tensor:
        return (offsets.like(x) + steps.like(x) * x).clamp(min=0.0)

    def terms(log_rate: Tensor, target: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        # Differences of large logarithms of gamma functions need the digits of float64.
        count = counts(target.double()).round()
        dispersion = variance.double() + SMALLEST_DISPERSION
        scaled = dispersion * log_rate.double().exp()
        return count, dispersion, scaled, torch.log1p(scaled)

    def elementwise(log_rate: Tensor, target: Tensor, variance: Tensor) -> Tensor:
        count, dispersion, _, logarithm = terms(log_rate, target, variance)
        size = 1.0 / dispersion
        constant = torch.lgamma(count + size) - torch.lgamma(size) - torch.lgamma(count + 1.0)
        logarithms = (log_rate + dispersion.log() - logarithm) * count - logarithm * size
        return (-constant - logarithms).to(log_rate.dtype)

    def with_derivatives(
        log_rate: Tensor, target: Tensor, shares: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        total = weighted_sum(elementwise(log_rate, target, variance), shares)
        count, dispersion, scaled, logarithm = terms(log_rate, target, variance)
        size = 1.0 / dispersion
        by_output = (scaled * size - count) / (1.0 + scaled)
        by_size = torch.digamma(count + size) - torch.digamma(size) - logarithm
        by_size = by_size + 1.0 - (size + count) / (size + scaled * size)
        by_variance = (by_size * size.square() * shares).sum(dim=0)
        return total, by_output.to(log_rate.dtype) * shares, by_variance.to(variance.dtype)

    def activate(log_rate: Tensor) -> Tensor:
        rates = torch.minimum(log_rate.exp(), farthest.like(log_rate))
        return (rates - offsets.like(log_rate)) / steps.like(log_rate)

    def sample(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
        offset, step = np.asarray(units).T
        rate = np.maximum(offset + step * mean, 0.0)
        size = 1.0 / (np.asarray(variance) + SMALLEST_DISPERSION)
        drawn = rng.gamma(size, np.minimum(rate, farthest_rates) / size)
        return (rng.poisson(np.minimum(drawn, farthest_rates)) - offset) / step

    def link(mean: Tensor, explained: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        rate = counts(mean).clamp(min=1e-3)
        deviation = (steps.like(mean) * explained.sqrt()).clamp(min=1e-3)
        slope = torch.log1p(deviation / rate) / deviation  # see `link_at`
        return rate.log(), slope * steps.like(mean) * loadings

    density = Density(elementwise, with_derivatives, sample, has_variance=True)
    loss = Loss(
        elementwise,
        with_derivatives,
        density,
        "by_block",
        unit="negative log-probability (nats per column)",
        on_logits=True,
        learns_variance=True,
    )
    return Part(loss, activate, link)


def plain(name: str) -> Part:
    """Loss of features that are columns of their own."""

    def identity_link(mean: Tensor, explained: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        return mean, loadings

    def logistic_link(mean: Tensor, explained: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        share = mean.clamp(1e-3, 1.0 - 1e-3)
        return share.logit(), loadings / (share * (1.0 - share))

    loss = LOSSES[name]
    if name == "bernoulli":
        return Part(loss, torch.sigmoid, logistic_link)
    return Part(loss, lambda output: output, identity_link)


# Losses of blocks; the others are those of single features.
OF_BLOCKS: dict[str, Callable[[list[Block]], Part]] = {
    "absolute_error": lambda blocks: plain("absolute_error"),
    "bernoulli": lambda blocks: plain("bernoulli"),
    "categorical": lambda blocks: categorical([block.n_features for block in blocks]),
    "gaussian": lambda blocks: plain("gaussian"),
    "negative_binomial": lambda blocks: negative_binomial(
        [block.unit for block in blocks for _ in range(block.n_features)]
    ),
    "ordinal": lambda blocks: ordinal([block.n_features for block in blocks]),
    "squared_error": lambda blocks: plain("squared_error"),
}


class Composition:
    """A loss that is put together from those of the columns of a table."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        stops = np.cumsum([block.n_features for block in blocks])
        self.slices = [
            slice(int(stop) - block.n_features, int(stop))
            for block, stop in zip(blocks, stops, strict=True)
        ]
        self.parts: list[tuple[Part, np.ndarray, Constant]] = []
        for name in dict.fromkeys(block.loss for block in blocks):
            own = [number for number, block in enumerate(blocks) if block.loss == name]
            features = np.concatenate([np.r_[self.slices[number]] for number in own])
            part = OF_BLOCKS[name]([blocks[number] for number in own])
            self.parts.append((part, features, Constant(features)))
        order = np.concatenate([features for _, features, _ in self.parts])
        self.places = Constant(np.argsort(order))
        self.is_sorted = bool((np.diff(order) > 0).all())
        widths = [block.n_features for block in blocks]
        self.weights = Constant(np.repeat([float(block.weight) for block in blocks], widths))
        self.sizes = Constant(np.repeat(1.0 / np.asarray(widths), widths))
        self.is_weighted = any(block.weight != 1.0 for block in blocks)

    def cell_sizes(self, x: Tensor) -> Tensor:
        """Share of each feature in a cell of the table, (n_features,), where x is."""
        return self.sizes.like(x)

    def of_part(self, x: Tensor, number: int) -> Tensor:
        """Features of a part, (..., n_features) -> (..., n)."""
        if len(self.parts) == 1:
            return x
        return x.index_select(-1, self.parts[number][2].like(x))

    def together(self, parts: list[Tensor]) -> Tensor:
        """Put the features of all parts in their places, (..., n_features)."""
        joined = torch.cat(parts, dim=-1)
        return joined if self.is_sorted else joined.index_select(-1, self.places.like(joined))

    def weighted(self, x: Tensor) -> Tensor:
        """Values or shares times the weights of the columns."""
        return x * self.weights.like(x) if self.is_weighted else x

    def values(
        self, as_density: bool, output: Tensor, target: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """Loss or nats of every feature, (batch, n_features)."""
        parts = []
        for number, (part, _, _) in enumerate(self.parts):
            function, has_variance = function_of(part.loss, as_density)
            arguments = [self.of_part(x, number) for x in (output, target)]
            if has_variance:
                assert variance is not None
                arguments.append(self.of_part(variance, number))
            parts.append(function(*arguments))
        values = self.together(parts)
        return values if as_density else self.weighted(values)

    def derivatives(
        self,
        as_density: bool,
        output: Tensor,
        target: Tensor,
        shares: Tensor,
        variance: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Weighted sum of loss or nats, and its derivatives by output and variance."""
        shares = shares.expand_as(output)
        shares = shares if as_density else self.weighted(shares)
        total, by_output, by_variance = output.new_zeros(()), [], []
        for number, (part, features, _) in enumerate(self.parts):
            _, has_variance = function_of(part.loss, as_density)
            function = (part.loss.density if as_density else part.loss).with_derivatives
            arguments = [self.of_part(x, number) for x in (output, target, shares)]
            if has_variance:
                assert variance is not None
                arguments.append(self.of_part(variance, number))
            value, by_part, *by_own = function(*(x.contiguous() for x in arguments))
            total = total + value
            by_output.append(by_part)
            by_variance.append(by_own[0] if by_own else output.new_zeros(len(features)))
        if variance is None:
            return total, self.together(by_output)
        return total, self.together(by_output), self.together(by_variance)

    def activate(self, output: Tensor) -> Tensor:
        """Reconstruction of a decoder's output."""
        return self.together(
            [part.activate(self.of_part(output, i)) for i, (part, _, _) in enumerate(self.parts)]
        )

    def link(self, mean: Tensor, explained: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        """Start of the decoder at a linear code."""
        offsets, new_loadings = [], []
        for number, (part, _, _) in enumerate(self.parts):
            arguments = (self.of_part(x, number) for x in (mean, explained, loadings))
            offset, own = part.link(*arguments)
            offsets.append(offset)
            new_loadings.append(own)
        return self.together(offsets), self.together(new_loadings)

    def sample(self, mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
        """Draw from the densities around means."""
        drawn = np.empty_like(mean)
        for part, features, _ in self.parts:
            density = part.loss.density
            own = variance[features] if density.has_variance else None
            drawn[:, features] = density.sample(mean[:, features], own, rng)
        return drawn

    def scales(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Factors that give every column of a table the same weight in PCA, (n_features,).

        Numbers are divided by their standard deviation. A level of a category is divided by the
        root of its share. No direction of a column has a variance of more than one then, and PCA is
        the factor analysis of mixed data [1]_. A column of several other features counts as one
        number [2]_.

        References
        ----------
        .. [1] Pagès, "Analyse factorielle de données mixtes", Revue de statistique appliquée 52
           (2004).
        .. [2] Escofier & Pagès, "Multiple factor analysis", Computational Statistics & Data
           Analysis 18 (1994).
        """
        inertia = np.empty_like(mean)
        for block, own in zip(self.blocks, self.slices, strict=True):
            if block.loss == "categorical":
                inertia[own] = np.maximum(mean[own], SMALLEST_SHARE)
            else:
                inertia[own] = variance[own] * block.n_features
        tiny = inertia <= 1e-12 * np.maximum(1.0, np.square(mean))
        return 1.0 / np.sqrt(np.where(tiny, 1.0, inertia))

    def loss(self) -> Loss:
        """Give the composition the fields of a loss."""
        losses = [part.loss for part, _, _ in self.parts]
        low, high = (self._spread([loss.support[end] for loss in losses]) for end in (0, 1))
        density = Density(
            partial(self.values, True),
            partial(self.derivatives, True),
            self.sample,
            has_variance=any(loss.density.has_variance for loss in losses),
            by_feature=True,
        )
        units = {loss.unit for loss in losses}
        return Loss(
            partial(self.values, False),
            partial(self.derivatives, False),
            density,
            "by_block",
            unit=units.pop() if len(units) == 1 else "loss per column, as the blocks weigh it",
            on_logits=True,
            support=(low, high),
            remedy=" or ".join(dict.fromkeys(loss.remedy for loss in losses if loss.remedy)),
            learns_variance=any(loss.learns_variance for loss in losses),
            composition=self,
        )

    def _spread(self, values: list[float]) -> np.ndarray:
        """Numbers of the parts as numbers of the features."""
        spread = np.empty(sum(block.n_features for block in self.blocks))
        for (_, features, _), value in zip(self.parts, values, strict=True):
            spread[features] = value
        return spread


def function_of(loss: Loss, as_density: bool) -> tuple[Callable[..., Tensor], bool]:
    """Give what computes loss or nats of cells, and whether it takes a variance."""
    if as_density:
        return loss.density.nats, loss.density.has_variance
    return loss.elementwise, loss.learns_variance


class Activate(nn.Module):
    """Output activation of a composition."""

    def __init__(self, composition: Composition) -> None:
        super().__init__()
        self._composition = composition

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_features)."""
        return self._composition.activate(x)


def activation_of(loss: Loss, name: str) -> nn.Module:
    """Build what turns a decoder's output into a reconstruction, by its name or by blocks."""
    if loss.composition is not None:
        return Activate(loss.composition)
    return OUTPUT_ACTIVATIONS[name]()


def loss_of(loss: str | Sequence[Any]) -> Loss:
    """Give the loss that the parameter of an estimator names.

    Parameters
    ----------
    loss : str or sequence of tuple
        Key of `LOSSES`, or the blocks of a composition, as `blocks_of` takes them.

    Raises
    ------
    ValueError
        If a block is not valid.
    """
    return LOSSES[loss] if isinstance(loss, str) else Composition(blocks_of(loss)).loss()


def named_loss(loss: str | Sequence[Any]) -> str | Loss:
    """Give the name of a loss, if it has one, for errors about what it takes."""
    return loss if isinstance(loss, str) else loss_of(loss)


def blocks_of(loss: Sequence[Any]) -> list[Block]:
    """Read the blocks of a loss: its name, the number of features, their weight, unit of counts."""
    if not loss:
        raise ValueError("loss=[] has no blocks; give one for each column of the table.")
    blocks = []
    for number, entry in enumerate(loss):
        try:
            block = Block(*entry)
        except TypeError:
            block = Block("", 0)
        is_valid = (
            block.loss in OF_BLOCKS
            and isinstance(block.n_features, Integral)
            and block.n_features >= 1
            and isinstance(block.weight, Real)
            and 0.0 <= block.weight < np.inf
        )
        if not is_valid:
            raise ValueError(
                f"loss[{number}]={entry!r} is no block of a loss; give (name, number of features) "
                f"or (name, number of features, weight), with one of {sorted(OF_BLOCKS)}."
            )
        blocks.append(block)
    return blocks
