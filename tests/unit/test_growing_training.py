"""Training of growing generators on painted slides: what is read, learned and kept, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import train_generator_killed
from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.layout import Layout
from histomake.base.records.generator_card import GeneratorCard
from histomake.config import Generator
from histomake.generate.growing import objective as module
from histomake.generate.growing.fields import FieldBatches, index_fields
from histomake.generate.growing.objective import GrowingObjective
from histomake.generate.growing.phase_pictures import CAPTION_PX, captioned
from histomake.generate.growing.samples import GeneratedImages, draw_grid, write_samples
from histomake.generate.growing.schedule import Schedule
from histomake.generate.growing.training import train_generator
from histomake.learn.engine.runtime import choose_runtime
from histomake.patch.field_grid import field_grid
from PIL import Image
from safetensors.torch import load_file
from small_cohort import build_quarantined, build_slide

SMALL = {
    "field_um": 128,
    "sizes": [4, 8],
    "latent": 4,
    "images": 12,
    "fade": 16,
    "network": {"features": 1024, "most": 4},
    "train": {"batch": 4, "record_every": 2, "workers": 0},
}


def settings(**changes) -> Generator:
    train = {**SMALL["train"], **changes.pop("train", {})}
    return Generator.model_validate({**SMALL, **changes, "train": train})


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("cohort"))
    entries = [build_slide(layout, f"s{i}", seed=i, grid=field_grid(settings())) for i in range(3)]
    return [replace(e, labels={"organ": organ}) for e, organ in zip(entries, ("skin", "kidney", "skin"), strict=True)]


def train(generator, slides, folder, **changes):
    places = {"output": folder / "model", "state": folder / "state", "seed": 1, "threads": 1}
    return train_generator(generator, **{"entries": slides, **places, **changes})


def batches(generator, slides, **changes) -> FieldBatches:
    fields = index_fields(slides, generator, what="slides")
    return FieldBatches(fields, Schedule.of(generator), **{"min_tissue": generator.tissue, "seed": 5, **changes})


def objective_of(generator, slides) -> GrowingObjective:
    fields = index_fields(slides, generator, what="slides")
    return GrowingObjective(generator, fields=fields, runtime=choose_runtime("fp32", threads=1), seed=1, threads=1)


def test_a_training_leaves_weights_card_history_and_a_picture_of_every_phase(slides, tmp_path):
    card = train(settings(), slides, tmp_path)
    assert sum(w.numel() for w in load_file(tmp_path / "model/model.safetensors").values()) == card.parameters
    assert (card.step, card.shown, card.slides) == (10, 40, ["s0", "s1", "s2"])
    assert len(card.made_with) == 3
    assert GeneratorCard.read(tmp_path / "model/model.json") == card
    rows = list(csv.DictReader((tmp_path / "model/history.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "10"]
    assert float(rows[-1]["train_penalty"]) > 0
    with Image.open(tmp_path / "model/phases.png") as picture:
        assert "in silico" in picture.text["Description"]
        assert picture.height == 3 * 96 + 2 * 4 + CAPTION_PX


def test_a_training_killed_ten_times_across_phases_ends_with_the_weights_of_an_uninterrupted_run(slides, tmp_path):
    generator = settings(sizes=[4, 8, 16], images=32, fade=48, train={"checkpoint_minutes": 1e-9})
    train_generator_killed.main(generator.dump(), slides, tmp_path / "whole")
    steps = train_generator_killed.kill_repeatedly(generator, slides, tmp_path / "killed", kills=10)
    phases = {Schedule.of(generator).at(step).number for step in steps}
    assert len(phases) > 1
    assert not (tmp_path / "killed/model/model.safetensors").exists()
    train_generator_killed.main(generator.dump(), slides, tmp_path / "killed")
    whole, stopped = (tmp_path / name / "model/model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == stopped.read_bytes()
    assert (tmp_path / "whole/model/phases.png").read_bytes() == (tmp_path / "killed/model/phases.png").read_bytes()


def test_a_batch_is_a_function_of_its_number_and_has_the_size_of_its_step(slides):
    source = batches(settings(), slides)
    first, again, later = source.prepare(2), source.prepare(2), source.prepare(5)
    assert torch.equal(first.images, again.images)
    assert (first.images.shape, later.images.shape) == ((4, 4, 4, 3), (4, 8, 8, 3))


def test_every_size_shows_the_same_field(slides):
    fields = index_fields(slides, settings(), what="slides")
    index = np.arange(4)
    places = fields.patches.x[index], fields.patches.y[index]
    fine, _ = fields.reader(128).read(index, *places)
    for size in (4, 8, 16, 32):
        coarse, _ = fields.reader(size).read(index, *places)
        means = fine.reshape(4, size, 128 // size, size, 128 // size, 3).mean((2, 4))
        assert np.abs(coarse - means).max() <= 2


def test_fields_are_drawn_inside_tissue_off_the_grid_and_from_all_slides(tmp_path):
    generator = settings(tissue=1.0, train={"batch": 100})
    slides = [build_slide(Layout(tmp_path), f"s{i}", seed=i, grid=field_grid(generator)) for i in range(3)]
    source = batches(generator, slides)
    index = source.prepare(0).index
    assert set(source.fields.patches.slide[index]) == {0, 1, 2}
    x, y = source._places(index, 0)
    assert np.any(x != source.fields.patches.x[index])
    # The left eighth of the slides, 64 px, is glass.
    assert x.min() >= 64
    assert max(x.max(), y.max()) <= 512 - 128


@pytest.mark.parametrize(("field", "sizes"), [(512, [4, 8]), (128, [4]), (2000, [4, 8, 16]), (512, [4, 8, 16, 32, 64])])
def test_fields_are_placed_by_an_allowed_grid_whatever_the_sizes(field, sizes):
    grid = field_grid(Generator(field_um=field, sizes=sizes))
    assert grid.size * grid.mpp == pytest.approx(field)
    assert grid.max_upsampling == pytest.approx(1.1 * grid.size / sizes[-1])


def test_slides_without_tissue_are_refused_with_the_reason(tmp_path):
    lost = build_quarantined(Layout(tmp_path / "lost"), "gone", grid=field_grid(settings()))
    with pytest.raises(HistomakeError, match=r"training slides of the generator has no usable patch: slide gone is in"):
        train(settings(), [lost], tmp_path)


def test_a_loss_that_is_not_a_number_stops_with_step_and_fields(slides, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "drift", lambda scores: (scores * float("nan")).mean())
    with pytest.raises(HistomakeError, match=r"critic_loss is not a number at step 0; .*slide s[012] patch at x="):
        train(settings(), slides, tmp_path)


def test_a_damaged_slide_is_left_out_and_named(slides, tmp_path, monkeypatch):
    error = SlideError(Reason.DAMAGED_TILES, slide_id="s1", path="s1.zarr", detail="torn", remedy="convert again")

    def read(self, index, x, y, out=None):
        bad = [n for n, i in enumerate(index) if self.patches.entries[self.patches.slide[i]].slide_id == "s1"]
        return out, dict.fromkeys(bad, error)

    monkeypatch.setattr("histomake.generate.growing.fields.PatchReader.read", read)
    card = train(settings(), slides, tmp_path, max_lost=0.5)
    assert [entry.slide_id for entry in card.left_out] == ["s1"]
    assert card.slides == ["s0", "s2"]


def test_optimisers_begin_anew_with_a_phase_and_only_its_parts_learn(slides):
    objective = objective_of(settings(), slides)
    first = objective.schedule.phases[1].first
    adam = objective.optimisers["critic"].optimiser
    weight = objective.critic.score.weight
    adam.state[weight] = {"step": torch.tensor(3.0)}
    objective.begin(first + 1)
    assert adam.state[weight]
    objective.begin(first)
    assert not adam.state
    objective.begin(0)
    learning = {name for name, p in objective.generator.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("blocks.1", "to_rgb.1")) for name in learning)
    assert {"first.weight", "blocks.0.0.conv.weight", "to_rgb.0.bias"} <= learning


def test_labels_of_slides_condition_images(slides, tmp_path):
    card = train(settings(label="organ"), slides, tmp_path)
    assert (card.label, card.labels) == ("organ", ["kidney", "skin"])
    samples = GeneratedImages(tmp_path / "model", seed=3, threads=1)
    assert [samples.label(n) for n in range(3)] == [0, 1, 0]
    batch = batches(settings(label="organ"), slides).prepare(0)
    patches = batches(settings(label="organ"), slides).fields.patches
    assert batch.labels.tolist() == [[1, 0, 1][slide] for slide in patches.slide[batch.index]]


def test_a_label_that_was_not_learned_is_refused(slides):
    with pytest.raises(HistomakeError, match=r"organ was not learned: s1 \(kidney\)"):
        index_fields(slides, settings(label="organ"), what="slides", names=["skin"])


def test_samples_are_a_function_of_seed_and_number(slides, tmp_path):
    train(settings(), slides, tmp_path)
    first, more = (GeneratedImages(tmp_path / "model", seed=3, threads=1).images(n) for n in (5, 20))
    assert np.abs(first.astype(int) - more[:5]).max() <= 1
    assert not np.array_equal(first[0], first[1])
    other = GeneratedImages(tmp_path / "model", seed=4, threads=1).images(5)
    assert not np.array_equal(first, other)


def test_samples_are_written_as_marked_pictures(slides, tmp_path):
    train(settings(label="organ"), slides, tmp_path)
    samples = GeneratedImages(tmp_path / "model", seed=3, threads=1)
    write_samples(samples, tmp_path / "drawn", count=3)
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["000000_label0.png", "000001_label1.png", "000002_label0.png"]
    draw_grid(samples, tmp_path / "samples.png")
    for path in (tmp_path / "drawn" / names[0], tmp_path / "samples.png"):
        with Image.open(path) as picture:
            assert "in silico" in picture.text["Description"]


def test_the_caption_of_a_sheet_is_below_its_images_and_changes_none():
    sheet = np.full((96, 300, 3), 7, np.uint8)
    picture = captioned(sheet)
    np.testing.assert_array_equal(picture[:96], sheet)
    strip = picture[96:]
    assert strip.shape == (CAPTION_PX, 300, 3)
    assert strip[0].min() == strip[-1].min() == 255
    assert strip.min() < 100


def test_weights_that_are_not_those_of_the_card_are_refused(slides, tmp_path):
    train(settings(), slides, tmp_path)
    with open(tmp_path / "model/model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(HistomakeError, match="not the weights"):
        GeneratedImages(tmp_path / "model", seed=3, threads=1)
