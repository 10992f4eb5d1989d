"""``ecenet-train data``: ``import`` makes a dataset of a tool's export, ``check`` looks through one."""

from __future__ import annotations

import sys

USAGE = """usage: ecenet-train data import EXPORT --from TOOL -o FOLDER
       ecenet-train data check [KIND] ROOT

  import   make a dataset of what an annotation tool exports
  check    look through a dataset: counts, class shares, broken files, what would not train, a contact sheet

Each has its own --help. Without a command, the arguments are those of check.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["import"]:
        from trainer.datasets.importing import command as importing  # noqa: PLC0415

        return importing.main(arguments[1:])
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")  # noqa: T201
        return 0 if arguments else 2
    from trainer import inspect_data  # noqa: PLC0415

    return inspect_data.main(arguments[arguments[0] == "check" :])
