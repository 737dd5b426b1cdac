"""Keys of encoders: networks that turn every patch into a vector, whose weights are not trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from histomake.base.units import PatchPixels
from histomake.config.section import Name, Section

SOURCES = ("timm", "torchvision", "hf-hub", "folder", "task", "h5")
"""What the name of an encoder may begin with."""

IMPORTED_KEYS = ("grid", "name", "dtype")
"""Keys of an encoder whose features are extracted already."""


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
    group: Name | None = Field(
        None,
        description="Encoders of one grid with the same group are computed in one job, which decodes every patch once, "
        "and stored in one file per slide. A change of one, or another member, computes the whole group again. By "
        "default each encoder is a group of its own, with its name.",
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
        return self

    def shaping(self) -> dict[str, Any]:
        """Return the settings that shape the features: not those of running the job."""
        return {key: value for key, value in self.dump().items() if key not in ("batch", "group")}
