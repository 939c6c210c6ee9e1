"""Check the files in dist/ before anyone can install them: contents, installation, a fit, a test.

    python -m build && python .ci/check_package.py [v0.1.0]

The argument is the tag of a release. It has to name the version, and the changelog its day.

Nothing is downloaded. The wheel is installed into an empty environment. What its metadata ask for
is linked there from the environment of this interpreter, and nothing else, so that a dependency
that is not declared is missing.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# What the source distribution does without: what only the repository needs.
NOT_IN_SDIST = (".ci/", ".github/", "benchmarks/")

FIT = """
import sys
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
import skae
assert sys.prefix in skae.__file__, skae.__file__
model = make_pipeline(StandardScaler(), skae.AutoencoderTransformer(2, max_iter=2))
assert model.fit_transform(load_iris().data).shape == (150, 2)
detector = skae.AutoencoderOutlierDetector(skae.PCA(2), contamination=0.1)
assert (detector.fit_predict(load_iris().data) == -1).sum() == 15
skae.show_versions()
"""


def main() -> None:
    """Check the wheel and the source distribution in dist/."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    metadata = check_wheel(wheel)
    check_sdist(sdist)
    for tag in sys.argv[1:]:
        check_release(tag, metadata["Version"])
    with tempfile.TemporaryDirectory() as folder:
        check_installation(wheel, Path(folder) / "environment")
        check_tests(sdist, Path(folder))
    print(f"{wheel.name} and {sdist.name} can be published.")


def tracked() -> set[str]:
    """Files of the commit that is built."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return set(files.stdout.split())


def check_contents(name: str, found: set[str], wanted: set[str]) -> None:
    """Exit if an archive has too many or too few files."""
    if found != wanted:
        sys.exit(f"{name}\n  lacks {sorted(wanted - found)}\n  has also {sorted(found - wanted)}")


def check_wheel(path: Path) -> dict[str, str]:
    """Compare a wheel with the tracked files of the package, and give its metadata."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    package = {name for name in tracked() if name.startswith("skae/")}
    assert "skae/py.typed" in package
    extra = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    check_contents(path.name, names, package | extra)
    return metadata


def check_sdist(path: Path) -> None:
    """Compare a source distribution with the tracked files."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    wanted = {name for name in tracked() if not name.startswith(NOT_IN_SDIST)}
    check_contents(path.name, names, wanted | {"PKG-INFO"})


def check_release(tag: str, version: str) -> None:
    """Exit if a tag, the version and the changelog do not say the same."""
    if tag != f"v{version}":
        sys.exit(f"The tag {tag} is not v{version}, the version of the package.")
    changelog = (ROOT / "CHANGELOG.rst").read_text()
    if not re.search(rf"^{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE):
        sys.exit(f"CHANGELOG.rst has no section '{version} (year-month-day)'.")


def check_installation(wheel: Path, environment: Path) -> None:
    """Install a wheel beside its dependencies only, check the metadata, import, fit."""
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = environment.glob("lib/python*/site-packages")
    link_dependencies(site)
    run(python, "-m", "pip", "check")
    run(python, "-W", "error", "-c", FIT)


def check_tests(sdist: Path, folder: Path) -> None:
    """Run a few tests of a source distribution, those that read what lies around the package."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / sdist.name.removesuffix(".tar.gz")
    tests = ["tests/test_architecture.py", "tests/test_package.py", "docs/index.rst"]
    run(sys.executable, "-m", "pytest", "--quiet", *tests, cwd=root, PYTHONPATH=str(root))


def run(*command: object, cwd: Path = Path("/"), **variables: str) -> None:
    """Run a command out of reach of the repository, or end with it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), cwd=cwd, env=environment | variables, check=True)


def link_dependencies(site: Path) -> None:
    """Link what the wheel in an environment needs, and what that needs in turn."""
    (installed,) = (Distribution.at(path) for path in site.glob("skae-*.dist-info"))
    seen: set[str] = set()
    waiting = list(requirements(installed))
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            needed = distribution(package)
            link(needed, site)
            waiting += requirements(needed)


def requirements(package: Distribution) -> Iterator[str]:
    """Names of what a distribution needs without extras."""
    for requirement in map(Requirement, package.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def link(package: Distribution, site: Path) -> None:
    """Link the files and folders of a distribution into an environment."""
    tops = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
    for name in tops:
        target = site / name
        if not target.exists():  # namespaces have several owners
            target.symlink_to(package.locate_file(name))


if __name__ == "__main__":
    main()
