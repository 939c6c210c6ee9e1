"""Put a built site beside those of other versions.

    python docs/publish.py docs/_build/html SITE VERSION ADDRESS

SITE is the folder that is served under ADDRESS. VERSION is "dev" or a release. The newest release
is also under "stable", where the root of the site leads.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from packaging.version import Version

DEV = "dev"
STABLE = "stable"


def publish(built: Path, site: Path, version: str, address: str) -> None:
    """Add or replace a version, and bring the list of versions and the root up to date."""
    site.mkdir(exist_ok=True)
    replace(site / version, built)
    names = [path.name for path in site.iterdir() if path.is_dir() and path.name[0].isdigit()]
    releases = sorted(names, key=Version, reverse=True)
    first = DEV
    if releases:
        first = STABLE
        replace(site / STABLE, site / releases[0])
    shutil.copy(site / first / "llms.txt", site / "llms.txt")
    (site / ".nojekyll").touch()  # or GitHub leaves out folders that begin with an underscore
    (site / "index.html").write_text(
        f'<!doctype html>\n<meta charset="utf-8">\n<title>skae</title>\n'
        f'<meta http-equiv="refresh" content="0; url={first}/">\n<a href="{first}/">skae</a>\n'
    )
    entries = [{"version": DEV, "url": f"{address}/{DEV}/"}] if (site / DEV).exists() else []
    for name in releases:
        is_first = name == releases[0]
        entry = {"version": name, "url": f"{address}/{STABLE if is_first else name}/"}
        if is_first:
            entry |= {"name": f"{name} (stable)", "preferred": True}
        entries.append(entry)
    (site / "versions.json").write_text(json.dumps(entries, indent=1))


def replace(target: Path, source: Path) -> None:
    """Make a folder a copy of another one."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


if __name__ == "__main__":
    built, site, version, address = sys.argv[1:]
    publish(Path(built), Path(site), version, address.rstrip("/"))
