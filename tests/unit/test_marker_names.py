"""A name in every field that a scanner, an annotation program or a sheet can fill: in no export, and at home only
where the documentation says.

The name is an ordinary word that nothing else contains, so that it can be searched for in bytes, texts and tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import tifffile
import zarr
from case_files import (
    HEIGHT,
    LABEL,
    MACRO,
    PICTURE,
    TILE,
    WIDTH,
    jpeg,
    padded_tiles,
    split_jpeg,
    write_dicom,
    write_ndpi,
    write_tiff,
)
from histomake.annotation.read import read_annotation
from histomake.annotation.write import write_annotation
from histomake.audit.pseudonyms import Pseudonyms
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.cli import main
from histomake.config import Annotations, Convert, Encoder, Grid
from histomake.features.h5_files import write_trident
from histomake.features.imported import import_slide
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.patch.grid import SlideGrid
from histomake.patch.tabulate import tabulate, write_patch_table
from histomake.slide.convert import convert
from histomake.viewer.export import export_slide
from mrxs_file import write_mrxs
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit
from test_export_privacy import NAME, exported, make_results

from tests import sample_records

MARKER = "Quagmiria"
SLIDE = "S1"
GRID = Grid(size=64, mpp=0.5)

APERIO = ("ScanScope ID", "Filename", "Title", "Date", "User", "Barcode", "Patient", "Comment", "Rack", "ImageID")
FREE_OF_APERIO = ("Parmset", "ICC Profile")
SETTINGS = {".svs": [f"aperio.{name}" for name in FREE_OF_APERIO], ".ndpi": ["tiff.Model", "tiff.Software"]}
"""Names of settings, and of the scanner and its software, which the manifest keeps."""

TEXTS_OF_TIFF = (269, 270, 271, 272, 285, 305, 315, 316, 333, 337, 33432, 40092, 65000)
"""Document, description, maker, model, page, software, artist, host, inks, printer, copyright, and private texts."""

TEXTS_OF_HAMAMATSU = (65427, 65442, 65456, 65457, 65468, 65480)
"""Reference (what is written on the label), serial number, and texts whose meaning is not published."""

TEXTS_OF_MIRAX = {
    "GENERAL": (
        "SLIDE_NAME",
        "PROJECT_NAME",
        "SLIDE_CREATIONDATETIME",
        "SLIDE_QUALITY",
        "SCANNER_ID",
        "OPERATOR",
        MARKER,
    ),
    "NONHIERLAYER_1_LEVEL_0_SECTION": ("BARCODE_VALUE", "BARCODE_TYPE"),
    "USER": ("PATIENT", "COMMENT"),
}
"""Keys of Slidedat.ini, by section."""

TEXT_VRS = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE")
KEPT_OF_DICOM = ("Manufacturer", "ManufacturerModelName")


def comment(marker: int) -> bytes:
    """A segment of JPEG with the name."""
    exif = Image.Exif()
    exif[270] = MARKER
    content = exif.tobytes() if marker == 0xE1 else MARKER.encode()
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


def spoken(stream: bytes) -> bytes:
    """A JPEG with the name as a comment and as EXIF, at its start and behind the frame header."""
    frame = stream.index(b"\xff\xc0")
    after = frame + 2 + int.from_bytes(stream[frame + 2 : frame + 4])
    texts = comment(0xE1) + comment(0xFE)
    return stream[:2] + texts + stream[2:after] + comment(0xFE) + stream[after:]


def write_aperio(folder: Path) -> Path:
    """An SVS with the name in every field of the header and in every text tag, with label and macro."""
    fields = "".join(f"|{key} = {MARKER}" for key in (*APERIO, *FREE_OF_APERIO))
    text = f"Aperio Image Library {MARKER} \n{WIDTH}x{HEIGHT} (128x128) JPEG/RGB|AppMag = 20|MPP = 0.5{fields}"
    tags = [(tag, "s", 0, MARKER, True) for tag in TEXTS_OF_TIFF if tag not in (270, 305)]
    common = {"photometric": "rgb", "metadata": None, "software": MARKER, "extratags": tags}
    path = folder / f"{MARKER}.svs"
    with tifffile.TiffWriter(path) as writer:
        writer.write(PICTURE, description=text, tile=(TILE, TILE), compression="jpeg", **common)
        small = PICTURE[::4, ::4].copy()
        writer.write(small, description=text, compression="jpeg", rowsperstrip=16, **common)
        for pixels, kind, role in ((LABEL, 1, "label"), (MACRO, 9, "macro")):
            extra = {**common, "description": f"Aperio {MARKER}\n{role} 9x9", "subfiletype": kind, "rowsperstrip": 64}
            writer.write(pixels, compression="lzw" if kind == 1 else "jpeg", **extra)
    return path


def write_tagged_tiles(folder: Path) -> Path:
    """A TIFF whose tiles and shared tables are JPEG streams with comments and EXIF."""
    parts = [split_jpeg(jpeg(tile)) for tile in padded_tiles()]
    tables = b"\xff\xd8" + comment(0xFE) + parts[0][0] + comment(0xE1) + b"\xff\xd9"
    tiles = [spoken(b"\xff\xd8" + rest) for _, rest in parts]
    text = {tag: ("s", MARKER.encode() + b"\0") for tag in (269, 305, 315, 316, 33432)}
    path = folder / f"{MARKER}.tif"
    return write_tiff(path, tiles, compression=7, photometric=6, tables=tables, description=MARKER, tags=text)


def write_ome(folder: Path) -> Path:
    """An OME-TIFF whose names and descriptions are the name."""
    path = folder / f"{MARKER}.ome.tif"
    said = {"axes": "YXS", "Name": MARKER, "Description": MARKER, "AcquisitionDate": "1961-02-03T00:00:00"}
    said |= {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "MapAnnotation": {"Patient": MARKER}}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(PICTURE, tile=(TILE, TILE), compression="deflate", photometric="rgb", metadata=said)
        label = {"axes": "YXS", "Name": f"label {MARKER}", "Description": MARKER}
        writer.write(LABEL, photometric="rgb", metadata=label)
    return path


def named(dataset: Dataset) -> None:
    """Set every text attribute of the standard that the data set lacks, also in a nested sequence, and private ones."""
    inner = Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in TEXT_VRS and keyword and tag >> 16 > 8 - 1 and keyword not in KEPT_OF_DICOM:
            dataset.add_new(tag, vr, MARKER)
            inner.add_new(tag, vr, MARKER)
    dataset.SpecimenDescriptionSequence = [inner]
    block = dataset.private_block(0x0099, MARKER, create=True)
    block.add_new(1, "LO", MARKER)


def write_dicom_folder(folder: Path) -> Path:
    """A DICOM slide with the name in every text attribute, with label, overview and a foreign object."""
    place = folder / MARKER
    streams = {"syntax": JPEGBaseline8Bit, "photometric": "YBR_FULL_422"}
    write_dicom(place / f"{MARKER}.dcm", encode=lambda tile: spoken(jpeg(tile)), change=named, **streams)

    def role(name: str):
        def change(dataset: Dataset) -> None:
            named(dataset)
            dataset.ImageType = ["ORIGINAL", "PRIMARY", name, "NONE"]

        return change

    write_dicom(place / f"{MARKER}-label.dcm", LABEL, change=role("LABEL"))
    write_dicom(place / f"{MARKER}-overview.dcm", MACRO, change=role("OVERVIEW"))

    def foreign(dataset: Dataset) -> None:
        named(dataset)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.4711"

    write_dicom(place / "other.dcm", change=foreign)
    return place


def write_png(folder: Path) -> Path:
    """A PNG with the name in its texts and its EXIF."""
    path, texts, exif = folder / f"{MARKER}.png", PngImagePlugin.PngInfo(), Image.Exif()
    for key in ("Title", "Author", "Description", MARKER):
        texts.add_text(key, MARKER)
    texts.add_itxt("XML:com.adobe.xmp", MARKER)
    exif[270] = exif[315] = MARKER
    Image.fromarray(PICTURE).save(path, pnginfo=texts, exif=exif)
    return path


def write_jpeg(folder: Path) -> Path:
    """A JPEG with the name as comments and EXIF."""
    path = folder / f"{MARKER}.jpg"
    path.write_bytes(spoken(jpeg(PICTURE)))
    return path


def write_hamamatsu(folder: Path) -> Path:
    """An NDPI with the name in every text tag, in those of Hamamatsu too, and in its JPEG streams."""
    properties = "".join(f"{key}={MARKER}\r\n" for key in ("Product", "Slide", "Barcode", "Operator", MARKER))
    texts = dict.fromkeys((*TEXTS_OF_TIFF, *TEXTS_OF_HAMAMATSU), MARKER) | {271: "Hamamatsu", 65449: properties}
    return write_ndpi(folder / f"{MARKER}.ndpi", texts=texts, change=spoken)


def write_mirax(folder: Path) -> Path:
    """An MRXS with the name in the texts of Slidedat.ini, in its preview, and as the name of its folder."""
    canvas = np.full((640, 640, 3), 255, np.uint8)
    canvas[:HEIGHT, :WIDTH] = PICTURE[:640, :640]
    photos = {(c, r): (60 * c, 60 * r) for c in range(8) for r in range(8)}
    texts = {section: dict.fromkeys(keys, MARKER) for section, keys in TEXTS_OF_MIRAX.items()}
    path = write_mrxs(folder / f"{MARKER}.mrxs", canvas, photos, images=(8, 8), overlap=4, texts=texts)
    path.write_bytes(spoken(path.read_bytes()))
    return path


SLIDES = [
    write_aperio,
    write_tagged_tiles,
    write_ome,
    write_dicom_folder,
    write_hamamatsu,
    write_mirax,
    write_png,
    write_jpeg,
]
WITHOUT_MPP = (write_png, write_jpeg)


def write_annotated(folder: Path, name: str) -> Path:
    """A GeoJSON of QuPath with the name in every text."""
    square = [[100, 100], [400, 100], [400, 400], [100, 400], [100, 100]]
    said = {"classification": {"name": name}, "name": MARKER, "description": MARKER, "metadata": {MARKER: MARKER}}
    shapes = [
        {"type": "Feature", "id": MARKER, "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": said},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [square]},
            "properties": {**said, "classification": {"name": f"{MARKER} ignored"}},
        },
    ]
    path = folder / f"{MARKER}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "name": MARKER, "features": shapes}))
    return path


def annotated(source: Path, layout: Layout, manifest) -> object:
    config = Annotations(classes={MARKER: "tumour", "rest": "rest"}, ignore=[f"{MARKER} ignored"])
    size = {"width": manifest.width, "height": manifest.height, "mpp": manifest.mpp}
    annotation = read_annotation(source, config, slide_id=SLIDE, properties=manifest.properties, **size)
    record, labels = layout.annotation(SLIDE), store_of(layout.label_image(SLIDE))
    record.parent.mkdir(parents=True, exist_ok=True)
    write_annotation(annotation, record=record, geojson=layout.outlines(SLIDE), labels=labels)
    return annotation


def add_features(layout: Layout, manifest, annotation, folder: Path) -> None:
    """The table and the features of a slide, which come from a folder with the name."""
    mask = np.ones((-(-manifest.height // 16), -(-manifest.width // 16)), bool)
    tissue = sample_records.tissue_mask(mask, 16)
    artefacts = sample_records.artefact_map(np.zeros_like(mask, np.uint8))
    classes = ["tumour", "rest"]
    table = tabulate(manifest, tissue, artefacts, annotation, GRID, classes, grid_name="g", max_share=0.5)
    write_patch_table(table, layout.table("g", SLIDE))
    entry = SlideEntry.at(layout, "g", SLIDE, MARKER, {"grade": MARKER})
    patches, record = usable_patches(entry)
    places = np.stack([patches["x"].to_numpy(), patches["y"].to_numpy()], axis=1).astype(np.int64)
    given = folder / f"{MARKER} features"
    given.mkdir()
    vectors = np.ones((len(places), 4), np.float32)
    write_trident(given / f"{SLIDE}.h5", places, SlideGrid.of_table(record), name=MARKER, vectors=vectors)
    with h5py.File(given / f"{SLIDE}.h5", "r+") as file:
        file.attrs["savetodir"] = file["coords"].attrs["savetodir"] = MARKER
    output = layout.features("e", SLIDE)
    output.parent.mkdir(parents=True)
    encoder = Encoder(grid="g", name=f"h5:{given}", dtype="float32")
    import_slide(encoder, entry, output, name="e", code="c", made_of="m")


@pytest.fixture(params=SLIDES, ids=lambda write: write.__name__)
def home(request, tmp_path) -> tuple[Layout, Path]:
    """The results of a slide of every format, with the names of its fields; and its source."""
    folder = tmp_path / "given"
    folder.mkdir()
    source, layout = request.param(folder), Layout(tmp_path / "results")
    layout.manifest(SLIDE).parent.mkdir(parents=True)
    store = layout.results / "slides" / f"{SLIDE}.zarr"
    mpp = 0.5 if request.param in WITHOUT_MPP else None
    manifest = convert(source, store, slide_id=SLIDE, config=Convert(tile_px=TILE), mpp=mpp)
    manifest.write(layout.manifest(SLIDE))
    annotation = annotated(write_annotated(folder, MARKER), layout, manifest)
    add_features(layout, manifest, annotation, folder)
    return layout, source


def found_in(folder: Path) -> set[str]:
    """Files below ``folder`` with the name in their path or in their bytes; in compressed tables, in texts too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and _has_name(path, folder)}


