"""Recurrent encoder and decoder of sequences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from typing import Any, ClassVar, Literal

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skae._documentation import DocumentationLinkMixin
from skae._sklearn_compat import Interval, StrOptions
from skae._torch_compat import has_bf16_recurrences
from skae.networks._shapes import SEQUENCE_AXES, row_shape

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def make_recurrence(cell: str, n_inputs: int, hidden_size: int, n_layers: int) -> nn.GRU | nn.LSTM:
    """Build a recurrence that forgets slowly when training begins.

    Orthogonal matrices between states keep their length over many steps (Saxe, McClelland &
    Ganguli 2014); a forget gate of bias one starts open (Jozefowicz, Zaremba & Sutskever 2015).
    """
    recurrence = CELLS[cell](n_inputs, hidden_size, n_layers, batch_first=True)
    for name, weights in recurrence.named_parameters():
        if name.startswith("weight_hh"):
            for gate in weights.detach().split(hidden_size):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            nn.init.xavier_uniform_(weights)
        else:
            nn.init.zeros_(weights)
            if cell == "lstm" and name.startswith("bias_ih"):
                nn.init.ones_(weights.detach()[hidden_size : 2 * hidden_size])
    return recurrence


class RecurrentEncoder(nn.Module):
    """Read a sequence from start to end; the code is a linear map of the last state.

    Parameters
    ----------
    recurrence : nn.GRU or nn.LSTM
        (batch, n_steps, n_channels) -> (batch, n_steps, hidden_size).
    sequence_shape : tuple of int
        n_steps, n_channels.
    n_components : int
        Length of the code.
    """

    def __init__(
        self, recurrence: nn.GRU | nn.LSTM, sequence_shape: tuple[int, ...], n_components: int
    ) -> None:
        super().__init__()
        self.sequence_shape = sequence_shape
        self.recurrence = recurrence
        # Not "code": modules that torch.export makes have an attribute of this name.
        self.to_code = nn.Linear(recurrence.hidden_size, n_components)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_steps * n_channels) -> (batch, n_components)."""
        with twice_differentiable(x):
            states = states_of(self.recurrence, x.unflatten(1, self.sequence_shape))
        return self.to_code(states[:, -1])


