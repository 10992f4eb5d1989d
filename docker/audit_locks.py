"""Known weaknesses of the packages that the images are built from, by the lock files.

    make audit                                    # asks PyPI's database by pip-audit
    make audit ARGS="--database all.zip"          # a stored one, for machines without a network

A stored database is OSV's export for PyPI, https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip. The exit
status is 0 if no weakness is known, 1 if one is, and 3 if the database could not be read: then nothing was audited.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LOCKS = tuple(sorted(Path(__file__).parent.glob("requirements.*.lock")))
FOUND, NOT_AUDITED = 1, 3


def pins(lock: Path) -> dict[str, str]:
    """Version by normalised name of the packages of a lock."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {normalised(name): version for name, version in found}


def normalised(name: str) -> str:
    """The name as indexes compare it, PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def stored_weaknesses(database: Path, packages: Mapping[str, str]) -> list[str]:
    """Give the weaknesses of the packages by OSV's export.

    Raises:
        OSError, ValueError: It cannot be read, or holds no entry.
    """
    found, entries = [], 0
    with zipfile.ZipFile(database) as archive:
        for name in archive.namelist():
            entry = json.loads(archive.read(name))
            entries += 1
            found += [f"{place}: {entry['id']}" for place in _affected(entry, packages)]
    if not entries:
        raise ValueError(f"{database} holds no entry")
    return found


def _affected(entry: Mapping[str, Any], packages: Mapping[str, str]) -> Iterable[str]:
    """The packages whose pinned version an entry names; withdrawn entries name none."""
    if "withdrawn" in entry:
        return
    for affected in entry.get("affected", ()):
        package = normalised(affected.get("package", {}).get("name", ""))
        if packages.get(package) in affected.get("versions", ()):
            yield f"{package} {packages[package]}"


def asked_weaknesses(lock: Path) -> list[str]:
    """Give the findings of pip-audit for a lock.

    Raises:
        ValueError: It could not ask, or knows none of the packages.
    """
    command = ["pip-audit", "--require-hashes", "--disable-pip", "--format", "json", "--requirement", str(lock)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        entries = json.loads(run.stdout)["dependencies"]
    except ValueError:
        raise ValueError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "no answer") from None
    unknown = [entry["name"] for entry in entries if "skip_reason" in entry]
    if unknown:
        raise ValueError(f"it does not know {len(unknown)} of {len(entries)} packages: {', '.join(unknown[:5])}")
    return [f"{entry['name']} {entry['version']}: {weakness['id']}" for entry in entries for weakness in entry["vulns"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit, and print a line for each lock and weakness; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, help="zip file of OSV; without it, PyPI is asked")
    parser.add_argument("locks", nargs="*", type=Path, default=LOCKS, help="default: those of the images")
    options = parser.parse_args(arguments)
    status = 0
    for lock in options.locks:
        try:
            database = options.database
            found = asked_weaknesses(lock) if database is None else stored_weaknesses(database, pins(lock))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            print(f"{lock.name}: NOT AUDITED, the database could not be read: {error}")
            status = status or NOT_AUDITED
            continue
        print(f"{lock.name}: {len(pins(lock))} packages, {len(found)} known weaknesses", *found, sep="\n  ")
        status = FOUND if found else status
    return status


if __name__ == "__main__":
    sys.exit(main())
