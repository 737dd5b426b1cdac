"""Keys of encoders: networks that turn every patch into a vector, whose weights are not trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from histomake.base.units import PatchPixels
from histomake.config.section import Decode, Name, Section, Share

SOURCES = ("timm", "torchvision", "hf-hub", "folder", "task", "h5")
"""What the name of an encoder may begin with."""

IMPORTED_KEYS = ("grid", "name", "dtype")
"""Keys of an encoder whose features are extracted already."""


class PatchChoice(Section):
    """Which patches an encoder sees: those that a task on a coarser grid scores highest. All limits given hold."""

    task: Name = Field(
        description="Task whose models choose, in each fold the one of the same fold: a task of level slide, by the "
        "attention to its patches, or one that classifies patches, by the score of class_name. A patch has the score "
        "of the patch of that task's grid around its centre; without one it is not chosen. The tasks that learn from "
        "the encoder need the same patients: split: {like: <task>}."
    )
    class_name: Name | None = Field(
        None, description="Class whose score chooses, of a task that classifies patches; null: attention chooses."
    )
    budget: Share | None = Field(
        None, gt=0, description="Largest share of the slide's usable patches. At least one patch is chosen."
    )
    most: int | None = Field(None, ge=1, description="Largest number of patches of a slide.")
    least_score: Share | None = Field(
        None, description="Smallest score of class_name. The highest patch is chosen even if it is below."
    )

    @model_validator(mode="after")
    def _limited(self) -> PatchChoice:
        if self.budget is None and self.most is None and self.least_score is None:
            raise ValueError("choose: give budget, most or least_score; without a limit every patch would be encoded")
        if self.least_score is not None and self.class_name is None:
            raise ValueError("choose.least_score: attention has no fixed scale; use budget or most, or class_name")
        return self


class Encoder(Section):
    """An encoder: it turns every kept patch of a grid into a vector of features, which tasks learn from."""

    grid: Name = Field(description="Grid whose patches are encoded; a name under grids.")
    name: str = Field(
        description="The network. folder: and a path: a folder with model.json and model.safetensors (see "
        "config/encoders). timm: or torchvision: and a network of that library; timm: may be left out. hf-hub: and a "
        "timm model of that hub, which needs network access. task: and a task of this configuration: the model of each "
        "fold encodes for the same fold. h5: and a path: a folder with features that TRIDENT, CLAM or STAMP extracted "
        "at the patches of the grid, a file <slide_id>.h5 per slide (see histomake import-features).",
    )
    weights: str | bool | None = Field(
        None,
        description="Path of a safetensors file; true: the weights of timm, which needs network access; false: random "
        "weights, as a baseline. By default those beside the card or of the hub; timm and torchvision need a value.",
    )
    size: PatchPixels | None = Field(
        None,
        ge=16,
        le=4096,
        description="Edge in pixels to which patches are resized. By default what the card says, or else the network, "
        "or else the grid's size.",
    )
    pool: Literal["auto", "network", "token", "mean", "token+mean"] = Field(
        "auto",
        description="How tokens or feature maps become one vector. auto: as the card says, or else network: as the "
        "network itself does. token: the class token; mean: mean of all patch tokens; token+mean: both.",
    )
    stain: Literal["none", "macenko"] = Field(
        "none",
        description="Stain normalisation to the fixed reference of Macenko et al. 2009 as in torchstain, the same for "
        "every cohort.",
    )
    views: Literal["one", "mean"] = Field(
        "one", description="mean: average over the eight flips and turns of each patch, at eight times the cost."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 if the GPU supports it, else fp16; fp32 on a CPU."
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="Type of the stored values.")
    batch: int = Field(
        64,
        ge=1,
        description="Number of patches per forward pass on a GPU; on a CPU at most 32. It does not change the result.",
    )
    decode: Decode = Field(
        "cpu",
        description="Where the tiles of the slide are decoded, as predict.decode of a task. It is part of the identity "
        "of the features, and the same for all encoders of a group.",
    )
    group: Name | None = Field(
        None,
        description="Encoders of one grid with the same group are computed in one job, which decodes every patch once, "
        "and stored in one file per slide. A change of one, or another member, computes the whole group again. By "
        "default each encoder is a group of its own, with its name.",
    )
    choose: PatchChoice | None = Field(
        None,
        description="Encode only patches that a task on a coarser grid chooses. Tasks of level slide or patient learn "
        "from these patches alone, and predict slides by them alone. Null: encode all.",
    )

    @property
    def source(self) -> str:
        """What the name begins with; one of SOURCES."""
        return self.name.partition(":")[0] if ":" in self.name else "timm"

    @property
    def target(self) -> str:
        """The name without its source: of a network, a path, or a task."""
        return self.name.partition(":")[2] if ":" in self.name else self.name

    @model_validator(mode="after")
    def _source_with_weights(self) -> Encoder:
        if self.source not in SOURCES:
            raise ValueError(f"name: {self.name} begins with none of {', '.join(f'{s}:' for s in SOURCES)}")
        if self.source in ("timm", "torchvision") and self.weights is None:
            raise ValueError(
                f"weights: say which weights {self.name} has: the path of a safetensors file, true for those of timm, "
                "or false for random ones"
            )
        if self.source == "torchvision" and self.weights is True:
            raise ValueError("weights: true is not possible for torchvision, whose weights are pickles; use a file")
        if self.source in ("hf-hub", "task") and self.weights is not None:
            raise ValueError(f"weights: {self.name} brings its own; remove the key, or use folder: with a card")
        usual = {key: field.default for key, field in type(self).model_fields.items()}
        unused = [key for key in usual if key not in IMPORTED_KEYS and getattr(self, key) != usual[key]]
        if self.source == "h5" and unused:
            raise ValueError(f"{', '.join(unused)}: h5: has features that are extracted already; remove the keys")
        if self.source == "task" and self.stain != "none":
            raise ValueError("stain: the model of a task normalises stains as it was trained; remove the key")
        if self.source == "folder" and isinstance(self.weights, bool):
            raise ValueError("weights: of folder: are those beside its card, or a path")
        if self.choose is not None and (self.source in ("h5", "task") or self.group is not None):
            raise ValueError("choose: not with h5:, task: or group, whose features are made of all patches")
        return self

    def shaping(self) -> dict[str, Any]:
        """Return the settings that shape the features: not those of running the job."""
        usual = () if self.decode == "auto" else ("decode",)
        return {key: value for key, value in self.dump().items() if key not in ("batch", "group", *usual)}