class RecurrentDecoder(nn.Module):
    """Write a sequence from end to start, from a state that the code gives.

    Parameters
    ----------
    recurrence : nn.GRU or nn.LSTM
        (batch, n_steps, n_components) -> (batch, n_steps, hidden_size).
    sequence_shape : tuple of int
        n_steps, n_channels.
    """

    def __init__(self, recurrence: nn.GRU | nn.LSTM, sequence_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.n_steps, n_channels = sequence_shape
        self.recurrence = recurrence
        n_states = recurrence.num_layers * (2 if isinstance(recurrence, nn.LSTM) else 1)
        self.first_state = nn.Linear(recurrence.input_size, n_states * recurrence.hidden_size)
        self.step = nn.Linear(recurrence.hidden_size, n_channels)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, n_components) -> (batch, n_steps * n_channels)."""
        first_state = self.first_state(z).tanh()  # (batch, n_states * hidden_size)
        first_state = first_state.unflatten(1, (-1, self.recurrence.hidden_size))
        first_state = first_state.transpose(0, 1).contiguous()  # (n_states, batch, hidden_size)
        codes = z[:, None].expand(-1, self.n_steps, -1)  # (batch, n_steps, n_components)
        states = states_of(self.recurrence, codes, first_state)
        return self.step(states.flip(1)).flatten(1)


def states_of(
    recurrence: nn.GRU | nn.LSTM, inputs: Tensor, first_state: Tensor | None = None
) -> Tensor:
    """Run a recurrence, (batch, n_steps, n_inputs) -> (batch, n_steps, hidden_size).

    The first state, (n_states, batch, hidden_size), is zero without one.
    """
    precision: AbstractContextManager = nullcontext()
    place = inputs.device.type
    if not has_bf16_recurrences(inputs.device) and torch.is_autocast_enabled(place):
        precision = torch.autocast(place, enabled=False)
        inputs = inputs.float()
        first_state = None if first_state is None else first_state.float()
    state: Any = first_state
    if first_state is not None and isinstance(recurrence, nn.LSTM):
        state = first_state.chunk(2)
    with scattered_weights(inputs), precision:
        states, _ = recurrence(inputs, state)
    return states


def twice_differentiable(x: Tensor) -> AbstractContextManager:
    """Context in which a recurrence over rows has second derivatives.

    cuDNN's recurrence has none, but the penalty on the encoder's Jacobian needs them. Rows require
    gradients for no other purpose.
    """
    return torch.backends.cudnn.flags(enabled=False) if x.requires_grad else nullcontext()


@contextmanager
def scattered_weights(x: Tensor) -> Iterator[None]:
    """Context in which a recurrence does not warn where its weights are.

    While training they are parts of one vector, in an order that is not cuDNN's. It copies them.
    """
    if not x.is_cuda:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        yield


class RecurrentNetwork(DocumentationLinkMixin, BaseEstimator):
    """Recurrent encoder and decoder of sequences.

    A value of `network` in the estimators. The encoder reads the time steps one after the other
    and keeps what it has seen in a state of `hidden_size` numbers; the code is a linear map of the
    last state. The decoder's first state is computed from the code, it reads the code again at
    each step, and it writes the sequence from its last step to its first.

    Parameters
    ----------
    sequence_shape : tuple of int
        Number of time steps and number of channels, that is of values per time step. A row of X
        is one sequence, ``sequence.reshape(-1)`` of an array of this shape: the channels of the
        first time step side by side, then those of the second.
    hidden_size : int, default=32
        Length of the state, in the encoder and in the decoder.
    cell : {"gru", "lstm"}, default="lstm"
        How a state follows from the one before: gated recurrent unit [1]_ or long short-term
        memory [2]_. The latter has a third more weights, but is some three times as fast on a CPU,
        where Torch has a fused kernel for it.
    n_layers : int, default=1
        Recurrences on top of each other, each reading the states of the one below.

    See Also
    --------
    skae.networks.Conv1dNetwork : Looks at all time steps at once, and trains faster.

    Notes
    -----
    Writing backwards is the design of [3]_: the state that ends the reading begins the writing,
    so that the decoder starts with what the encoder saw last and short memories pay from the
    first epoch on. Reading the code at each step is that of [1]_. The decoder never reads the
    true or its own last step ("unconditional" in [3]_), because the neighbouring step would say
    much of what the code is there to learn, and a reconstruction would depend on more than the
    code.

    References
    ----------
    .. [1] Cho, van Merriënboer, Gulcehre et al., "Learning phrase representations using RNN
       encoder-decoder for statistical machine translation", EMNLP (2014).
    .. [2] Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).
    .. [3] Srivastava, Mansimov & Salakhutdinov, "Unsupervised learning of video representations
       using LSTMs", ICML (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from skae import AutoencoderTransformer
    >>> from skae.networks import RecurrentNetwork
    >>> time = np.arange(20)
    >>> phase = np.linspace(0, 2 * np.pi, 200)[:, np.newaxis]
    >>> X = np.sin(time / 4 + phase)  # 200 sequences of 20 steps and one channel
    >>> network = RecurrentNetwork(sequence_shape=(20, 1), hidden_size=16)
    >>> autoencoder = AutoencoderTransformer(2, network=network, max_iter=2, random_state=0)
    >>> autoencoder.fit_transform(X).shape
    (200, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "sequence_shape": ["array-like"],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "cell": [StrOptions(set(CELLS))],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        sequence_shape: Sequence[int],
        hidden_size: int = 32,
        *,
        cell: Literal["gru", "lstm"] = "lstm",
        n_layers: int = 1,
    ) -> None:
        self.sequence_shape = sequence_shape
        self.hidden_size = hidden_size
        self.cell = cell
        self.n_layers = n_layers

    def __call__(self, n_features: int, n_components: int) -> tuple[nn.Module, nn.Module]:
        """Build the networks.

        Parameters
        ----------
        n_features : int
            Number of columns of the rows, the product of `sequence_shape`.
        n_components : int
            Length of the code.

        Returns
        -------
        encoder, decoder : torch.nn.Module
            (batch, n_features) -> (batch, n_components) and back.

        Raises
        ------
        ValueError
            If a parameter is not valid or does not fit the rows.
        """
        self._validate_params()
        shape = row_shape("sequence_shape", self.sequence_shape, SEQUENCE_AXES, n_features)
        reading, writing = (
            make_recurrence(self.cell, n_inputs, self.hidden_size, self.n_layers)
            for n_inputs in (shape[1], n_components)
        )
        return (
            RecurrentEncoder(reading, shape, n_components),
            RecurrentDecoder(writing, shape),
        )
