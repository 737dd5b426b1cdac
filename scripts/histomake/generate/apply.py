"""Application of a stain transfer to one slide: the virtual slide, and a picture beside the scanned one."""

from __future__ import annotations

from pathlib import Path

from histomake.base.layout import DESCRIPTION
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.records.transfer_card import TransferCard
from histomake.config import Convert
from histomake.generate.lattice import SlideLattice
from histomake.generate.store import sampled_windows, stained, write_virtual_slide
from histomake.generate.translate import SAMPLED_WINDOWS, SlideTranslator, direction_of, load_generator
from histomake.learn.engine.runtime import advise_on_memory, choose_runtime
from histomake.slide.reader import open_slide
from histomake.tissue.mask import TissueMask


def transfer_slide(
    manifest: Path, mask: TissueMask, model: Path, *, name: str, side: int, store: Path, config: Convert, threads: int
) -> Manifest:
    """Write a slide in the stain of the other side, and return the manifest of the virtual slide.

    Args:
        manifest: Manifest of the slide.
        mask: Its tissue. Pixels outside are copied.
        model: Folder of the generators.
        name: Name of the transfer.
        side: Side of the slide, 0 for ``from``, 1 for ``to``.
        store: Path of the virtual slide's store.
        config: The ``convert`` section of the configuration.
        threads: Number of CPU threads.

    Raises SlideError if the slide cannot be used or has a damaged tile.
    """
    card, source = TransferCard.read(model / DESCRIPTION), Manifest.read_usable(manifest)
    runtime = choose_runtime("fp32", threads=threads)
    generator = load_generator(model, card, direction_of(side), runtime)
    stains = card.stains if side == 0 else (card.stains[1], card.stains[0])
    virtual = VirtualStain(transfer=name, stains=stains, weights_sha256=card.weights_sha256)
    with open_slide(manifest) as reader, advise_on_memory("while a slide is translated: use a smaller generator"):
        lattice = SlideLattice(reader, card.grid.mpp)
        translator = SlideTranslator(generator, lattice.read, runtime=runtime)
        translator.measure(sampled_windows(lattice, mask, size=card.grid.size, count=SAMPLED_WINDOWS))
        read = stained(translator, mask, lattice)
        return write_virtual_slide(read, lattice, source, store, config=config, virtual=virtual)
