"""The floors of the house: imports lead down only, private names have one home, names are sorted.

The floors are computed from the imports. The contributing page lists them, and must list these.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import skae

PACKAGE = Path(skae.__file__).parent
PAGE = PACKAGE.parent / "docs" / "contributing.rst"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = sorted({room_of(path) for path in FILES})


def imports_of(path):
    """Modules that a file imports, and the names that it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def rooms_below(room):
    """Other rooms of the package that the files of a room import."""
    below = set()
    for path in FILES:
        if room_of(path) != room:
            continue
        for module, name in imports_of(path):
            package, _, rest = module.partition(".")
            if package == "skae":
                below.add(rest.partition(".")[0] or name)
    assert below <= set(ROOMS), f"{room} imports {below - set(ROOMS)}"
    return below - {room}


@cache
def floor_of(room):
    """One more than the highest floor that the room imports from."""
    return max((floor_of(below) + 1 for below in rooms_below(room)), default=0)


def reachable_from(room):
    below = rooms_below(room)
    return below.union(*map(reachable_from, below))


def test_imports_lead_down_only():
    for room in ROOMS:
        above = [other for other in rooms_below(room) if room in reach(other, set())]
        assert not above, f"{room} and {above} import each other"


def reach(room, seen):
    """Rooms that can be reached, also around a circle."""
    for below in rooms_below(room) - seen:
        seen.add(below)
        reach(below, seen)
    return seen


def test_the_contributing_page_lists_the_floors():
    rows = re.findall(r"   \* - (\d+)\n     - (.*?)\n     - ", PAGE.read_text(), flags=re.DOTALL)
    listed = {
        name.rstrip("/").removesuffix(".py"): int(floor)
        for floor, names in rows
        for name in re.findall(r"``(.*?)``", names)
    }
    assert listed == {room: floor_of(room) for room in ROOMS}
    floors = [int(floor) for floor, _ in rows]
    assert floors == sorted(floors)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_scikit_learn_are_imported_in_one_place(path):
    private = [
        f"{module}.{name}"
        for module, name in imports_of(path)
        if module.partition(".")[0] == "sklearn" and "._" in f"{module}.{name}"
    ]
    assert not private or room_of(path) == "_sklearn_compat", private


def names_of_torch(path):
    """Dotted names that begin with ``torch``."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "torch":
            yield ".".join(["torch", *reversed(parts)])
    for module, name in imports_of(path):
        if module.partition(".")[0] == "torch":
            yield f"{module}.{name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_torch_are_used_in_one_place(path):
    private = [
        name for name in names_of_torch(path) if "._" in name or name.startswith("torch.ops")
    ]
    assert not private or room_of(path) == "_torch_compat", private


def test_the_homes_of_private_names_use_some():
    # Otherwise the two tests above would look for them in the wrong way.
    compat = PACKAGE / "_sklearn_compat.py"
    assert any(name.startswith("_") for _, name in imports_of(compat))
    assert any("._" in name for name in names_of_torch(PACKAGE / "_torch_compat.py"))


def test_pca_never_imports_the_training_loop():
    assert {"_pca", "_training"} <= set(ROOMS)
    assert "_training" in reachable_from("_base")
    assert "_training" not in reachable_from("_pca")


@pytest.mark.parametrize("room", ["plotting", "_explanation"])
def test_displays_and_explanations_know_no_estimator(room):
    estimators = {"_autoencoder", "_base", "_denoising", "_pca", "_vae"}
    assert estimators <= set(ROOMS)
    assert not reachable_from(room) & estimators


def test_the_detector_knows_none_of_the_models_that_users_give_it():
    models = {"_autoencoder", "_base", "_denoising", "_pca", "_vae"}
    assert not rooms_below("_outliers") & models


def test_exported_names_are_sorted_and_exist():
    assert skae.__all__ == sorted(skae.__all__)
    for name in skae.__all__:
        assert getattr(skae, name).__name__ == name
