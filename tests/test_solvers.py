from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skae._solvers import SOLVERS, FlatWeights, Solver

# The same rules, one tensor after the other.
REFERENCES = {
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
RATE = 0.01


def make_module():
    torch.random.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def backward(module, number):
    x = torch.linspace(-1.0, 1.0 + number, 20).view(5, 4)
    torch.square(module(x) - 1.0).mean().backward()


def weights_of(module):
    return torch.cat([weights.detach().flatten() for weights in module.parameters()])


def take_steps(module, flat, solver, numbers):
    for number in numbers:
        flat.gradients.zero_()
        backward(module, number)
        solver.step(RATE)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("name", SOLVERS)
def test_steps_are_those_of_torch_optim_with_decay_of_matrices_only(name, alpha):
    module, reference = make_module(), make_module()
    flat = FlatWeights(module)
    take_steps(module, flat, Solver(flat, name, alpha), range(5))
    matrices, vectors = (
        [weights for weights in reference.parameters() if weights.ndim == ndim] for ndim in (2, 1)
    )
    optimizer = REFERENCES[name](
        [{"params": matrices, "weight_decay": alpha}, {"params": vectors, "weight_decay": 0.0}],
        lr=RATE,
    )
    for number in range(5):
        optimizer.zero_grad()
        backward(reference, number)
        optimizer.step()
    assert_allclose(weights_of(module), weights_of(reference), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
def test_memory_goes_on_where_it_was(name):
    module, other = make_module(), make_module()
    flat, other_flat = FlatWeights(module), FlatWeights(other)
    solver = Solver(flat, name, 0.1)
    take_steps(module, flat, solver, range(3))
    memory = solver.memory_arrays()
    other.load_state_dict(module.state_dict())
    take_steps(module, flat, solver, range(3, 5))
    take_steps(other, other_flat, Solver(other_flat, name, 0.1, memory), range(3, 5))
    assert_array_equal(weights_of(other), weights_of(module))
    assert all(isinstance(array, np.ndarray) for array in memory.values())


def test_flat_weights_are_the_module_s_own():
    module = make_module()
    before = weights_of(module)
    module[0].bias.requires_grad_(False)
    flat = FlatWeights(module)
    assert_array_equal(weights_of(module), before)
    assert len(flat.values) == 12 + 6 + 2  # what is frozen stays outside
    assert flat.n_in_matrices == 12 + 6
    backward(module, 0)
    assert module[0].bias.grad is None
    assert_array_equal(flat.gradients[:12], module[0].weight.grad.flatten())
    flat.values.zero_()
    assert not any(weights.any() for weights in (module[0].weight, *module[2].parameters()))


def test_stacks_of_matrices_decay_too():
    module = nn.Module()
    module.weights = nn.Parameter(torch.ones(4, 3, 2))
    assert FlatWeights(module).n_in_matrices == 24
