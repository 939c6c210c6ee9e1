"""The floors of the house: a file imports only from lower floors, and names stay sorted."""

import ast
from pathlib import Path

import pytest

import skae

PACKAGE = Path(skae.__file__).parent
FLOORS = [
    {"_sklearn_compat"},
    {
        "_corruption",
        "_device",
        "_documentation",
        "_linalg",
        "_losses",
        "_recording",
        "_rollback",
        "_solvers",
        "_validation",
    },
    {"_moments"},
    {"_decomposition", "_training", "networks"},
    {"_reporting"},
    {"_base"},
    {"_autoencoder", "_pca", "_vae"},
    {"_denoising"},
    {"_recipe"},
    {"_outliers", "plotting"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            yield node.module
            if node.module == "skae":
                yield from (f"skae.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_imports_only_from_lower_floors(path):
    room = room_of(path)
    assert room in FLOOR_OF, f"{room} has no floor yet"
    for module in imported_modules(path):
        package, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if package != "skae" or not other or other == room:
            continue
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_scikit_learn_modules_are_imported_in_one_place(path):
    private = [
        module
        for module in imported_modules(path)
        if module.startswith("sklearn.") and "._" in module
    ]
    assert not private or room_of(path) == "_sklearn_compat", private


def test_pca_never_imports_the_training_loop():
    path = PACKAGE / "_pca.py"
    if path.exists():
        assert "skae._training" not in set(imported_modules(path))


def test_exported_names_are_sorted_and_exist():
    assert skae.__all__ == sorted(skae.__all__)
    for name in skae.__all__:
        assert getattr(skae, name).__name__ == name
