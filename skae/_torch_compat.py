"""The only home of Torch's private names, each beside what it stands for in public ones.

A release of Torch may take a private name away. Then the plain function takes its place, which is
slower and otherwise the same; the tests run both.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skae._sklearn_compat import _get_threadpool_controller

Rate = float | Tensor
TORCH_VERSION = str(torch.__version__)


def plain_adam(
    weights: Tensor,
    gradients: Tensor,
    mean: Tensor,
    mean_square: Tensor,
    step: Tensor,
    rate: Rate,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Take a step of Adam, the number of which is `step`; all tensors but it change in place."""
    mean.lerp_(gradients, 1.0 - beta1)
    mean_square.lerp_(gradients.square(), 1.0 - beta2)
    deviation = (mean_square / (1.0 - beta2**step)).sqrt_().add_(eps)
    weights -= rate / (1.0 - beta1**step) * mean / deviation


def fused_adam(
    weights: Tensor,
    gradients: Tensor,
    mean: Tensor,
    mean_square: Tensor,
    step: Tensor,
    rate: Rate,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Do the same in one pass over memory.

    It is the kernel of ``torch.optim.Adam(fused=True)``, whose Python costs several times as much.
    """
    torch._fused_adam_(
        [weights],
        [gradients],
        [mean],
        [mean_square],
        [],
        [step],
        lr=rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


adam_step = fused_adam if hasattr(torch, "_fused_adam_") else plain_adam


def plain_copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


copy_all: Callable[[Any, Any], Any] = getattr(torch, "_foreach_copy_", plain_copy_all)


# Derivatives of activations: gradient by the output, and input x or output y -> gradient by x.


def plain_sigmoid_backward(gradient: Tensor, y: Tensor) -> Tensor:
    """Chain rule of the logistic function."""
    return gradient * (y * (1.0 - y))


def plain_tanh_backward(gradient: Tensor, y: Tensor) -> Tensor:
    """Chain rule of the hyperbolic tangent."""
    return gradient * (1.0 - y * y)


def plain_threshold_backward(gradient: Tensor, y: Tensor, threshold: float) -> Tensor:
    """Chain rule of the rectifier."""
    return torch.where(y > threshold, gradient, torch.zeros_like(gradient))


def plain_silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Chain rule of x times its logistic function."""
    sigmoid = torch.sigmoid(x)
    return gradient * (sigmoid * (1.0 + x * (1.0 - sigmoid)))


def plain_gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Chain rule of x times the standard normal distribution function."""
    density = torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return gradient * (torch.special.ndtr(x) + x * density)


def plain_elu_backward(
    gradient: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor
) -> Tensor:
    """Chain rule of ``scale * x`` above zero and ``scale * alpha * (exp(x) - 1)`` below."""
    assert not is_result
    assert input_scale == 1.0
    return gradient * torch.where(x > 0.0, scale, scale * alpha * torch.exp(x))


BACKWARD: dict[str, Callable[..., Tensor]] = {
    "elu_backward": plain_elu_backward,
    "gelu_backward": plain_gelu_backward,
    "sigmoid_backward": plain_sigmoid_backward,
    "silu_backward": plain_silu_backward,
    "tanh_backward": plain_tanh_backward,
    "threshold_backward": plain_threshold_backward,
}


def kernel(name: str) -> Callable[..., Tensor]:
    """Give Torch's kernel of a derivative in `BACKWARD`, or the plain function without it."""
    operator = getattr(torch.ops.aten, name, None)
    return BACKWARD[name] if operator is None else operator.default


elu_backward = kernel("elu_backward")
gelu_backward = kernel("gelu_backward")
sigmoid_backward = kernel("sigmoid_backward")
silu_backward = kernel("silu_backward")
tanh_backward = kernel("tanh_backward")
threshold_backward = kernel("threshold_backward")


HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
)


def has_hooks(module: nn.Module) -> bool:
    """Whether a part of a module is watched by hooks, which only its own ``forward`` calls."""
    return any(getattr(part, name, None) for part in module.modules() for name in HOOKS)


@lru_cache(maxsize=1)
def _cpu_has_bf16_recurrences() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def has_bf16_recurrences(device: torch.device) -> bool:
    """Whether the device computes recurrences in bf16; on other processors oneDNN fails."""
    return device.type != "cpu" or _cpu_has_bf16_recurrences()


def mps_generator() -> torch.Generator:
    """Give the generator from which operators on Apple's GPUs draw."""
    return torch.mps._get_default_mps_generator()


@contextmanager
def errors_where_the_host_waits() -> Iterator[None]:
    """Context in which an operation that makes the host wait for CUDA raises a RuntimeError."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@lru_cache(maxsize=1)
def _set_openmp_threads() -> Callable[[int], Any]:
    """Give the function that sets the threads of Torch's OpenMP for the calling thread."""
    before = torch.get_num_threads()  # the first call of a thread also sets its number
    for library in _get_threadpool_controller().select(user_api="openmp").lib_controllers:
        own = library.get_num_threads()  # that of scikit-learn's may be another one than Torch's
        library.set_num_threads(before + 1)
        is_torchs = torch.get_num_threads() == before + 1
        library.set_num_threads(own)
        if is_torchs:
            return library.dynlib.omp_set_num_threads
    return torch.set_num_threads  # a build without OpenMP


@lru_cache(maxsize=1)
def _set_mkl_threads() -> Callable[[int], Any]:
    """Give MKL's function for the calling thread; zero takes back what was set."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.CDLL(str(path)).MKL_Set_Num_Threads_Local
    except (AttributeError, OSError):
        return lambda n_threads: None


@contextmanager
def threads_of_this_thread(n_threads: int) -> Iterator[None]:
    """Let Torch's operators use so many threads of the CPU when this thread calls them.

    ``torch.set_num_threads`` changes the number of this thread and the one with which new threads
    begin, so that two blocks at a time would restore what the other one has set. OpenMP and MKL
    keep a number for each thread, and only that changes here.
    """
    before = torch.get_num_threads()
    if before == n_threads:
        yield
        return
    set_openmp_threads, set_mkl_threads = _set_openmp_threads(), _set_mkl_threads()
    set_openmp_threads(n_threads)
    set_mkl_threads(n_threads)
    try:
        yield
    finally:
        set_openmp_threads(before)
        set_mkl_threads(0)


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers of a module, but not of its parts.

    ``module.parameters`` costs several times as much as a row on its way through the module.
    """
    for tensors in (module._parameters, module._buffers):
        yield from (tensor for tensor in tensors.values() if tensor is not None)
