"""VAETransformer: a code, a generator and a density of the rows, learned together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from scipy.special import chdtri
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skae._base import BaseAutoencoder, Start
from skae._block_losses import activation_of, loss_of
from skae._checks import warn_of_small_columns
from skae._components import divergences
from skae._decomposition import LinearCode, most_likely_noise, probabilistic_pca
from skae._device_array import on_host
from skae._losses import (
    VARIANCE_FLOOR,
    gaussian,
    learned_variance,
    mean_of_cells,
    squared_error,
)
from skae._mixture import (
    CLUSTER_COUNTS,
    SMALLEST_SHARE,
    Choice,
    Mixture,
    MixturePrior,
    choose,
    mixture_of_rows,
    scales_of,
)
from skae._random import normal_like, uniform_like
from skae._rows import INFERENCE_BATCH_SIZE, Batch, Rows
from skae._sklearn_compat import Interval, StrOptions, validate_parameter_constraints
from skae._torch_compat import sigmoid_backward
from skae._training import ByHand, TrainableModule, encode_rows, mean_squared_residual
from skae.networks._chain import Activated, Chain, OwnWeights, chained
from skae.networks._dense import Network

# Smallest variance of a posterior, exp(-20). Where the data has little noise variances do fall to
# exp(-14), and float32 cannot tell a mean from one that is exp(-10) away.
SMALLEST_VARIANCE = math.exp(-20.0)

# Start of a component that carries nothing: a variance within 0.0004 of the prior's.
LARGEST_LOGIT = 8.0

# A step of Adam has the size of the learning rate, however large the gradient, and a variance may
# have to fall by powers of ten. With this factor it does so sooner, and solvers whose steps grow
# with the gradient stay stable.
LOG_VARIANCE_SCALE = 3.0

# Points that estimate the bound of a row, at least. On Fashion-MNIST the bounds of rows are then
# within 0.05 nats of those from 8,000 draws; from as many random draws they are 0.1 to 0.7 off.
MIN_POINTS = 32

# What "auto" keeps of the variance with losses that have no variance themselves.
SHARE_OF_VARIANCE = 0.9

# Steps after which a chain of codes and unknown cells has forgotten where it began.
N_STEPS_OF_CHAIN = 20

# Variance over the rows from which a posterior mean counts as active (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01

# Rows of a table in a file whose codes tell which components are active.
MAX_CODES = 2**16


def posterior_variance(logit: Tensor) -> Tensor:
    """Variance given as a logit, smoothly between the smallest one and that of the prior.

    In every model with a Gaussian posterior it is at most the prior's. Rows far from the training
    data cannot get one that is exponential in their distance.
    """
    return torch.sigmoid(logit) + SMALLEST_VARIANCE


def logit_of(variance: Tensor) -> Tensor:
    """Invert `posterior_variance` up to variances that nearly are those of the prior."""
    share = (variance - SMALLEST_VARIANCE).clamp(SMALLEST_VARIANCE, 1.0 - 1e-6)
    return torch.logit(share).clamp(max=LARGEST_LOGIT)


def kl_divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """Divergence of diagonal normal posteriors from the standard normal, in nats, (batch,).

    Appendix B of Kingma & Welling (2014).
    """
    return (torch.square(mean) + variance - 1.0 - variance.log()).sum(dim=-1) / 2.0


@lru_cache(maxsize=32)
def cubature_points(n_components: int) -> Tensor:
    """Points with the mean and the covariance of a standard normal distribution.

    Each block of points are the axes of a random rotation and their opposites, all at one
    distance from the origin; the distances of the blocks are quantiles of the chi distribution,
    scaled to the right second moment. Integrals of polynomials up to the third degree are exact.

    Parameters
    ----------
    n_components : int

    Returns
    -------
    Tensor of shape (n_points, n_components), float64
        At least `MIN_POINTS` and at least two for each component, the same in every call.

    References
    ----------
    Genz & Monahan, "Stochastic integration rules for infinite regions", SIAM Journal on Scientific
    Computing 19 (1998).
    """
    n_blocks = math.ceil(MIN_POINTS / (2 * n_components))
    squared = chdtri(n_components, 1.0 - (np.arange(n_blocks) + 0.5) / n_blocks)
    radii = np.sqrt(squared * (n_components / squared.mean()))
    rng = np.random.default_rng(0)
    blocks = []
    for radius in radii:
        rotation, _ = np.linalg.qr(rng.standard_normal((n_components, n_components)))
        blocks += [radius * rotation, -radius * rotation]
    return torch.from_numpy(np.concatenate(blocks))


@lru_cache(maxsize=32)
def normal_points(n_components: int, n_points: int) -> Tensor:
    """Draw standard normal numbers of low discrepancy, (n_points, n_components), float64.

    They are a scrambled Sobol sequence, the same in every call. Over all scramblings each point has
    the standard normal distribution, as importance sampling needs.
    """
    engine = torch.quasirandom.SobolEngine(n_components, scramble=True, seed=0)
    uniform = engine.draw(n_points, dtype=torch.float64)
    rounding = torch.finfo(torch.float32).eps
    return torch.special.ndtri(uniform.clamp(rounding, 1.0 - rounding))


class VariationalAutoencoder(TrainableModule):
    """A posterior of codes for each row, a likelihood of rows for each code, and their bound.

    Parameters
    ----------
    encoder : nn.Module
        (batch, n_features) -> (batch, 2 * n_components): means, then logits of variances, of the
        posterior.
    decoder : nn.Module
        (batch, n_components) -> (batch, n_features).
    loss : str or sequence of tuple
        As `loss_of` takes it. Its density is the likelihood.
    output_activation : str
        As `activation_of` takes it.
    n_features, n_components : int
    noise_variance : float or None
        Variance of the likelihood, if it has any; None learns it.
    beta : float
        Weight of the divergence in the loss.
    beta_warmup : int
        Number of epochs in which that weight rises to `beta`.
    n_clusters : int, default=1
        Number of normal distributions of codes, see `MixturePrior`. With one it is the standard
        normal distribution.
    """

    part_names = ("reconstruction_loss", "kl")

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        loss: Any,
        output_activation: str,
        n_features: int,
        n_components: int,
        noise_variance: float | None,
        beta: float,
        beta_warmup: int,
        n_clusters: int = 1,
    ) -> None:
        super().__init__()
        self._loss = loss_of(loss)
        self._density = self._loss.density
        self._noise_variance = noise_variance
        self._beta = self._warm_beta = beta
        self._beta_warmup = beta_warmup
        self.n_warmup_epochs = max(beta_warmup - 1, 0)  # the last one has the full weight
        self.encoder = encoder
        self.decoder = decoder
        self.output_activation = activation_of(self._loss, output_activation)
        self.n_clusters = n_clusters
        self.prior: MixturePrior | None = None
        shape: tuple[int, ...] = (n_components,)
        if n_clusters > 1:
            self.prior = MixturePrior(n_clusters, n_components)
            shape = (n_clusters, n_components)
        self.logit = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        if self._density.has_variance and noise_variance is None:
            n_variances = n_features if self._density.by_feature else 1
            self.scaled_log_noise = nn.Parameter(torch.zeros(n_variances, dtype=torch.float32))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of q(z|x), (batch, n_features) -> 2 x (batch, n_components)."""
        code, logit = self._encoded(x)
        if self.prior is None:
            return code, posterior_variance(logit + self.logit)
        coordinates = self.prior.coordinates(code)
        memberships = self.prior.log_memberships(coordinates).exp()
        variance = posterior_variance(logit[:, None] + self.logit)
        return self.prior.code_moments(memberships, coordinates * self.prior.gains, variance)

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give both halves of what the encoder puts out, 2 x (batch, n_components)."""
        code, logit = self.encoder(x).to(x.dtype).chunk(2, dim=-1)
        return code, logit

    def posterior_moments(self, x: Tensor) -> Tensor:
        """Means and standard deviations side by side, (batch, 2 * n_components)."""
        mean, variance = self.posterior(x)
        return torch.cat([mean, variance.sqrt()], dim=-1)

    def encode(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_components), the posterior mean."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """(batch, n_components) -> (batch, n_features), the mean of the likelihood."""
        return self.output_activation(self.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_features)."""
        return self.decode(self.encode(x))

    def elementwise_loss(self, x: Tensor) -> Tensor:
        """Loss of every cell, at the mean of the posterior, (batch, n_features)."""
        variance = (self.noise_variance(),) if self._loss.learns_variance else ()
        return self._loss.elementwise(self._output(self.encode(x), x), x, *variance)

    def reconstruction_loss(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Mean of `elementwise_loss` over the known features, (batch,)."""
        return mean_of_cells(self.elementwise_loss(x), known, self._loss.cell_sizes)

    def noise_variance(self) -> Tensor | None:
        """Variance of the likelihood, of shape (1,) or (n_features,); None if it has none."""
        if not self._density.has_variance:
            return None
        if self._noise_variance is not None:
            return self.logit.new_full((1,), self._noise_variance)
        return learned_variance(LOG_VARIANCE_SCALE * self.scaled_log_noise)

    def start_noise_variance(self, variance: Tensor) -> None:
        """Start a learned noise variance of each feature, (n_features,), or its mean."""
        if hasattr(self, "scaled_log_noise"):
            if len(self.scaled_log_noise) == 1:
                variance = variance.mean().reshape(1)
            free = (variance - VARIANCE_FLOOR).clamp(min=1e-3 * VARIANCE_FLOOR)
            self.scaled_log_noise.data = (free.log() / LOG_VARIANCE_SCALE).float()

    def start_posterior_variance(self, variance: Tensor) -> None:
        """Start the posterior variance of the first components, (..., n), and the others' at one.

        With several clusters each has its own, along its axes.
        """
        self.logit.data.fill_(LARGEST_LOGIT)
        self.logit.data[..., : variance.shape[-1]] = logit_of(variance).float()

    def elementwise_nats(self, z: Tensor, x: Tensor) -> Tensor:
        """Give -log p(x|z) of every cell, (batch, n_features)."""
        variance = self.noise_variance()
        return self._density.nats(self._output(z, x), x, *(() if variance is None else (variance,)))

    def _output(self, z: Tensor, x: Tensor) -> Tensor:
        """Decode to what loss and density take, in the dtype of x, (batch, n_features)."""
        output = self.decoder(z).to(x.dtype)
        return output if self._loss.on_logits else self.output_activation(output)

    def negative_log_likelihood(self, z: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Give -log p(x|z) of the known cells in nats, (batch,)."""
        nats = self.elementwise_nats(z, x)
        return (nats if known is None else nats * known).sum(dim=-1)

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Parts of the negative evidence lower bound in nats, (batch, 2). There is no target.

        One draw of the posterior estimates the first part in training. In evaluation mode the
        draws are the same in every call, with their opposites, so that what is monitored is
        comparable from one epoch to the next.
        """
        code, logit = self._encoded(x)
        if self.training:
            noise = normal_like(code)
            uniform = None if self.prior is None else uniform_like(code[:, :1])
            signs: tuple[int, ...] = (1,)
        else:
            generator = torch.Generator(x.device).manual_seed(0)
            draw = partial(torch.randn, dtype=code.dtype, device=code.device, generator=generator)
            noise = draw(code.shape)
            uniform = None if self.prior is None else torch.special.ndtr(draw(code[:, :1].shape))
            signs = (1, -1)
        if self.prior is None or uniform is None:
            mean, variance, place = code, posterior_variance(logit + self.logit), torch.clone
            divergence = kl_divergence(mean, variance)
        else:
            prior = self.prior
            coordinates = prior.coordinates(code)
            # The memberships are those of the codes, not trained: their best values follow from
            # the rest of the bound, so that it does not depend on them to first order.
            log_memberships = prior.log_memberships(coordinates.detach())
            cluster = prior.draw(log_memberships, uniform)
            rows = torch.arange(len(code), device=code.device)
            mean = coordinates[rows, cluster] * prior.gains[cluster]
            variance = posterior_variance(logit + self.logit[cluster])
            place = partial(prior.codes, cluster=cluster)
            divergence = kl_divergence(mean, variance)
            divergence = divergence + (log_memberships - prior.log_shares)[rows, cluster]
        noise = noise * variance.sqrt()
        nats = [
            self.negative_log_likelihood(place(mean + sign * noise), x, known) for sign in signs
        ]
        reconstruction = nats[0] if len(nats) == 1 else (nats[0] + nats[1]) / 2.0
        return torch.stack([reconstruction, divergence], dim=-1)

    def by_hand(self, precision: str) -> ByHand | None:
        """Give the derivatives of `loss` if both networks are dense and this is not a subclass."""
        if type(self) is not VariationalAutoencoder:
            return None
        own_weights = OwnWeights()
        encoder = chained(self.encoder, precision, own_weights)
        decoder = chained(self.decoder, precision, own_weights)
        if encoder is None or decoder is None:
            return None
        if not self._loss.on_logits:
            decoder = Chain([decoder, Activated(type(self.output_activation))])
        density = self._density
        logit_offset, logit_gradient = own_weights(self.logit)
        noise_gradient: Tensor | None = None
        if hasattr(self, "scaled_log_noise"):
            _, noise_gradient = own_weights(self.scaled_log_noise)
        # An operation takes a tensor in half the time that it takes a number.
        smallest_variance = logit_offset.new_tensor(SMALLEST_VARIANCE)
        prior_variance = torch.ones_like(smallest_variance)
        prior = self.prior

        def loss_and_gradients(batch: Batch) -> Tensor:
            x = batch.x
            shares = batch.shares()  # (batch, 1)
            cell_shares = shares if batch.known is None else shares * batch.known
            kl_shares = self._warm_beta * shares
            code, logit = encoder.forward(x).chunk(2, dim=-1)  # (batch, n_components)
            if prior is None:
                mean, offset = code, logit_offset
            else:
                coordinates = prior.coordinates(code)
                log_memberships = prior.log_memberships(coordinates)
                # In the order of `loss`, which draws the noise first.
                noise = normal_like(code)
                cluster = prior.draw(log_memberships, uniform_like(code[:, :1]))
                rows = torch.arange(len(code), device=code.device)
                gains = prior.gains[cluster]
                mean = coordinates[rows, cluster].mul_(gains)
                offset = logit_offset[cluster]
            sigmoid = torch.sigmoid(logit + offset)
            variance = sigmoid + smallest_variance
            if prior is None:
                noise = variance.sqrt().mul_(normal_like(variance))
                z = mean + noise
            else:
                noise.mul_(variance.sqrt())
                z = prior.codes(mean + noise, cluster)
            output = decoder.forward(z)
            noise_variance = self.noise_variance()
            if noise_variance is None:
                nats, by_output = density.with_derivatives(output, x, cell_shares)
            else:
                noise_variance = noise_variance.detach()
                nats, by_output, by_noise_variance = density.with_derivatives(
                    output, x, cell_shares, noise_variance
                )
                if noise_gradient is not None:
                    slope = noise_variance - VARIANCE_FLOOR
                    noise_gradient.add_(by_noise_variance.mul_(slope), alpha=LOG_VARIANCE_SCALE)
            by_z = decoder.backward(by_output)
            if prior is not None:
                by_z = prior.coordinates_of(by_z, cluster)  # by w, from here on
            excess = variance - prior_variance
            # From here on tensors are overwritten when they are read for the last time: the
            # divergence reads `excess`, the next line scales it in place, and `by_z` becomes the
            # derivative by the mean only after the one by the variance has used it.
            divergence = torch.addcmul(excess, mean, mean).sub_(variance.log())
            # Of the logarithm of the variance: noise is its root times what was drawn.
            by_log_variance = noise.mul_(by_z).add_(excess.mul_(kl_shares))
            by_logit = sigmoid_backward(by_log_variance.div_(variance + variance), sigmoid)
            by_mean = by_z.addcmul_(mean, kl_shares)
            kl = divergence.mul_(batch.shares(2)).sum()
            if prior is None:
                logit_gradient.add_(by_logit.sum(dim=0))
            else:
                logit_gradient.index_add_(0, cluster, by_logit)
                by_mean = prior.by_code(by_mean.mul_(gains), cluster)
                log_ratio = (log_memberships - prior.log_shares)[rows, cluster]
                kl = kl + torch.dot(log_ratio, shares.expand(len(code), 1).reshape(-1))
            encoder.accumulate(torch.cat([by_mean, by_logit], dim=-1))
            return torch.stack([nats, kl])

        return ByHand(loss_and_gradients, own_weights.parameters)

    def begin_epoch(self, number: int) -> None:
        """Raise the weight of the divergence, linearly over the epochs of the warm-up."""
        self._warm_beta = self._beta * min(1.0, number / max(self._beta_warmup, 1))

    def total(self, losses: Tensor) -> Tensor:
        """Weigh the divergence, (..., 2) -> (...)."""
        beta = self._warm_beta if self.training else self._beta
        return losses[..., 0] + beta * losses[..., 1]

    def score(self, x: Tensor, n_importance_samples: int, known: Tensor | None = None) -> Tensor:
        """Lower bound of log p(x) in nats, or of that of the known cells, (batch,).

        The evidence lower bound, or with several samples that of importance weights.
        """
        code, logit = self._encoded(x)
        prior = self.prior
        if prior is None:
            variance = posterior_variance(logit + self.logit)
            return self._bound(x, known, code, variance, n_importance_samples, torch.clone)
        coordinates = prior.coordinates(code)
        log_memberships = prior.log_memberships(coordinates)
        log_densities = torch.full_like(log_memberships, -math.inf)
        for cluster in range(self.n_clusters):
            rows = (log_memberships[:, cluster] > math.log(SMALLEST_SHARE)).nonzero()[:, 0]
            if len(rows) > 0:
                log_densities[rows, cluster] = prior.log_shares[cluster] + self._bound(
                    x[rows],
                    None if known is None else known[rows],
                    coordinates[rows, cluster] * prior.gains[cluster],
                    posterior_variance(logit[rows] + self.logit[cluster]),
                    n_importance_samples,
                    partial(prior.codes_in, cluster),
                )
        return log_densities.logsumexp(dim=-1)

    def _bound(
        self,
        x: Tensor,
        known: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        n_importance_samples: int,
        place: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Lower bound with a standard normal prior of w, whose code `place` gives, (batch,)."""
        std = variance.sqrt()
        weighted = n_importance_samples > 1
        if weighted:
            points = normal_points(mean.shape[1], n_importance_samples)
        else:
            points = cubature_points(mean.shape[1])
        n_rows, n_points = len(x), len(points)
        bound = x.new_full((n_rows,), -math.inf if weighted else 0.0)
        for chunk in points.to(x).split(max(1, INFERENCE_BATCH_SIZE // n_rows)):
            w = mean + chunk[:, None] * std  # (n_points of the chunk, batch, n_components)
            rows = x.expand(len(chunk), *x.shape).flatten(0, 1)
            cells = None if known is None else known.expand(len(chunk), *x.shape).flatten(0, 1)
            log_weight = -self.negative_log_likelihood(place(w).flatten(0, 1), rows, cells)
            log_weight = log_weight.reshape(len(chunk), n_rows)
            if weighted:
                # log p(w) - log q(w|x)
                log_ratio = (torch.square(chunk)[:, None] + variance.log() - torch.square(w)) / 2.0
                log_weight = log_weight + log_ratio.sum(dim=-1)
                bound = torch.logaddexp(bound, log_weight.logsumexp(dim=0))
            else:
                bound += log_weight.sum(dim=0)
        if weighted:
            return bound - math.log(n_points)
        return bound / n_points - kl_divergence(mean, variance)


class VAETransformer(BaseAutoencoder):
    """Variational autoencoder: a code, a generator and a density of the rows.

    Rows x are thought to come from codes z through a decoder and noise, p(x|z). The codes are those
    of one or several clusters, each a normal distribution. An encoder gives the distribution q(z|x)
    that approximates the posterior of the code of a row. Both are trained to raise the evidence
    lower bound

    ``log p(x) >= E[log p(x|z)] - KL(q(z|x) || p(z))``,

    in nats and summed over the features. By default the two begin at the linear model, which needs
    no training: a mixture of probabilistic PCAs, whose bound is its log-density. With one cluster
    that is the log-density of PCA. They leave it only where that raises the bound of rows that are
    held out. A learned noise variance takes the place of a weight of the divergence that would have
    to be tuned.

    Parameters
    ----------
    n_components : "auto", int or float, default="auto"
        Length of the code. "auto" is the one under which unseen rows are most likely: that of
        probabilistic PCA, or all columns if clusters need less noise than that leaves. It is made
        for the density, and often nearly as long as the row; give a number for a short code. With
        the losses "bernoulli" and "poisson" it stands for 0.9. A float between 0 and 1 means as
        many components as PCA needs to keep that share of the variance: hundreds for wide tables
        whose columns have little in common, such as counts of words. ``verbose=True`` shows how
        many, and an integer is faster then. A code longer than the row is allowed.
    n_clusters : "auto" or int, default="auto"
        Number of normal distributions that the codes come from. With 1 it is the standard normal
        distribution, and the start is probabilistic PCA. "auto" takes 1, 2, 4, 8 or 16: twice as
        many for as long as that raises the density of held-out rows by more than its standard
        error. It is 1 where there is no linear code to find clusters in, with a `network` or
        ``init="random"``, and with other losses than "squared_error" and "gaussian".
    hidden_layer_sizes : int or sequence of int, default=(128, 64)
        Units of each hidden layer of the encoder; the decoder mirrors them. With ``()`` both are
        one linear layer.
    activation : {"relu", "tanh", "logistic", "identity", "gelu", "silu", "elu", "selu"}, \
            default="silu"
        Activation of the hidden layers. The code itself has none.
    network : callable, default=None
        Architecture. None is the dense network that the parameters around this one describe.
        Otherwise one of `skae.networks`, or any callable ``(n_features, n_components) -> (encoder,
        decoder)`` that returns two `torch.nn.Module`, of (batch, n_features) -> (batch,
        n_components) and back. It is called twice: with ``2 * n_components``, for an encoder that
        gives means and logits of variances, and with `n_components`, for the decoder. The
        parameters of the dense network then stay at their defaults, and `init` has no effect. A
        callable must be picklable if the estimator is to be.
    init : {"pca", "random"}, default="pca"
        Start of the dense network. "pca" gives encoder and decoder a linear path beside the
        non-linear one, and puts the paths at the solution of probabilistic PCA of the rows that are
        trained on, or of a mixture of them. Where training does not raise the monitored bound by
        more than its standard error, `fit` returns that of all rows. With a logistic output the
        start is PCA to first order. "random" is the plain network with Glorot's weights, which is
        the start of Keras.
    use_bias : bool, default=True
        Whether layers add a bias. If False, centre the columns of X.
    loss : {"squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"} or list of \
            tuple, default="squared_error"
        Likelihood p(x|z). "squared_error" is a normal distribution with one variance for all
        features; "gaussian" is one with a variance for each feature; "absolute_error" is a Laplace
        distribution with one variance for all features, whose tails are longer; "bernoulli" is for
        binary values, and takes shares such as pixels in [0, 1] too, for which it is not a density;
        "poisson" is for counts. A list such as
        ``[("categorical", 5), ("squared_error", 1)]`` gives blocks of columns losses of their own,
        see the user guide.
    output_activation : "auto" or one of the activations, default="auto"
        Activation of the reconstruction. "auto" is "logistic" for the loss "bernoulli",
        "exponential" for "poisson", and "identity" for the others.
    noise_variance : "learned" or float, default="learned"
        Variance of the distribution around the reconstruction, in squared units of X. A learned one
        is at least 1e-6, so that the density of degenerate data stays finite. A float is for
        measured noise, and needs a loss with one variance: "squared_error" or "absolute_error".
    beta : float, default=1.0
        Weight of the divergence in training. Values above one give codes of fewer, more
        independent components, values below one sharper reconstructions and a prior that codes do
        not follow. Scores are bounds of the log-density for any `beta`.
    beta_warmup : int, default=0
        Number of epochs in which the weight of the divergence rises linearly to `beta`. Networks
        that do not start at PCA may need it, lest components collapse before they are used.
        Patience is counted from its end.
    n_importance_samples : int, default=1
        Number of draws from the posterior for `score_samples`. With one, the score is the evidence
        lower bound, with the expectation taken over a fixed set of points; with more, it is the
        tighter bound of importance-weighted autoencoders. Takes effect without a new fit.
    dropout : float, default=0.0
        Probability that a hidden unit is left out of a training step.
    alpha : float, default=0.0
        Strength of the L2 penalty ``alpha / 2 * ||W||**2`` on the weight matrices, beside the mean
        loss of a row. Solver "adamw" decays the weights apart from the gradient instead.
        `loss_curve_` does not include it.
    solver : {"adam", "adamw", "sgd", "adadelta", "rmsprop"}, default="adam"
        Optimizer. "sgd" uses Nesterov's momentum of 0.9.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule; "cosine" falls to zero at the end of `max_iter` epochs.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate of the first step. "auto" is 0.003 for adam and adamw, 0.001 for rmsprop, 0.01
        for sgd and 1 for adadelta.
    batch_size : int, default=64
        Rows per step. The last step of an epoch takes what is left.
    max_iter : int, default=100
        Number of epochs, that is passes over the data, if nothing stops training before.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their loss no longer falls and return the weights for
        which it was lowest. If False, the training loss decides when to stop and the last weights
        are returned.
    validation_fraction : float, default=0.1
        Share of the rows to hold out for early stopping.
    n_iter_no_change : int, default=10
        Training stops after this many epochs in a row without progress.
    tol : float, default=1e-4
        Progress is a loss lower than the best one by more than this share of it.
    shuffle : bool, default=True
        Whether to take the rows in a new order in every epoch.
    warm_start : bool, default=False
        Whether `fit` continues from the weights of the previous fit, with what the solver remembers
        and, for a table of the same length, with the same rows held out. The schedule of the
        learning rate begins anew.
    precision : {"float32", "bf16"}, default="float32"
        Precision of the matrix products of training. "bf16" is faster on hardware that has it and
        on large layers. Weights are float32 either way, and results have the precision of X.
    device : str, default="auto"
        Where to train and transform: "cpu", "cuda", "cuda:1", "mps", or "auto", which takes a CUDA
        device if there is one and a step is at least 2**24 multiply-adds (`batch_size` times the
        number of weights).
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the held-out rows, the order of rows, the draws of codes
        and dropout. Torch's global random state is not touched. Pass an int for the same model in
        every call on the same machine.
    verbose : bool, default=False
        Whether to show a progress bar, with the length of the code and the number of weights.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, on the CPU and in evaluation mode. Its child `encoder` gives means and
        logits of variances of the posterior, its child `decoder` is that of the code.
    n_components_ : int
        Length of the code.
    n_clusters_ : int
        Number of clusters of codes. It is below `n_clusters` where some found no rows.
    noise_variance_ : float, ndarray of shape (`n_features_in_`,) or None
        Variance of the distribution around the reconstruction, in squared units of X: one for all
        features, or with ``loss="gaussian"`` one for each. None with the losses "bernoulli" and
        "poisson", whose mean is all that they have.
    active_units_ : int
        Number of components whose posterior mean varies over the training rows by more than 0.01
        (Burda et al. 2016): those that carry information.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had any that are all strings.
    n_iter_ : int
        Number of epochs trained.
    loss_curve_ : list of float
        Mean loss of each epoch over its batches, each before its step, in nats per row: the sum of
        the two curves below, the second one times the weight that it had.
    reconstruction_loss_curve_ : list of float
        Mean of -log p(x|z) of each epoch, in nats per row.
    kl_curve_ : list of float
        Mean divergence of the posterior from the prior of each epoch, in nats per row.
    validation_loss_curve_ : list of float or None
        Mean loss of the held-out rows after each epoch, with the full `beta`; None without early
        stopping.
    pretrain_loss_curves_ : list of list of float
        Empty.
    best_loss_ : float
        With early stopping the validation loss of the weights that are returned, otherwise the
        lowest training loss.
    loss_unit_ : str
        What `loss_curve_` shows, with its unit.
    device_ : str
        Device of the training.

    See Also
    --------
    PCA : Its `score_samples` is the log-density that training starts at with one cluster.
    sklearn.mixture.GaussianMixture : The mixture without a short code, noise or networks.
    AutoencoderTransformer : Reconstruction without a density.
    sklearn.decomposition.FactorAnalysis : The linear model with a noise variance for each feature.

    Notes
    -----
    Scale the features first, for example with `StandardScaler`: training expects values of the
    order of one. A change of scale moves all log-densities by a constant, so compare them on the
    same scale.

    The loss is a sum over the features, so that its gradients grow with their number: solver "sgd"
    may need a smaller `learning_rate_init` for wide data. The other solvers do not mind.

    References
    ----------
    Kingma & Welling, "Auto-encoding variational Bayes", ICLR (2014).

    Rezende, Mohamed & Wierstra, "Stochastic backpropagation and approximate inference in deep
    generative models", ICML (2014).

    Rybkin, Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders", ICML
    (2021). The learned noise variance.

    Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR (2016).

    Tipping & Bishop, "Mixtures of probabilistic principal component analysers", Neural Computation
    11 (1999).

    Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational
    framework", ICLR (2017).

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skae import PCA, VAETransformer
    >>> X = StandardScaler().fit_transform(load_breast_cancer().data)
    >>> vae = VAETransformer(5, random_state=0).fit(X[::2])
    >>> vae.transform(X).shape
    (569, 5)
    >>> vae.sample(5, random_state=0).shape
    (5, 30)
    >>> vae.score(X[1::2]) > PCA(5).fit(X[::2]).score(X[1::2])
    True
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **{
            name: constraint
            for name, constraint in BaseAutoencoder._parameter_constraints.items()
            if name not in ("tied_weights", "sparsity", "contraction", "pretrain_iter")
        },
        "n_components": [
            StrOptions({"auto"}),
            *BaseAutoencoder._parameter_constraints["n_components"],
        ],
        "n_clusters": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "noise_variance": [StrOptions({"learned"}), Interval(Real, 0, None, closed="neither")],
        "beta": [Interval(Real, 0, None, closed="left")],
        "beta_warmup": [Interval(Integral, 0, None, closed="left")],
        "n_importance_samples": [Interval(Integral, 1, None, closed="left")],
    }

    _holds_out_from_start = True

    def __init__(
        self,
        n_components: int | float | Literal["auto"] = "auto",
        *,
        n_clusters: int | Literal["auto"] = "auto",
        hidden_layer_sizes: int | Sequence[int] = (128, 64),
        activation: str = "silu",
        network: Network | None = None,
        init: Literal["pca", "random"] = "pca",
        use_bias: bool = True,
        loss: Literal["squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"]
        | Sequence[tuple] = "squared_error",
        output_activation: str = "auto",
        noise_variance: float | Literal["learned"] = "learned",
        beta: float = 1.0,
        beta_warmup: int = 0,
        n_importance_samples: int = 1,
        dropout: float = 0.0,
        alpha: float = 0.0,
        solver: Literal["adam", "adamw", "sgd", "adadelta", "rmsprop"] = "adam",
        learning_rate: Literal["constant", "cosine"] = "cosine",
        learning_rate_init: float | Literal["auto"] = "auto",
        batch_size: int = 64,
        max_iter: int = 100,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        shuffle: bool = True,
        warm_start: bool = False,
        precision: Literal["float32", "bf16"] = "float32",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.n_clusters = n_clusters
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.network = network
        self.init = init
        self.use_bias = use_bias
        self.loss = loss
        self.output_activation = output_activation
        self.noise_variance = noise_variance
        self.beta = beta
        self.beta_warmup = beta_warmup
        self.n_importance_samples = n_importance_samples
        self.dropout = dropout
        self.alpha = alpha
        self.solver = solver
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Learn to encode and decode the rows of X, and their density.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data, at least two rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows; a row of weight zero counts as absent.
        X_val : {array-like, sparse matrix} of shape (n_validation_samples, n_features), \
                default=None
            Rows for early stopping, in place of a share of X; all rows of X are then trained on. In
            a Pipeline they must have passed the steps before this one.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Non-negative weights of these rows.

        Returns
        -------
        self : object
            The fitted estimator. If fitting fails or is interrupted, an earlier fit stays as it
            was.

        Raises
        ------
        ValueError
            If a parameter or the data is not valid, or if training diverges.
        """
        return self._fit(X, sample_weight, validation_data=(X_val, sample_weight_val))

    def partial_fit(
        self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Pass once over the rows of X, starting from the current weights.

        The solver keeps its memory from one call to the next, and the learning rate stays at
        `learning_rate_init`. Nothing is held out: `max_iter`, `tol` and the parameters of early
        stopping have no effect here. Each call counts as an epoch of `beta_warmup`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Some of the training data. On the first call, a fractional `n_components` is resolved
            on these rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows.

        Returns
        -------
        self : object
            The fitted estimator. If the pass fails, the estimator stays as it was.

        Raises
        ------
        ValueError
            If a parameter or the data is not valid, or if training diverges.
        """
        return self._partial_fit(X, sample_weight)

    def posterior(self, X: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Approximate posterior q(z|x) of the code of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        mean : ndarray of shape (n_samples, `n_components_`)
            What `transform` gives, in the dtype of X.
        std : ndarray of shape (n_samples, `n_components_`)
            Standard deviation along each component. Where a component carries nothing about the
            row, it is that of the codes of all rows: one, with one cluster.
        """
        moments = self._apply("posterior_moments", self._read(X)[0])
        return moments[:, : self.n_components_], moments[:, self.n_components_ :]

    def impute(
        self,
        X: ArrayLike,
        n_draws: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Any:
        """Fill the unknown cells of X, by what is expected or by draws.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data. NaN, None, NA, null and masked cells are unknown.
        n_draws : int, default=None
            Number of tables to give, in which unknown cells are drawn from their distribution given
            the known cells of the row: multiple imputation. None gives one table with what the
            known cells let expect.
        random_state : int, RandomState instance or None, default=None
            Determines the draws.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_features) or (n_draws, n_samples, n_features)
            In the dtype of X. Known cells are as they are. Without `n_draws`, `set_output` turns it
            into a DataFrame.

        Raises
        ------
        ValueError
            If `n_draws` is neither None nor a positive integer.

        Notes
        -----
        A draw is the end of a chain of 20 steps: a code from the posterior of the filled row, and
        unknown cells from the likelihood around the decoded code.

        References
        ----------
        Rezende, Mohamed & Wierstra, "Stochastic backpropagation and approximate inference in deep
        generative models", ICML (2014), appendix F.

        Mattei & Frellsen, "Leveraging the exact likelihood of deep latent variable models", NeurIPS
        (2018).
        """
        if n_draws is None:
            return super().impute(X)
        if not isinstance(n_draws, Integral) or isinstance(n_draws, bool) or n_draws < 1:
            raise ValueError(f"n_draws={n_draws!r} must be None or an integer of at least 1.")
        rng = check_random_state(random_state)
        expected, known = self._read(X)
        rows = expected.toarray() if issparse(expected) else expected
        draws = np.repeat(rows[np.newaxis], n_draws, axis=0)
        if known is None:
            return draws
        gaps = np.flatnonzero(~known.all(axis=1))
        drawn = np.tile(rows[gaps], (n_draws, 1))
        is_known = np.tile(known[gaps], (n_draws, 1))
        for _ in range(N_STEPS_OF_CHAIN):
            drawn = np.where(is_known, drawn, self._draw_around(drawn, rng))
        draws[:, gaps] = drawn.reshape(n_draws, len(gaps), -1)
        return draws

    def _draw_around(self, rows: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Draw rows from the likelihood, given codes drawn from the posteriors of complete rows."""
        mean, std = np.split(self._apply("posterior_moments", rows), 2, axis=1)
        codes = (mean + std * rng.standard_normal(mean.shape)).astype(rows.dtype)
        density = loss_of(self._fitted_loss).density
        drawn = density.sample(self._apply("decode", codes), self.noise_variance_, rng)
        low, high = loss_of(self._fitted_loss).support
        return np.clip(drawn, low, high).astype(rows.dtype, copy=False)

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
        *,
        with_noise: bool = False,
    ) -> np.ndarray:
        """Generate new rows: decode codes drawn from the clusters.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Determines the draws.
        with_noise : bool, default=False
            Whether to draw from p(x|z) rather than to give its mean. With noise the rows have the
            distribution of the model; without it they are smoother than data.

        Returns
        -------
        X : ndarray of shape (n_samples, `n_features_in_`), float64
            New rows.

        Raises
        ------
        ValueError
            If `n_samples` is not a positive integer.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} must be an integer of at least 1.")
        rng = check_random_state(random_state)
        X = self._apply("decode", self._draw_codes(int(n_samples), rng))
        if not with_noise:
            return X
        density = loss_of(self._fitted_loss).density
        return density.sample(X, self.noise_variance_, rng)

    def _draw_codes(self, n: int, rng: np.random.RandomState) -> np.ndarray:
        """Draw codes from the clusters, (n, n_components)."""
        codes = rng.standard_normal((n, self.n_components_))
        prior: Any = self.module_.prior
        if prior is None:
            return codes
        clusters = rng.choice(self.n_clusters_, size=n, p=prior.shares())
        return prior.place_codes(codes, clusters)

    def _describe_codes(self, rows: Any) -> dict[str, np.ndarray]:
        moments = self._apply("posterior_moments", rows)
        return {"divergence": divergences(*np.split(moments, 2, axis=1))}

    def _build_module(
        self, n_features: int, n_components: int, start: Start | None = None
    ) -> VariationalAutoencoder:
        self._check_likelihood()
        encoder, _ = self._build_network(n_features, 2 * n_components)
        _, decoder = self._build_network(n_features, n_components)
        fixed = None if self.noise_variance == "learned" else float(self.noise_variance)
        noise, mixture, n_clusters = 0.0, None, 1
        if start is None:
            n_clusters = int(getattr(self, "n_clusters_", self.n_clusters))
        elif start.linear is not None:
            choice = start.choice
            noise = most_likely_noise(start.linear, n_features, fixed, choice.noise_share)
            if choice.n_clusters > 1:
                mixture = mixture_of_rows(start.rows, start.linear, choice.n_clusters, noise)
                n_clusters = len(mixture.shares)
        module = VariationalAutoencoder(
            encoder,
            decoder,
            loss=self.loss,
            output_activation=self._output_activation(),
            n_features=n_features,
            n_components=n_components,
            noise_variance=fixed,
            beta=self.beta,
            beta_warmup=self.beta_warmup,
            n_clusters=n_clusters,
        )
        if start is None:
            return module
        if hasattr(module, "scaled_log_noise"):
            warn_of_small_columns(self, start.rows)
        if start.linear is None:
            module.start_noise_variance(mean_squared_residual(module.reconstruct, start.rows))
            return module
        self._anchor_at_mixture(module, start.linear, noise, mixture)
        # Of huge columns it is infinite in float32, which training says in words.
        noise_by_feature = np.full(n_features, noise) / np.square(start.linear.scales)
        module.start_noise_variance(torch.from_numpy(noise_by_feature).float())
        return module

    def _anchor_at_mixture(
        self,
        module: VariationalAutoencoder,
        linear: LinearCode,
        noise_variance: float,
        mixture: Mixture | None,
    ) -> None:
        """Start at probabilistic PCA, or at a mixture of them."""
        scales, variances = probabilistic_pca(linear, noise_variance)
        projection = (variances * scales / noise_variance)[:, np.newaxis] * linear.axes
        if mixture is None or module.prior is None:
            module.start_posterior_variance(torch.from_numpy(variances))
        else:
            code_variances = np.maximum(linear.variances, noise_variance)
            scales = scales_of(code_variances, noise_variance)
            projection = (scales / code_variances)[:, np.newaxis] * linear.axes
            module.prior.place(mixture, noise_variance, code_variances)
            module.start_posterior_variance(torch.from_numpy(noise_variance / mixture.variances))
        loadings = scales[:, np.newaxis] * linear.axes
        self._anchor((module.encoder, module.decoder), linear, projection, loadings)

    def _length(self) -> int | float | None:
        if not isinstance(self.n_components, str):
            return self.n_components
        # Without one variance of the noise the density of a linear code is not that of the rows.
        has_variance = isinstance(self.loss, str) and loss_of(self.loss).density.has_variance
        return None if has_variance else SHARE_OF_VARIANCE

    def _choice(self, rows: Rows, n_components: int | None) -> Choice:
        fixed = None if self.noise_variance == "learned" else float(self.noise_variance)
        if not isinstance(self.n_clusters, str):
            counts: tuple[int, ...] = (int(self.n_clusters),)
        elif (
            self._is_anchored()
            and isinstance(self.loss, str)
            and loss_of(self.loss).elementwise in (squared_error, gaussian)
            and rows.known is None  # filled cells have less variance than they should
        ):
            counts = CLUSTER_COUNTS
        else:
            counts = (1,)
        if n_components is not None and len(counts) == 1:
            return Choice(n_components, counts[0])
        return choose(rows, n_components, counts, fixed)

    def _resolved_parameters(self, module: TrainableModule) -> dict[str, Any]:
        assert isinstance(module, VariationalAutoencoder)
        return {"n_clusters": module.n_clusters}

    def _check_likelihood(self) -> None:
        density = loss_of(self.loss).density
        shares_variance = density.has_variance and not density.by_feature
        if self.noise_variance != "learned" and not shares_variance:
            raise ValueError(
                f"noise_variance={self.noise_variance} fixes one variance for all features, which "
                f"loss={self.loss!r} does not have; use loss='squared_error' or "
                "noise_variance='learned'."
            )
        has_code = self._is_anchored() and isinstance(self.loss, str)
        if not isinstance(self.n_clusters, str) and self.n_clusters > 1 and not has_code:
            raise ValueError(
                f"n_clusters={self.n_clusters} needs the dense network with init='pca' and one "
                "loss for all columns, whose linear code the clusters are fitted in; use "
                "network=None and init='pca', or n_clusters=1."
            )
        if self.beta_warmup > self.max_iter:
            raise ValueError(
                f"beta_warmup={self.beta_warmup} does not end within max_iter={self.max_iter} "
                "epochs, so that beta would never be reached; raise max_iter or shorten the "
                "warm-up."
            )

    def _attributes_of_model(self, module: TrainableModule, rows: Rows) -> dict[str, Any]:
        assert isinstance(module, VariationalAutoencoder)
        codes, weights = encode_rows(module.eval().encode, rows.spread_over(MAX_CODES)).source()
        codes = on_host(codes)
        centred = codes - np.average(codes, axis=0, weights=weights)
        variances = np.average(np.square(centred), axis=0, weights=weights)
        noise_variance: Any = module.noise_variance()
        if self.noise_variance != "learned":
            noise_variance = float(self.noise_variance)
        elif noise_variance is not None:
            noise_variance = noise_variance.detach().cpu().double().numpy()
            if not loss_of(self.loss).density.by_feature:
                noise_variance = float(noise_variance[0])
        return {
            "active_units_": int(np.count_nonzero(variances > ACTIVE_VARIANCE)),
            "n_clusters_": module.n_clusters,
            "noise_variance_": noise_variance,
        }

    def _loss_unit(self) -> str:
        return "minus the evidence lower bound (nats per row)"

    def _score_arguments(self) -> tuple[Any, ...]:
        name = "n_importance_samples"
        validate_parameter_constraints(
            {name: self._parameter_constraints[name]},
            {name: getattr(self, name)},
            type(self).__name__,
        )
        return (self.n_importance_samples,)
