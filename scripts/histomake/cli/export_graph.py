"""Export graphs for other programs, a file per slide.

safetensors: arrays with the keys of PyTorch Geometric (x, edge_index, edge_attr, pos), which
histomake.graphs.exports.load_data reads as a torch_geometric.data.Data. geojson: nodes as detections with their
measurements, and edges as one annotation, for QuPath. With --task instead of --graph: the graphs of a task, with
attention and contributions of their nodes.

examples:
  histomake export-graph exported --graph cells
  histomake export-graph exported --graph cells --format geojson --slide S1
  histomake export-graph exported --task arrangement --format geojson
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.cli import add_results

FORMATS = ("safetensors", "geojson")


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder to write")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--graph", help="name of the graph, as in config.yaml")
    what.add_argument("--task", help="name of a task on graphs: its graphs, with what their nodes contribute")
    command.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=f"default: {FORMATS[0]}")
    command.add_argument("--fold", type=int, help="fold of the task (default: the first that predicts a slide)")
    command.add_argument("--slide", action="append", help="only this slide; may be repeated")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the files and print a line for each."""
    layout = Layout(options.results)
    if options.fold is not None and options.task is None:
        raise HistomakeError("--fold is one of a task: give --task")
    known = _predicted(layout, options.task, options.fold) if options.task else _built(layout, options.graph)
    slides = options.slide or sorted(known)
    if unknown := sorted(set(slides) - set(known)):
        raise HistomakeError(f"{layout.results} has no graph to export of {', '.join(unknown)}")
    if not slides:
        raise HistomakeError(
            f"{layout.results} has no graph of {options.task or options.graph}; run the workflow first"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        _export(*known[slide], options.folder / f"{slide}.{options.format}")
    return 0


def _built(layout: Layout, name: str) -> dict[str, tuple[Path, Path | None]]:
    """File of the graph of each slide."""
    return {path.stem: (path, None) for path in existing(layout.graph(name, "*"), under=layout.results)}


def _predicted(layout: Layout, task: str, fold: int | None) -> dict[str, tuple[Path, Path | None]]:
    """Files of the graph and of the predicted nodes of each slide, of the first fold that has predicted it."""
    from histomake.base.records.model_card import ModelCard

    found: dict[str, tuple[Path, Path | None]] = {}
    wanted = "*" if fold is None else fold
    for path in sorted(existing(layout.predicted_nodes(task, wanted, "*"), under=layout.results)):
        number = int(path.parent.name.removeprefix("fold"))
        card = ModelCard.read(layout.description(task, number))
        if card.bag is not None and card.bag.graph is not None:
            found.setdefault(path.stem, (layout.graph(card.bag.graph.name, path.stem), path))
    return found


def _export(path: Path, predicted: Path | None, output: Path) -> None:
    import pyarrow.parquet as pq

    from histomake.graphs.exports import export_graph, require_same_nodes
    from histomake.graphs.store import read_graph
    from histomake.pictures.qupath_graphs import write_graph_objects

    graph = read_graph(path)
    if isinstance(graph.record, Quarantined):
        print(f"left out: {graph.record.slide_id}: {graph.record.detail}")
        return
    nodes = None if predicted is None else pq.read_table(predicted)
    if nodes is not None:
        require_same_nodes(graph, nodes, path=predicted or path)
    write = export_graph if output.suffix == ".safetensors" else write_graph_objects
    write(graph, output, nodes=nodes)
    print(f"{output}: {len(graph):,} nodes, {len(graph.edges()[0]):,} edges")
