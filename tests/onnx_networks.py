"""Small ONNX networks: some that fit, and some with one fault each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facegallery.embedder.weights.onnx_import import Seen

SIDE, DIMENSION = 32, 24
BOX = Seen(crop="box", size=SIDE, mean=100.0, scale=50.0)


def network(batch="n", side=SIDE, *, nhwc=False, middle=None, last=None, dimension=DIMENSION) -> onnx.ModelProto:
    """A small network: images -> convolution -> 8 means -> vectors.

    middle: nodes from "g" (n, 8, 1, 1) to "m" (n, 8). last: nodes from "v" to "y".
    """
    draw = np.random.default_rng(3)
    tensors = [
        numpy_helper.from_array(draw.normal(size=(8, 3, 5, 5)).astype(np.float32) / 8, "kernel"),
        numpy_helper.from_array(draw.normal(size=(8, dimension)).astype(np.float32), "matrix"),
        numpy_helper.from_array(np.array([1, 8]), "one"),
        numpy_helper.from_array(np.array([-1, 8]), "any"),
        numpy_helper.from_array(np.array([1, 2, 4]), "halves"),
        numpy_helper.from_array(np.array(np.nan, np.float32), "nan"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    shape = [batch, side, side, 3] if nhwc else [batch, 3, side, side]
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if nhwc else []
    nodes += [
        helper.make_node("Conv", ["t" if nhwc else "x", "kernel"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        *(middle or [helper.make_node("Reshape", ["g", "any"], ["m"])]),
        helper.make_node("MatMul", ["m", "matrix"], ["v" if last else "y"]),
        *(last or []),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


BURNT_IN = (
    helper.make_node("Reshape", ["g", "halves"], ["h"]),
    helper.make_node("Reshape", ["h", "one"], ["m"]),
)
MIXED = (  # without a fault for any batch, but each face has the mean of the batch taken off
    helper.make_node("ReduceMean", ["g"], ["all"], axes=[0], keepdims=1),
    helper.make_node("Mul", ["all", "half"], ["h"]),
    helper.make_node("Sub", ["g", "h"], ["d"]),
    helper.make_node("Reshape", ["d", "any"], ["m"]),
)


def of_type(kind: int) -> onnx.ModelProto:
    """The same network with an input of other numbers."""
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.input[0].name = "given"
    model.graph.node.insert(0, helper.make_node("Cast", ["given"], ["x"], to=TensorProto.FLOAT))
    return model


def mixed() -> onnx.ModelProto:
    model = network(middle=MIXED)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    return model


def saved(model: onnx.ModelProto, folder: Path, name="mine.onnx") -> Path:
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


# with a fault -----------------------------------------------------------------


def external() -> onnx.ModelProto:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=__file__)
    return model


def external_in_an_attribute() -> onnx.ModelProto:
    tensor = TensorProto(name="a", data_type=1, dims=[4])
    tensor.external_data.add(key="location", value="/etc/passwd")
    model = network()
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    return model


def external_without_a_place() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return model


def external_in_a_branch() -> onnx.ModelProto:
    model = network()
    branch = onnx.GraphProto(name="b")
    branch.initializer.extend(external().graph.initializer[:1])
    model.graph.node.append(helper.make_node("If", ["x"], ["unused"], then_branch=branch, else_branch=branch))
    return model


def custom() -> onnx.ModelProto:
    model = network(last=[helper.make_node("Special", ["v"], ["y"], domain="com.example")])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def functions() -> onnx.ModelProto:
    model = network()
    model.functions.add(name="F", domain="com.example")
    return model


def loop() -> onnx.ModelProto:
    return network(last=[helper.make_node("Loop", ["", "", "v"], ["y"], body=onnx.GraphProto(name="b"))])


def two_outputs() -> onnx.ModelProto:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))
    return model


def two_inputs() -> onnx.ModelProto:
    model = network(last=[helper.make_node("Add", ["v", "more"], ["y"])])
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, DIMENSION]))
    return model


def last(*operators: str, inputs=("v",), **attributes) -> onnx.ModelProto:
    return network(last=[helper.make_node(operators[0], list(inputs), ["y"], **attributes)])


def grey() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


def oblong() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 48
    return model


def no_shape() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def deep() -> bytes:
    """Graphs within attributes of nodes within graphs, by hand."""
    graph = b""
    for _ in range(2000):
        for key in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            graph = key + encoded(len(graph)) + graph
    return b"\x3a" + encoded(len(graph)) + graph


def encoded(number: int) -> bytes:
    found = b""
    while number >= 128:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])
