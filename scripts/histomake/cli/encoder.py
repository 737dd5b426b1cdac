"""Write the folder of an encoder: model.json and model.safetensors, as `encoders.<name>.name: folder:…` needs it.

Without options it is EfficientNet-Lite0 with ImageNet weights, which are part of an installed package. With --card and
--weights it is any encoder with downloaded weights; if they are a pickle, only its tensors are read:

  histomake encoder encoders/lite0
  histomake encoder encoders/uni2-h --card config/encoders/uni2-h/model.json --weights pytorch_model.bin
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.errors import ConfigError
from histomake.base.records.encoder_card import EncoderCard


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder to write")
    command.add_argument("--card", type=Path, metavar="FILE", help="card of the encoder, see config/encoders")
    command.add_argument(
        "--weights", type=Path, metavar="FILE", help="its weights: safetensors, or a pickled state_dict"
    )


def run(options: argparse.Namespace) -> int:
    """Write the folder."""
    # Imported here, because torch takes seconds.
    from histomake.model.encoder_folder import write_efficientnet_lite0, write_from_file

    if (options.card is None) != (options.weights is None):
        raise ConfigError("--card and --weights are given together")
    if options.card is None:
        card = write_efficientnet_lite0(options.folder)
    else:
        card = write_from_file(options.folder, EncoderCard.read(options.card), options.weights)
    print(f"{options.folder}: {card.name}, {card.dimensions} numbers per patch, sha256 of the weights {card.sha256}")
    return 0
