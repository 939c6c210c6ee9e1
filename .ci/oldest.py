"""Print the oldest versions that pyproject.toml allows, as constraints for pip.

python .ci/oldest.py > oldest.txt && python -m pip install -c oldest.txt -e ".[test]"
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def requirements(texts: list[str]) -> Iterator[Requirement]:
    """Give requirements, and instead of "skae[extra]" those of the extra."""
    for requirement in map(Requirement, texts):
        if requirement.name != PROJECT["name"]:
            yield requirement
        for extra in requirement.extras if requirement.name == PROJECT["name"] else ():
            yield from requirements(PROJECT["optional-dependencies"][extra])


for requirement in requirements([*PROJECT["dependencies"], f"{PROJECT['name']}[test]"]):
    for bound in requirement.specifier:
        if bound.operator == ">=":
            print(f"{requirement.name}=={bound.version}")