def _has_name(path: Path, folder: Path) -> bool:
    texts = [str(path.relative_to(folder)), *_texts(path)]
    return any(MARKER.lower() in text.lower() for text in texts)


def _texts(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    yield content.decode(errors="replace")
    yield content.decode("utf-16-le", errors="replace")
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield f"{table.schema.metadata} {table.to_pylist()}"
    if path.suffix in (".h5", ".h5ad"):
        with h5py.File(path) as file:
            said = [str(dict(file.attrs))]
            file.visititems(lambda name, item: said.append(f"{name} {dict(item.attrs)} {_values(item)}"))
        yield "\n".join(said)


def _values(item: h5py.Group | h5py.Dataset) -> str:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "OS":
        return ""
    return str(item[()])


def test_the_search_finds_the_name_in_what_was_given(home):
    _, source = home
    given = source.parent
    assert f"{MARKER}.geojson" in found_in(given)
    files = source.rglob("*") if source.is_dir() else [source]
    assert all(MARKER.encode() in path.read_bytes() for path in files if path.is_file() and path.suffix != ".png")


def test_an_exported_image_and_exported_features_have_no_name(home, tmp_path):
    layout, _ = home
    out = tmp_path / "exported"
    out.mkdir()
    export_slide(layout, SLIDE, out / f"{SLIDE}.ome.zarr")
    common = ["--results", str(layout.results)]
    assert main(["export-features", str(out / "h5"), "--encoder", "e", *common]) == 0
    assert main(["export-features", str(out / "h5ad"), "--encoder", "e", "--format", "h5ad", *common]) == 0
    assert main(["export-features", str(out / "coordinates"), "--coordinates", "g", *common]) == 0
    assert len(list(out.rglob("*.h5*"))) == 3
    assert found_in(out) == set()


def test_pictures_of_label_and_glass_are_in_no_store(home):
    layout, _ = home
    group = zarr.open_group(layout.results / "slides" / f"{SLIDE}.zarr", mode="r")
    assert set(group.get("associated", ())) <= {"thumbnail"}


def test_at_home_the_name_is_where_the_documentation_says(home):
    layout, source = home
    # The annotation's record has its file and names under which regions are left out, the manifest settings.
    # Features of another program have the name of their folder.
    allowed = {f"annotations/{SLIDE}.json", f"features/e/{SLIDE}.arrow"}
    manifest = json.loads(layout.manifest(SLIDE).read_text())
    kept = {key for key, value in manifest["properties"].items() if MARKER in value}
    assert kept == set(SETTINGS.get(source.suffix, ()))
    if kept:
        allowed.add(f"slides/{SLIDE}.json")
    assert found_in(layout.results) == allowed
    record = json.loads(layout.annotation(SLIDE).read_text())
    assert record.pop("ignored") == {f"{MARKER} ignored": 1}
    assert record.pop("source") == f"{MARKER}.geojson"
    assert MARKER not in json.dumps(record)


def test_tiles_without_their_texts_decode_as_before(tmp_path):
    plain, told = tmp_path / "plain", tmp_path / "told"
    for folder in (plain, told):
        folder.mkdir()
    source = write_tagged_tiles(told)
    parts = [split_jpeg(jpeg(tile)) for tile in padded_tiles()]
    tables = b"\xff\xd8" + parts[0][0] + b"\xff\xd9"
    tiles = [b"\xff\xd8" + rest for _, rest in parts]
    write_tiff(plain / "a.tif", tiles, compression=7, photometric=6, tables=tables)
    stores = []
    for path in (source, plain / "a.tif"):
        manifest = convert(path, path.parent / "s.zarr", slide_id=SLIDE, config=Convert())
        assert manifest.levels[0].passthrough
        stores.append({name: digest for name, digest in manifest.checksums.items() if "/c/" in name})
    assert stores[0] == stores[1]


def test_a_crate_has_no_name_of_the_sheet_or_of_a_file(tmp_path):
    layout = make_results(tmp_path, identifiers=False)
    assert NAME.lower() not in exported(layout, tmp_path / "crate").lower()


def test_no_path_of_an_output_keeps_the_slide_it_is_of(tmp_path):
    """Every method of the layout that takes a slide."""
    layout = Layout(tmp_path / "results")
    names = Pseudonyms(layout, [MARKER])
    paths = [
        layout.manifest(MARKER),
        layout.store(MARKER, packed=True),
        layout.label_image(MARKER),
        layout.table("g", MARKER),
        layout.features("e", MARKER),
        layout.segmentation("t", 0, MARKER),
        layout.segmented_outlines("t", 0, MARKER),
        layout.view("t", 0, MARKER, "prediction"),
        layout.region("t", 0, MARKER, (1, 2, 3, 4)),
        layout.contact_sheet("g", MARKER),
        layout.qupath_tiles("t", 0, MARKER),
        layout.patch_cascade("c").prediction(0, MARKER),
        layout.slide_page(MARKER),
        layout.cascade("c").store(MARKER),
        layout.cell_labels("c", MARKER),
        layout.cell_outlines("c", MARKER),
    ]
    assert not [path for path in paths if MARKER in names.path(str(path))]


def test_a_dicom_slide_is_given_every_text_of_the_standard(tmp_path):
    path = next(write_dicom_folder(tmp_path).glob(f"{MARKER}.dcm"))
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    assert sum(element.VR in TEXT_VRS and element.value == MARKER for element in dataset) > 700
