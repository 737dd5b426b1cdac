"""Networks in ONNX files, run by onnxruntime on the CPU.

A file is read into memory first: onnxruntime then opens no further file that the network names, and no library of
custom operators is loaded. So an ONNX file can compute only what the operators of onnxruntime compute.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file


class OnnxNetwork(nn.Module):
    """A network in an ONNX file as a module: float32 (n, 3, h, w) to its first output, float32.

    ``sha256``: digest that the file must have; None where the card states none. Raises HistomakeError if there is no
    such file, it has another digest, or it does not take one batch of images.
    """

    def __init__(self, path: Path, *, sha256: str | None) -> None:
        super().__init__()
        import onnxruntime  # only needed for such files
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Unsupported

        if not path.is_file():
            raise HistomakeError(f"there is no file {path}; put the network there or correct the path")
        self.path, self.digest = path, sha256_file(path)
        if sha256 not in (None, self.digest):
            raise HistomakeError(f"the sha256 of {path} is {self.digest}, but the card says {sha256}: another network")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, torch.get_num_threads())
        options.log_severity_level = 3
        self.failures = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, Unsupported, RuntimeError)
        try:
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except self.failures as error:
            first = str(error).strip().splitlines()[0]
            raise HistomakeError(f"{path} is no ONNX network that onnxruntime can run: {first}") from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            takes = "; ".join(f"{one.name} {one.shape} {one.type}" for one in inputs)
            raise HistomakeError(f"{path} takes {takes}; one input of float32 (n, 3, h, w) is needed")
        self.session, self.input, self.batch = session, inputs[0].name, inputs[0].shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map float (n, 3, h, w) to the network's first output, on the device of ``x``."""
        given = x.detach().float().cpu().numpy()
        # A network that was exported for batches of one size takes no others.
        size = self.batch if isinstance(self.batch, int) else len(given)
        missing = -len(given) % max(1, size)
        filled = np.concatenate([given, np.repeat(given[-1:], missing, axis=0)]) if missing else given
        parts = [filled[start : start + size] for start in range(0, len(filled), max(1, size))]
        try:
            found = [self.session.run(None, {self.input: np.ascontiguousarray(part)})[0] for part in parts]
        except self.failures as error:
            first = str(error).strip().splitlines()[0]
            raise HistomakeError(f"{self.path} cannot take input {given.shape}: {first}") from error
        return torch.from_numpy(np.concatenate(found)[: len(given)]).float().to(x.device)
