"""What may come out of a call: a right result, or an error of ours. Everything else is a fault."""

import ast
import contextlib
import io
import linecache
import random
import traceback
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import sklearn
import torch
from fuzz_tables import fingerprint
from sklearn.exceptions import NotFittedError
from threadpoolctl import ThreadpoolController

import skae

SPEAKERS = tuple(str(Path(module.__file__).parent) for module in (skae, sklearn))
ERRORS = (ValueError, TypeError, MemoryError, NotFittedError)
CONTROLLER = ThreadpoolController()


class Fault(AssertionError):  # noqa: N818
    """A call did what it must not. `kind` names it without the numbers of the case."""

    def __init__(self, kind, details=""):
        super().__init__(f"{kind}\n{details}")
        self.kind = kind


@cache
def raises_in(filename):
    """Lines of the statements `raise` of a file."""
    tree = ast.parse("".join(linecache.getlines(filename)))
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, node.end_lineno + 1)
    }


def is_ours(error):
    """Whether skae or scikit-learn raised it on purpose, in a statement `raise` of theirs.

    What Torch, LAPACK and NumPy raise has another place, or none in Python: then the line that
    called them is the innermost.
    """
    if not isinstance(error, ERRORS):
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if is_of_other_models(error):
        return True
    return frame.filename.startswith(SPEAKERS) and frame.lineno in raises_in(frame.filename)


def is_of_other_models(error):
    """Whether a step of a pipeline or a model that the detector is given speaks, not ours."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    own = max(
        (place for place, name in enumerate(files) if name.startswith(SPEAKERS[0])), default=0
    )
    return any("preprocessing" in name or "ensemble" in name for name in files[own:])


def place_of(error):
    """Where an error comes from: its innermost line, and the innermost one of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(SPEAKERS[0])]
    places = [f"{Path(frame.filename).name}:{frame.name}" for frame in (*own[-1:], frames[-1])]
    return " > ".join(dict.fromkeys(places))


def global_state():
    """What every call leaves as it was."""
    return {
        "Python's random numbers": random.getstate(),
        "Torch's random numbers": torch.get_rng_state().numpy().tobytes(),
        "Torch's default dtype": torch.get_default_dtype(),
        "Torch's threads": torch.get_num_threads(),
        "Torch's gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "Torch's autocast": torch.is_autocast_enabled("cpu"),
        "threads of BLAS": str([library["num_threads"] for library in CONTROLLER.info()]),
        "NumPy's errors": np.geterr(),
        "scikit-learn's settings": sklearn.get_config(),
    }


def numpy_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), rest


def call(what, function, arguments, *, draws=False, attributes=None):
    """Call a function and check all but its result.

    Parameters
    ----------
    what : str
        Name of the call.
    function : callable
    arguments : dict
    draws : bool
        Whether it may take numbers from NumPy's generator, as random_state=None does.
    attributes : callable, default=None
        Gives what must be as before if the call fails.

    Returns
    -------
    result : object, or None if it failed
    error : Exception or None
    """
    before, numpy_before = global_state(), numpy_state()
    prints = {name: fingerprint(value) for name, value in arguments.items()}
    kept = attributes() if attributes else None
    result = error = None
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        try:
            result = function(**arguments)
        except Exception as raised:
            error = raised
        if warnings.filters != filters:
            raise Fault(f"{what} changes the filters of warnings")
    after = global_state()
    for name, state in before.items():
        if after[name] != state:
            raise Fault(f"{what} changes {name}", f"{state} -> {after[name]}")
    if not draws and numpy_state() != numpy_before:
        raise Fault(f"{what} changes NumPy's random numbers")
    for name, value in arguments.items():
        if fingerprint(value) != prints[name]:
            raise Fault(f"{what} changes its argument {name}")
    for warning in caught:
        check_warning(what, warning)
    if error is not None:
        # Numbers too large for a forest of the user's fail in NumPy, called by scikit-learn.
        is_theirs = "detector of others" in what and isinstance(error, OverflowError)
        if not is_ours(error) and not is_theirs:
            kind = f"{what} raises {type(error).__name__} in {place_of(error)}"
            raise Fault(kind, "".join(traceback.format_exception(error)))
        if attributes and attributes() != kept:
            raise Fault(f"{what} fails and leaves other attributes", f"{error!r}")
        if not str(error).strip():
            raise Fault(f"{what} raises {type(error).__name__} without a word")
    return result, error


def check_warning(what, warning):
    """Warnings are for users: of our own, or of scikit-learn."""
    text = f"{warning.category.__name__}: {warning.message}"
    by_torch = "torch" in Path(warning.filename).parts
    if not warning.filename.startswith(SPEAKERS[0]) and "detector of others" in what:
        return
    if by_torch or not issubclass(warning.category, UserWarning):
        name = Path(warning.filename).name
        raise Fault(
            f"{what} warns: {str(text).splitlines()[0][:70]} in {name}", f"line {warning.lineno}"
        )


def check_numbers(what, values, shape, dtype=None, *, allow=()):
    """Check a result: its shape, its dtype, and that it is finite but for what is allowed."""
    values = np.asarray(values)
    if values.shape != shape:
        raise Fault(f"{what} has the wrong shape", f"{values.shape} instead of {shape}")
    if dtype is not None and values.dtype != dtype:
        raise Fault(f"{what} has the wrong dtype", f"{values.dtype} instead of {dtype}")
    if values.dtype.kind != "f":
        return
    odd = ~np.isfinite(values)
    for value in allow:
        odd &= values != value
    if odd.any():
        raise Fault(f"{what} is not finite", f"{values[odd][:5]}")


def last_lines(error, n_lines=12):
    """The end of what is printed of a fault."""
    return "\n".join(str(error).splitlines()[-n_lines:])
