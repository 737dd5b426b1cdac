"""Bags of patches as images: a network that turns patches into vectors and is trained with the pooling, end to end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from histomake.bags.batch import Bags
from histomake.bags.hazards import IntervalHazards
from histomake.bags.network import BagNetwork
from histomake.bags.pooling import PooledBags
from histomake.base.kinds import Kind
from histomake.base.records.model_card import Normalisation
from histomake.config import Bag, BagPooling, Model
from histomake.learn.data.images import standardise, to_unit
from histomake.learn.data.patch_index import PatchIndex
from histomake.learn.data.reading import PatchReader
from histomake.model.build import build_model, embed, normalisation
from histomake.model.transfer import freeze_stages, load_weights_file, transfer_encoder, weights_file
from histomake.patch import augment
from histomake.patch.augment import Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Featurizer(nn.Module):
    """A network without its last layer, from patches to vectors.

    Patches pass it in chunks of nearly the same size, at most ``chunk``. When gradients are needed, what is inside the
    network is computed again for each chunk (Chen et al. 2016), so that memory is that of one chunk, however large the
    bag is. The second pass leaves the running statistics of normalisation layers as they are.
    """

    def __init__(
        self, model: Model, *, kind: Kind, size: int, chunk: int, weights: Normalisation | None = None
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.network = build_model(model, kind=kind, outputs=1, size=size)
        self.normalisation = weights or normalisation(self.network)
        self.channels = 3 * (1 + len(model.context))
        if isinstance(model.pretrained, str):
            take = load_weights_file if model.transfer == "all" else transfer_encoder
            take(self.network, weights_file(model.pretrained))
        if model.frozen_stages:
            freeze_stages(self.network, model.frozen_stages)
        last = getattr(self.network, "default_cfg", {}).get("classifier")
        if isinstance(last, str):
            # It takes no part in the vectors.
            self.network.set_submodule(last, nn.Identity())

    @torch.inference_mode()
    def width(self, size: int) -> int:
        """Length of the vector of a patch with the edge ``size``, in pixels."""
        training = self.network.training
        found = embed(self.network.eval(), torch.zeros(1, self.channels, size, size)).shape[1]
        self.network.train(training)
        return found

    def forward(self, images: Tensor, parameters: Parameters | None = None) -> Tensor:
        """Vectors float32 (n, d) of patches uint8 (n, h, w, c), changed by the ``parameters`` of augmentation."""
        count = -(-len(images) // self.chunk)
        bounds = np.linspace(0, len(images), count + 1).round().astype(int).tolist()
        parts = []
        for start, stop in itertools.pairwise(bounds):
            part = None if parameters is None else parameters.part(start, stop)
            if torch.is_grad_enabled() and count > 1:
                found = checkpoint(
                    self._vectors, images[start:stop], part, use_reentrant=False, context_fn=self._contexts
                )
            else:
                found = self._vectors(images[start:stop], part)
            parts.append(found.float())
        return torch.cat(parts)

    def _vectors(self, images: Tensor, parameters: Parameters | None) -> Tensor:
        found = to_unit(images, images.device)
        if parameters is not None:
            found, _ = augment.apply(found, parameters.to(images.device))
        return embed(self.network, standardise(found, self.normalisation))

    def _contexts(self) -> tuple[Any, Any]:
        return nullcontext(), self._statistics_kept()

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Leave the running statistics of batch normalisation as they are."""
        layers = [layer for layer in self.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        before = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 0.0
        try:
            yield
        finally:
            for layer, momentum in zip(layers, before, strict=True):
                layer.momentum = momentum


class PixelBagNetwork(BagNetwork):
    """A `Featurizer`, and the network of bags of its vectors, which are not scaled."""

    def __init__(
        self,
        settings: BagPooling,
        *,
        featurizer: Featurizer,
        size: int,
        outputs: int,
        hazards: IntervalHazards | None = None,
    ) -> None:
        super().__init__(settings, inputs=featurizer.width(size), outputs=outputs, hazards=hazards)
        self.featurizer = featurizer

    def forward(self, bags: Bags, parameters: Parameters | None = None) -> PooledBags:
        """Pool bags whose features are patches uint8 (n, h, w, c)."""
        return super().forward(Bags(self.featurizer(bags.features, parameters), bags.sizes, bags.places))


class FeaturizedPatches:
    """Vectors of the patches of an index, computed from pixels when they are read, by a network in eval mode."""

    def __init__(self, patches: PatchIndex, model: Model, bag: Bag, featurizer: Featurizer | None = None) -> None:
        self.patches, self.bag, self.featurizer = patches, bag, featurizer
        self.reader = PatchReader(patches, model)

    @torch.inference_mode()
    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 (n, d) of the patches at ``index``, in its order. Raises SlideError for a damaged one."""
        if self.featurizer is None:
            raise ValueError("there is no network yet")
        device = next(self.featurizer.parameters()).device
        found = []
        for start in range(0, len(index), self.bag.chunk):
            part = index[start : start + self.bag.chunk]
            images = torch.from_numpy(read_pixels(self.reader, part, self.bag.crop))
            found.append(self.featurizer(images.to(device)).cpu().numpy())
        return np.concatenate(found)


def read_pixels(
    reader: PatchReader, index: NDArray[np.int64], crop: int | None, rng: np.random.Generator | None = None
) -> NDArray[np.uint8]:
    """Pixels uint8 (n, edge, edge, c) of patches, or a square of ``crop`` px of each.

    It is in the middle, or with ``rng`` at any place. Raises SlideError for the first patch that is damaged.
    """
    patches = reader.patches
    pixels, errors = reader.read(index, patches.x[index].astype(np.int64), patches.y[index].astype(np.int64))
    if errors:
        raise errors[min(errors)]
    if crop is None or crop == patches.size:
        return pixels
    free = patches.size - crop
    places = np.full((len(index), 2), free // 2) if rng is None else rng.integers(0, free + 1, (len(index), 2))
    return np.stack([one[y : y + crop, x : x + crop] for one, (x, y) in zip(pixels, places, strict=True)])
