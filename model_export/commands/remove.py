"""``ecenet-export remove``: remove graphs that nobody will serve from a model directory."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from model_export.commands.base import Commands
from service.model_directory.manifest import GraphInfo, Manifest, read_manifest, write_manifest


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "remove",
        help="remove graphs from a model directory",
        description="Remove graphs from a model directory to make it smaller, such as the float32 graph of an input "
        "size that is served in INT8 only. The first graph stays, because it is the default.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("files", nargs="+", metavar="FILE", help="name of a graph's file in it")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Write the manifest without the graphs, then delete their files."""
    manifest = read_manifest(args.directory)
    removed = [_graph(manifest, name) for name in dict.fromkeys(args.files)]
    kept = tuple(graph for graph in manifest.graphs if graph not in removed)
    write_manifest(args.directory, replace(manifest, graphs=kept))
    for graph in removed:
        (args.directory / graph.file).unlink()
    print(f"{args.directory} has {replace(manifest, graphs=kept).graph_list}")
    return 0


def _graph(manifest: Manifest, name: str) -> GraphInfo:
    """The graph of a file.

    Raises:
        ValueError: It is the default graph, or none.
    """
    if name == manifest.graph.file:
        raise ValueError(f"{name} is the default graph and stays")
    for graph in manifest.graphs:
        if graph.file == name:
            return graph
    files = ", ".join(graph.file for graph in manifest.graphs)
    raise ValueError(f"{manifest.name} has no graph {name}; it has {files}")
