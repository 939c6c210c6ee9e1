"""What stands in for Torch's private names does the same."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from skae import _torch_compat as compat

X = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64)
GRADIENT = torch.linspace(0.5, 1.5, 41, dtype=torch.float64)
ACTIVATIONS = {
    "elu_backward": (torch.nn.functional.elu, lambda g, x, y: (g, 1.0, 1.0, 1.0, False, x)),
    "gelu_backward": (torch.nn.functional.gelu, lambda g, x, y: (g, x)),
    "sigmoid_backward": (torch.sigmoid, lambda g, x, y: (g, y)),
    "silu_backward": (torch.nn.functional.silu, lambda g, x, y: (g, x)),
    "tanh_backward": (torch.tanh, lambda g, x, y: (g, y)),
    "threshold_backward": (torch.relu, lambda g, x, y: (g, y, 0.0)),
}


def test_every_derivative_is_compared():
    assert set(ACTIVATIONS) == set(compat.BACKWARD)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["kernel", "plain"])
def test_derivatives_are_those_of_automatic_differentiation(name, kind):
    function, arguments = ACTIVATIONS[name]
    x = X.clone().requires_grad_()
    y = function(x)
    (desired,) = torch.autograd.grad(y, x, GRADIENT)
    backward = compat.kernel(name) if kind == "kernel" else compat.BACKWARD[name]
    assert (backward is compat.BACKWARD[name]) == (kind == "plain")
    actual = backward(*arguments(GRADIENT, X, y.detach()))
    assert_close(actual, desired, rtol=1e-12, atol=1e-14)


def test_without_the_kernel_the_plain_function_is_taken(monkeypatch):
    monkeypatch.setattr(torch.ops, "aten", object())
    assert compat.kernel("silu_backward") is compat.plain_silu_backward


def test_steps_of_adam_are_those_of_torch():
    torch.random.default_generator.manual_seed(0)
    weights = torch.randn(50)
    parameter = nn.Parameter(weights.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.03)
    fused, plain = (
        {"weights": weights.clone(), "mean": torch.zeros(50), "square": torch.zeros(50)}
        for _ in range(2)
    )
    for number in range(1, 6):
        gradients = torch.randn(50)
        parameter.grad = gradients.clone()
        optimizer.step()
        for step, state in ((compat.fused_adam, fused), (compat.plain_adam, plain)):
            step(
                state["weights"], gradients.clone(), state["mean"], state["square"],
                torch.tensor(float(number)), 0.03, beta1=0.9, beta2=0.999, eps=1e-8,
            )  # fmt: skip
    assert_close(fused["weights"], parameter.detach(), rtol=1e-5, atol=1e-7)
    assert_close(plain["weights"], parameter.detach(), rtol=1e-5, atol=1e-7)
    assert_close(plain["square"], fused["square"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("copy_all", [compat.copy_all, compat.plain_copy_all])
def test_copies_change_dtype(copy_all):
    sources = [torch.rand(3), torch.rand(2, 2)]
    targets = [torch.zeros(3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.bfloat16)]
    copy_all(targets, sources)
    assert_allclose(targets[0], sources[0], rtol=1e-7)
    assert_close(targets[1], sources[1].bfloat16())


def test_hooks_are_seen_in_every_part():
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh()))
        assert not compat.has_hooks(module)
        getattr(module[1][0], register)(lambda *_: None)
        assert compat.has_hooks(module)
    module.register_full_backward_hook(lambda *_: None)
    assert compat.has_hooks(module)


def test_the_tensors_of_a_part_are_its_own():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert list(compat.own_tensors(module)) == []
    own = {id(tensor) for part in module.modules() for tensor in compat.own_tensors(part)}
    assert own == {id(t) for t in (*module.parameters(), *module.buffers())}


def test_threads_without_openmp(monkeypatch):
    # A build without it has only the number that belongs to all threads to come.
    before = torch.get_num_threads()
    monkeypatch.setattr(compat, "_set_openmp_threads", lambda: torch.set_num_threads)
    monkeypatch.setattr(compat, "_set_mkl_threads", lambda: lambda n_threads: None)
    with compat.threads_of_this_thread(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_bf16_recurrences_are_asked_for_on_the_cpu_only():
    assert compat.has_bf16_recurrences(torch.device("cuda"))
    assert isinstance(compat.has_bf16_recurrences(torch.device("cpu")), bool)
