"""Export a model as ONNX, float32, with batch norm folded into the convolutions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facegallery.embedder.network.architecture import Kernel, folded, lay
from facegallery.embedder.network.preprocess import ALONG
from facegallery.embedder.network.sface_layers import folded as folded_sface
from facegallery.embedder.network.sface_layers import standardisation
from facegallery.embedder.spec import FACENET, INPUT_SIZE, SPEC_KEY

OPSET, IR = 17, 8  # read by ONNX Runtime 1.12 and later
IMAGE = [1, 2, 3]  # axes
LEAST = -(1 << 31)  # the end of a slice that goes back to the first element


class OnnxFormat:
    """Builds nodes of one graph, whose tensors are names; the methods are those of `export.Format`."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # of the inputs
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation; return the name of its output."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an array by its name, once; return the name."""
        self._constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """Add a float32 number as a constant; return its name."""
        return self.constant(f"number_{value:g}", np.array(value, np.float32))

    def faces(self, name: str, size: int) -> str:
        self._sizes[name] = size
        return name

    def along(self, crops: str, matrix: np.ndarray, axis: int) -> str:
        x = self.node("Cast", crops, to=TensorProto.FLOAT)
        return self.node(
            "Einsum", x, self.constant(f"sampling_{zlib.crc32(matrix.tobytes()):08x}", matrix), equation=ALONG[axis]
        )

    def affine(self, crops: str, mean: float, scale: float) -> str:
        x = self.node("Cast", crops, to=TensorProto.FLOAT)
        return self.node("Div", self.node("Sub", x, self.number(mean)), self.number(scale))

    def per_image(self, crops: str) -> str:
        x = self.node("Cast", crops, to=TensorProto.FLOAT)
        x = self.node("Sub", x, self.node("ReduceMean", x, axes=IMAGE))
        deviation = self.node("Sqrt", self.node("ReduceMean", self.node("Mul", x, x), axes=IMAGE))
        return self.node("Div", x, self.node("Max", deviation, self.number(1 / np.sqrt(INPUT_SIZE * INPUT_SIZE * 3))))

    def network(self, kind: str, arrays: Mapping[str, np.ndarray], name: str) -> Callable[[str], str]:
        def run(x: str) -> str:
            x = self.node("Transpose", x, perm=[0, 3, 1, 2])
            if kind == FACENET:
                return lay(_OnnxBuilder(self, arrays, name), x)
            return _sface(self, arrays, name, x)

        return run

    def mirror(self, crops: str) -> str:
        start, end, axis = (self.constant(f"mirror_{v}", np.array([v])) for v in (-1, LEAST, 2))
        return self.node("Slice", crops, start, end, axis, start)

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def scale(self, x: str, factor: float) -> str:
        return self.node("Mul", x, self.number(factor))

    def join(self, vectors: list[str]) -> str:
        return self.node("Concat", *vectors, axis=1)

    def unit(self, x: str) -> str:
        return self.node("Div", x, self.node("Max", self.node("ReduceL2", x, axes=[1]), self.number(1e-10)))

    def save(self, vectors: str, contract: str, path: Path) -> None:
        self._nodes[-1].output[0] = "vectors"
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", size, size, 3])
            for name, size in self._sizes.items()
        ]
        outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", None])]
        graph = helper.make_graph(self._nodes, "facegallery", inputs, outputs, list(self._constants.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="facegallery"
        )
        helper.set_model_props(model, {SPEC_KEY: contract})
        onnx.save(model, path)


class _OnnxBuilder:
    """Builds operations on (n, c, h, w); tensors are names."""

    def __init__(self, graph: OnnxFormat, arrays: Mapping[str, np.ndarray], prefix: str):
        self._graph, self._arrays, self._prefix = graph, arrays, prefix

    def _constants(self, name: str, kernel: np.ndarray, bias: np.ndarray) -> list[str]:
        named = {"kernel": kernel, "bias": bias}
        return [
            self._graph.constant(f"{self._prefix}/{name}/{part}", array.astype(np.float32))
            for part, array in named.items()
        ]

    def _convolution(self, x: str, name: str, scale: float = 1, strides: int = 1, padding: str = "valid") -> str:
        kernel, bias = folded(self._arrays, name)
        h, w = (side // 2 if padding == "same" else 0 for side in kernel.shape[:2])
        constants = self._constants(name, kernel.transpose(3, 2, 0, 1) * scale, bias * scale)
        return self._graph.node("Conv", x, *constants, strides=[strides] * 2, pads=[h, w, h, w])

    def conv(self, x: str, filters: int, kernel: Kernel, name: str, strides: int = 1, padding: str = "same") -> str:
        return self._graph.node("Relu", self._convolution(x, name, 1, strides, padding))

    def max_pool(self, x: str, name: str) -> str:
        return self._graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])

    def concatenate(self, branches: Sequence[str], name: str) -> str:
        return self._graph.node("Concat", *branches, axis=1)

    def residual(self, x: str, up: str, scale: float, prefix: str, *, relu: bool) -> str:
        y = self._graph.node("Add", x, self._convolution(up, f"{prefix}_Conv2d_1x1", scale))
        return self._graph.node("Relu", y) if relu else y

    def bottleneck(self, x: str) -> str:
        mean = self._graph.node("Flatten", self._graph.node("GlobalAveragePool", x))
        return self._graph.node("Gemm", mean, *self._constants("Bottleneck", *folded(self._arrays, "Bottleneck")))


def _sface(graph: OnnxFormat, arrays: Mapping[str, np.ndarray], prefix: str, x: str) -> str:
    """Add SFace behind float32 RGB of 0 to 255, (n, 3, 112, 112); return the name of its vectors."""
    mean, factor = map(float, standardisation(arrays))
    x = graph.node("Mul", graph.node("Sub", x, graph.number(mean)), graph.number(factor))
    layers, kernel, bias = folded_sface(arrays)

    def constant(name: str, array: np.ndarray) -> str:
        return graph.constant(f"{prefix}/{name}", array)

    for layer in layers:
        constants = constant(f"{layer.name}/kernel", layer.kernel), constant(f"{layer.name}/bias", layer.bias)
        group = len(layer.kernel) if layer.depthwise else 1
        x = graph.node("Conv", x, *constants, strides=[layer.stride] * 2, pads=[layer.pad] * 4, group=group)
        x = graph.node("PRelu", x, constant(f"{layer.name}/slopes", layer.slopes.reshape(-1, 1, 1)))
    return graph.node("Gemm", graph.node("Flatten", x), constant("kernel", kernel), constant("bias", bias), transB=1)
