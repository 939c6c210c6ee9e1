"""What surrounds the package says the same as the package: versions, dependencies, changelog."""

import ast
import json
import re
import runpy
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import skae
from skae import _show_versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {
    requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])
}
# What comes with a dependency, by its own word, is not asked for again.
OF_DEPENDENCIES = {"joblib": "scikit-learn", "threadpoolctl": "scikit-learn"}
NAMES_OF_MODULES = {"sklearn": "scikit-learn"}
PACKAGE = Path(skae.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLISH = ROOT / "docs" / "publish.py"


def read(name):
    return (ROOT / name).read_text()


def newest_section():
    """Version and day of the first section of the changelog."""
    heading = re.search(r"^(\S+) \((.*)\)\n-+$", read("CHANGELOG.rst"), re.MULTILINE)
    return heading[1], heading[2]


def test_the_changelog_begins_with_this_version_and_its_day():
    version, day = newest_section()
    assert version == skae.__version__ == str(Version(version))
    assert day == "unreleased" or date.fromisoformat(day) <= date.today()


def test_the_citation_has_the_version_of_the_package_and_the_day_of_the_changelog():
    citation = dict(re.findall(r"^([\w-]+): (.*)$", read("CITATION.cff"), re.MULTILINE))
    assert citation["version"] == skae.__version__
    _, day = newest_section()
    assert citation.get("date-released") == (None if day == "unreleased" else day)
    assert citation["license"] == PROJECT["license"]


def test_the_recipe_asks_for_what_the_package_asks_for():
    recipe = read("recipe/recipe.yaml")
    context = dict(re.findall(r'^  (\w+): "(.*)"$', recipe, re.MULTILINE))
    assert context["version"] == skae.__version__
    assert PROJECT["requires-python"] == f">={context['python_min']}"
    run = re.search(r"\n  run:\n(.*?)\n\n", recipe, re.DOTALL)[1]
    found = {Requirement(line.strip("- ")) for line in run.splitlines() if "python >=" not in line}
    conda_names = {"torch": "pytorch"}
    assert found == {
        Requirement(f"{conda_names.get(name, name)}{requirement.specifier}")
        for name, requirement in DEPENDENCIES.items()
    }
    assert f"  license: {PROJECT['license']}\n" in recipe
    assert f"  summary: {PROJECT['description']}\n" in recipe


def test_the_readme_names_the_oldest_versions():
    install = read("README.md").partition("## Install")[2]
    for name, package in {"scikit-learn": "scikit-learn", "Torch": "torch"}.items():
        (bound,) = DEPENDENCIES[package].specifier
        assert re.search(rf"{name}\s+{re.escape(bound.version)} or\s+newer", install)
    python = PROJECT["requires-python"].removeprefix(">=")
    assert re.search(rf"Python\s+{re.escape(python)} or\s+newer", install)


def test_the_oldest_python_is_the_first_that_is_named_as_tested():
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert f">={named[0]}" == PROJECT["requires-python"]
    assert named == [f"3.{minor}" for minor in range(11, 11 + len(named))]


def modules_needed_by(path):
    """Top-level modules that a file of the package imports, outside of functions."""
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        elif not isinstance(node, ast.FunctionDef) and not is_for_types_only(node):
            waiting += ast.iter_child_nodes(node)


def is_for_types_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def packages_of(modules):
    packages = {NAMES_OF_MODULES.get(name, name) for name in modules}
    return {OF_DEPENDENCIES.get(name, name) for name in packages}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_file_imports_is_a_dependency_or_in_the_extra_of_its_folder(path):
    folder = path.relative_to(PACKAGE).parts[0]
    extra = map(Requirement, PROJECT["optional-dependencies"].get(folder, []))
    modules = set(modules_needed_by(path)) - sys.stdlib_module_names - {"skae"}
    assert packages_of(modules) <= DEPENDENCIES.keys() | {package.name for package in extra}


def test_what_is_a_dependency_is_imported():
    lines = "\n".join(path.read_text() for path in FILES)
    for name in DEPENDENCIES:
        module = {package: module for module, package in NAMES_OF_MODULES.items()}.get(name, name)
        assert re.search(rf"^ *(import|from) {module}\b", lines, re.MULTILINE), name


def test_show_versions_knows_the_dependencies():
    assert list(_show_versions.PACKAGES) == sorted(DEPENDENCIES)


@pytest.fixture
def publish():
    return runpy.run_path(str(PUBLISH))["publish"]


def build_site(folder, text):
    folder.mkdir()
    (folder / "index.html").write_text(text)
    (folder / "llms.txt").write_text(text)
    return folder


def versions_of(site):
    """What the list that readers choose from says: names, addresses, which is preferred."""

    return [
        (entry["version"], entry["url"], entry.get("preferred", False))
        for entry in json.loads((site / "versions.json").read_text())
    ]


def test_the_site_keeps_all_versions_and_leads_to_the_newest_release(tmp_path, publish):
    site = tmp_path / "site"
    root = "https://docs.example/skae"
    for name in ("dev", "0.9.1", "0.10.0", "0.9.2"):
        publish(build_site(tmp_path / name, f"text of {name}"), site, name, root)
    assert (site / "0.9.1" / "index.html").read_text() == "text of 0.9.1"
    assert (site / "stable" / "index.html").read_text() == "text of 0.10.0"
    assert (site / "llms.txt").read_text() == "text of 0.10.0"
    assert "url=stable/" in (site / "index.html").read_text()
    assert (site / ".nojekyll").exists()
    assert versions_of(site) == [
        ("dev", f"{root}/dev/", False),
        ("0.10.0", f"{root}/stable/", True),
        ("0.9.2", f"{root}/0.9.2/", False),
        ("0.9.1", f"{root}/0.9.1/", False),
    ]


def test_a_version_that_is_published_again_replaces_its_pages(tmp_path, publish):
    site = tmp_path / "site"
    publish(build_site(tmp_path / "first", "first"), site, "dev", "https://docs.example")
    (site / "dev" / "renamed.html").write_text("an old page")
    publish(build_site(tmp_path / "second", "second"), site, "dev", "https://docs.example")
    assert not (site / "dev" / "renamed.html").exists()
    assert (site / "dev" / "index.html").read_text() == "second"
    assert "url=dev/" in (site / "index.html").read_text()
    assert versions_of(site) == [("dev", "https://docs.example/dev/", False)]
