"""The READMEs tell the truth: every setting, every command, every file that they name."""

from __future__ import annotations

import importlib
import re
import tomllib
from dataclasses import fields
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from model_export.__main__ import COMMANDS as EXPORT_COMMANDS
from model_export.__main__ import argument_parser as export_parser
from model_export.__main__ import with_command
from service import errors
from service.connections.limits import TEXTS
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import Bounds, GraphInfo, Manifest, read_manifest
from service.settings import Settings, option
from trainer.data import check_parser, import_parser
from trainer.evaluate import argument_parser as evaluate_parser
from trainer.train import COMMANDS
from trainer.train import argument_parser as train_parser

ROOT = Path(__file__).parents[1]
READMES = {
    path: (ROOT / path).read_text(encoding="utf-8")
    for path in (
        "README.md",
        "docker/README.md",
        "model_export/README.md",
        "service/README.md",
        "trainer/README.md",
    )
}
README = READMES["README.md"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ALL = "\n".join(READMES.values())
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_services_readme_with_its_default(name: str) -> None:
    (row,) = [line for line in READMES["service/README.md"].splitlines() if line.startswith(f"| `{option(name)}` |")]
    field = Settings.model_fields[name]
    default = row.split("|")[2].strip()
    if field.default_factory is not None:
        assert default == "CPUs available"
    elif field.default is None:
        assert default not in {"", "None"}
    else:
        assert default == str(field.default)


def test_every_status_of_an_error_is_in_the_services_readme() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)]
    statuses = {kind.status for kind in kinds} - {errors.ClientGone.status}  # which nobody is left to read
    refusals = {status.value for status, _ in TEXTS.values()}
    rows = re.findall(r"^\| (\d{3}) \|", READMES["service/README.md"], re.MULTILINE)
    assert {int(row) for row in rows} == statuses | refusals | {HTTPStatus.METHOD_NOT_ALLOWED}


@pytest.mark.parametrize("path", READMES)
def test_every_file_and_heading_that_a_readme_links_exists(path: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", READMES[path])
    assert links
    for target, anchor in links:
        file = (ROOT / path).parent / target if target else ROOT / path
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file.read_text(encoding="utf-8")), anchor


def _anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_readme_is_linked_from_the_first() -> None:
    assert all(f"({path})" in README for path in READMES if path != "README.md")


def test_every_extra_and_command_is_in_the_readme() -> None:
    for name in (*PROJECT["optional-dependencies"], *PROJECT["scripts"]):
        assert f"`{name}`" in README


def test_the_commands_of_all_readmes_parse() -> None:
    parsers = {"ecenet-train": train_parser(), "ecenet-evaluate": evaluate_parser(), "ecenet-export": export_parser()}
    for command, (module, _) in COMMANDS.items():
        if command != "data":
            parsers[f"ecenet-train {command}"] = importlib.import_module(module).argument_parser()
    parsers["ecenet-train data import"] = import_parser()
    parsers["ecenet-train data check"] = check_parser()
    names = "|".join(sorted(parsers, reverse=True))  # the longer first
    commands = re.findall(rf"^\$ ({names}) (.*)$", ALL, re.MULTILINE)
    assert {name for name, _ in commands} == set(parsers)
    for name, arguments in commands:
        words = arguments.partition("#")[0].split()
        parsers[name].parse_args(with_command(words) if name == "ecenet-export" else words)


def test_every_command_of_the_export_is_shown() -> None:
    shown = set(re.findall(r"^\$ ecenet-export (\w+)", ALL, re.MULTILINE))
    names = {module.__name__.rpartition(".")[2] for module in EXPORT_COMMANDS}
    assert shown == names - {"model"} | {"runs"}  # a path in place of a command


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {word for line in re.findall(r"make ((?:[a-z]+ ?)+)", ALL) for word in line.split()}
    shown = {"serve", "check", "test", "bench"}
    assert shown <= targets
    for target in shown:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("described", [Manifest, GraphInfo, Bounds])
def test_every_field_of_the_model_directory_is_documented(described: type[Any]) -> None:
    text = READMES["model_export/README.md"]
    assert [field.name for field in fields(described) if f"`{field.name}`" not in text] == []


def test_every_path_of_the_contributors_page_exists() -> None:
    paths = set(re.findall(r"`((?:service|trainer|model_export|tests|benchmarks)/[\w./]*)`", CONTRIBUTING))
    assert {"service/imaging/", "trainer/datasets/voc.py", "tests/service/test_settings.py"} <= paths
    templates = {path for path in paths if "NAME" in path}
    assert [path for path in sorted(paths - templates) if not (ROOT / path).exists()] == []
    assert [path for path in sorted(templates) if not (ROOT / path).parent.is_dir()] == []


def test_every_link_of_the_contributors_page_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", CONTRIBUTING)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_of_the_contributors_page_exists() -> None:
    targets = set(re.findall(r"`make ([a-z-]+)`", CONTRIBUTING))
    assert {"serve", "test", "check", "lint", "types", "sanitize", "bench", "lock"} <= targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_every_room_of_the_service_is_on_the_contributors_map() -> None:
    rooms = {f"service/{path.parent.name}/" for path in (ROOT / "service").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `(service/\w+/)`", CONTRIBUTING, re.MULTILINE))


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("service/engines/runtimes.py", ("RuntimeName", "EngineName", "PREFERRED_PRECISIONS", "CPU_RUNTIMES")),
        ("service/engines/create.py", ("create_engine", "runtime_obstacle")),
        ("service/answers/schemas.py", ("AnswerFormat",)),
        ("trainer/datasets/base.py", ("PublishedDataset",)),
        ("trainer/model/ecenet.py", ("NAMED_SIZES", "build_backbone")),
    ],
)
def test_every_name_that_a_recipe_changes_is_where_it_says(path: str, names: tuple[str, ...]) -> None:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    for name in names:
        assert f"`{name}`" in CONTRIBUTING
        assert hasattr(module, name)


def test_the_wheel_has_every_package() -> None:
    roots = ("service", "trainer", "model_export")
    folders = {file.parent.relative_to(ROOT) for root in roots for file in (ROOT / root).rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"service.bundled"}
    assert set(CONFIGURATION["tool"]["setuptools"]["packages"]) == packages


def test_the_wheel_has_every_file_that_is_no_code() -> None:
    """Configurations, templates, the page, and all that the manifest of the bundled model names, its checkpoint too."""
    setuptools = CONFIGURATION["tool"]["setuptools"]
    folders = {package: ROOT / package.replace(".", "/") for package in setuptools["packages"]}
    folders |= {package: ROOT / folder for package, folder in setuptools["package-dir"].items()}
    patterns = setuptools["package-data"]
    globs = [(folders[name], pattern) for name in patterns if name in folders for pattern in patterns[name]]
    shipped = {file for folder, pattern in globs for file in folder.glob(pattern)}
    model = bundled_model_dir()
    manifest = read_manifest(model)
    assert manifest.checkpoint is not None
    named = {manifest.checkpoint.file, *(graph.file for graph in manifest.graphs)}
    assert {model / name for name in named} <= shipped
    assert set((ROOT / "trainer" / "configs").glob("*.toml")) <= shipped
    assert set((ROOT / "trainer" / "report" / "templates").iterdir()) <= shipped
