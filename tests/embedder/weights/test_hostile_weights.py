"""Weights files and model folders that would read other files, fill the memory or end the process are refused."""

import contextlib
import json
import struct
import sys
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.errors import FaceGalleryError, ModelError
from facegallery.embedder.network import keras_network
from facegallery.embedder.network.shapes import known_shapes
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import fetch, formats, onnx_file, reader_process, store
from tests import torch_layout
from tests.torch_layout import named, pickled, text

KERNEL = "Conv2d_1a_3x3/Conv2d_1a_3x3/kernel:0"
SCOPE = "InceptionResnetV1"
MOST_MB = 60  # of Python and NumPy; the network itself has 90


def refused(path, match=None, read=formats.read):
    """Read a file and return the one line by which it is refused; nothing large is allocated meanwhile."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(ModelError, match=match) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MB << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700 and time.monotonic() - began < 30
    return str(caught.value)


def test_the_shapes_are_those_of_the_network():
    for folded in (False, True):
        shapes = {
            name: tuple(v.shape)
            for name, v in keras_network.variables_by_name(keras_network.build(128, folded=folded)).items()
        }
        assert shapes.items() <= known_shapes(128).items()


# HDF5 -----------------------------------------------------------------------


def external_storage(file):
    file.create_dataset(KERNEL, (3, 3, 3, 32), "f4", external=[(__file__, 0, h5py.h5f.UNLIMITED)])


def external_storage_of_the_optimizer(file):
    file.create_dataset("optimizer_weights/a", (3,), "f4", external=[(__file__, 0, h5py.h5f.UNLIMITED)])


def external_link(file):
    file["model_weights"] = h5py.ExternalLink(__file__, "/")


def external_link_below(file):
    file["model_weights/Conv2d_1a_3x3"] = h5py.ExternalLink("other.h5", "/")


def soft_link(file):
    file["model_weights/a"] = h5py.SoftLink("/nowhere")


def virtual_dataset(file):
    layout = h5py.VirtualLayout((3, 3, 3, 32), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 3, 3, 32))
    file.create_virtual_dataset(KERNEL, layout)


def region_references(file):
    file.create_dataset("data", (3,), "f4")
    file.create_dataset(KERNEL, (1,), h5py.regionref_dtype)


def object_references(file):
    file.create_dataset(KERNEL, (1,), h5py.ref_dtype)


def chunks_that_were_never_written(file):
    file.create_dataset(KERNEL, (10**6, 10**6), "f4", chunks=(1000, 1000), fillvalue=1)


def numbers_that_were_never_written(file):
    file.create_dataset(KERNEL, (10**6, 10**6), "f4")


def the_right_shape_without_numbers(file):
    file.create_dataset("Bottleneck/Bottleneck/kernel:0", (1792, 128), "f4")


def compression(file):
    file.create_dataset(KERNEL, data=np.zeros((3, 3, 3, 32), np.float32), compression="gzip")


def a_group_within_itself(file):
    file["model_weights/a/b"] = 1.0
    file["model_weights/a/c"] = file["model_weights"]


def a_named_type(file):
    file[KERNEL] = np.dtype("f4")


def groups_linked_twice(file):
    """2^30 ways lead to the last one."""
    group = file.create_group("g")
    for _ in range(30):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def wide_floats(file):
    file.create_dataset(KERNEL, data=np.zeros((3, 3, 3, 32), np.longdouble))


@pytest.mark.parametrize(
    "plant",
    [
        external_storage,
        external_storage_of_the_optimizer,
        external_link,
        external_link_below,
        soft_link,
        virtual_dataset,
        region_references,
        object_references,
        chunks_that_were_never_written,
        numbers_that_were_never_written,
        the_right_shape_without_numbers,
        compression,
        a_group_within_itself,
        groups_linked_twice,
        a_named_type,
        wide_floats,
    ],
)
def test_hdf5_that_leads_elsewhere_is_refused_unread(tmp_path, plant):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        plant(file)
    refused(tmp_path / "w.h5", "nothing of it was read")


def test_hdf5_of_another_shape_is_refused_unread(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["Bottleneck/Bottleneck/kernel:0"] = np.zeros((1792, 128), np.float32)
        file[KERNEL] = np.zeros((3, 3, 3, 33), np.float32)
    assert "shape" in refused(tmp_path / "w.h5", "not these weights")


def test_hdf5_that_ends_its_library_is_refused(tmp_path):
    """A damaged file, found by trying, on which HDF5 reads memory that is not its own."""
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["Bottleneck/Bottleneck/kernel:0"] = np.zeros((1792, 1), np.float32)
    whole = path.read_bytes()
    draw = np.random.default_rng(1)
    spots = np.flatnonzero(np.frombuffer(whole, np.uint8))
    for _ in range(5):
        data = bytearray(whole)
        for spot in draw.choice(spots, 6):
            data[spot] = draw.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(ModelError):
            formats.read(path)


def test_a_reader_that_dies_is_a_damaged_file(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_process, "command", lambda *_: [sys.executable, "-c", "import os; os.abort()"])
    (tmp_path / "w.h5").write_bytes(b"x")
    refused(tmp_path / "w.h5", "damaged .its reader ended with -6")


# TensorFlow -----------------------------------------------------------------


def constant(graph, name, shape, dtype=1, **values):
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    for field, value in values.items():
        getattr(tensor, field).append(value)


def bottleneck(graph, d=128):
    constant(graph, f"{SCOPE}/Bottleneck/weights", (1792, d), float_val=1.0)


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        (f"{SCOPE}/Conv2d_1a_3x3/weights", (10**5, 10**5), "shape"),
        (f"{SCOPE}/Bottleneck/weights", (1792, 10**9), "twice|shape"),
        (f"{SCOPE}/other/weights", (10**5, 10**5), "unknown"),
        ("x/batchnorm/add/y", (10**5, 10**5), "epsilon"),
        (f"{SCOPE}/Conv2d_1a_3x3/weights", (-1, 3, 3, 32), "shape"),
    ],
)
def test_a_graph_that_declares_more_than_it_has_is_refused_unread(tmp_path, name, shape, match):
    graph = tf.compat.v1.GraphDef()
    bottleneck(graph)
    constant(graph, name, shape, float_val=1e-3)
    (tmp_path / "w.pb").write_bytes(graph.SerializeToString())
    refused(tmp_path / "w.pb", match)


def test_a_graph_of_strings_or_with_operations_runs_nothing(tmp_path):
    graph = tf.compat.v1.GraphDef()
    bottleneck(graph)
    constant(graph, f"{SCOPE}/Conv2d_1a_3x3/weights", (3, 3, 3, 32), 7, string_val=b"x")
    (tmp_path / "w.pb").write_bytes(graph.SerializeToString())
    refused(tmp_path / "w.pb", "has string")
    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name=f"{SCOPE}/Bottleneck/weights", op="ReadFile")
    node.attr["value"].s = b"/etc/hostname"
    (tmp_path / "w.pb").write_bytes(graph.SerializeToString())
    refused(tmp_path / "w.pb", "none called")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with one array of the network in a wrong shape, as TensorFlow writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(f"{SCOPE}/Bottleneck/weights", initializer=np.zeros((1792, 4), np.float32), use_resource=False)
        v1.get_variable(f"{SCOPE}/Conv2d_1a_3x3/weights", initializer=np.zeros((2, 3), np.float32), use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model.ckpt"))
    return folder


def test_a_checkpoint_of_another_shape_is_refused(checkpoint):
    refused(checkpoint / "model.ckpt.index", "shape")


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, (1 << 63) - 1])
def test_a_block_outside_of_an_index_is_refused(checkpoint, tmp_path, size):
    """TensorFlow would end the process."""
    data = (checkpoint / "model.ckpt.index").read_bytes()
    handle = b"\x00" + varint(size)
    footer = (handle + handle).ljust(40, b"\0") + data[-8:]
    (tmp_path / "w.index").write_bytes(data[:-48] + footer)
    refused(tmp_path / "w.index", "block outside")


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


# PyTorch --------------------------------------------------------------------


def tensor_of(key, numel, size, stride, offset=0):
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text(key) + text("cpu") + long(numel) + b"tQ"
    arguments = b"(" + storage + long(offset) + longs(size) + longs(stride) + b"\x89Nt"
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def long(value):
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def longs(values):
    return b"(" + b"".join(map(long, values)) + b"t"


def zipped(path, body, members=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled(body))
        for name, content in members:
            archive.writestr(name, content)


LINEAR = text("last_linear.weight") + tensor_of("0", 4, (128, 1792), (0, 0))
STEM = "conv2d_1a.conv.weight"


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (LINEAR, "inside its storage"),
        (LINEAR + text(STEM) + tensor_of("0", 4, (10**6, 10**6), (0, 0)), "shape"),
        (LINEAR + text(STEM) + tensor_of("1", 1 << 39, (32, 3, 3, 3), (27, 9, 3, 1)), "size"),
        (LINEAR + text(STEM) + tensor_of("1", 1 << 60, (32, 3, 3, 3), (27, 9, 3, 1)), "without a name or a size"),
        (LINEAR + text(STEM) + tensor_of("1", -1, (32, 3, 3, 3), (27, 9, 3, 1)), "without a name or a size"),
        (LINEAR + text(STEM) + tensor_of("0", 4, (32, 3, 3, 3), (1 << 62, 9, 3, 1)), "inside its storage"),
        (LINEAR + text(STEM) + tensor_of("../../0", 4, (32, 3, 3, 3), (0, 0, 0, 0)), "damaged"),
        (b")" + b"\x85" * 200_000 + b"K\x01", "a key that is not text"),
        (b"", "holds|none called"),
        (b"N" * 600_000, "steps"),
    ],
)
def test_a_state_dict_that_declares_more_than_it_has_is_refused(tmp_path, body, match):
    zipped(tmp_path / "w.pt", b"}(" + body + b"u", [("model/data/0", bytes(16))])
    refused(tmp_path / "w.pt", match)


SHARED = b")q\0" + b"h\0h\0\x86q\0" * 60  # a tuple of a tuple twice, and so on: as text it has no end
MANY = b"]q\0(" + b"N" * 30_000 + b"e" + b"]q\1(" + b"h\0" * 30_000 + b"e"  # a list of one long list again and again


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (SHARED + b")R", "to call tuple"),
        (SHARED + b"(h\0NNNNtQ", "a tuple of its own"),
        (MANY + b"ccollections\nOrderedDict\nh\1\x85R", "not pairs"),
    ],
)
def test_objects_that_share_themselves_take_no_time(tmp_path, body, match):
    zipped(tmp_path / "w.pt", body)
    began = time.monotonic()
    refused(tmp_path / "w.pt", match)
    assert time.monotonic() - began < 10


def test_a_pickle_that_unpacks_to_much_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + bytes(300 << 20))
    refused(tmp_path / "w.pt", "its size is larger")


def test_a_member_whose_size_is_lied_about_is_refused(tmp_path):
    """The directory of the zip says how long the pickle is; it holds more."""
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + bytes(300 << 20))
    data = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(data.replace(struct.pack("<I", 2 + (300 << 20)), struct.pack("<I", 1000)))
    refused(tmp_path / "w.pt")


def test_text_longer_than_the_older_layout_is_refused(tmp_path):
    magic = b"\x8a\x0a" + torch_layout.MAGIC.to_bytes(10, "little")
    for code in (
        b"X\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 7 + b"\x00",
        b"\x8e" + b"\xff" * 7 + b"\x00",
        b"\x8b\xff\xff\xff\x7f",
    ):
        (tmp_path / "w.pt").write_bytes(pickled(magic) + b"\x80\x02" + code + b".")
        refused(tmp_path / "w.pt")


# safetensors, ONNX ----------------------------------------------------------


def safetensors(header, data=b"", size=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        safetensors({}, size=1 << 62),
        safetensors({}, size=3),
        safetensors(b"[" * 100_000),
        safetensors(b" " * (2 << 20)),
        safetensors({"Bottleneck/kernel": tensor([10**9, 10**9], 0, 4)}, bytes(4)),
        safetensors({"Bottleneck/kernel": tensor([1792, 1], 0, 7168)}, bytes(8)),
        safetensors({"Bottleneck/kernel": tensor([1792, 1], -4, 7168)}, bytes(7168)),
        safetensors(
            {"Bottleneck/kernel": tensor([1792, 1], 0, 7168), "Conv2d_1a_3x3/bias": tensor([32], 0, 128)}, bytes(7168)
        ),
        safetensors({"Bottleneck/kernel": tensor([1792, 1], 0, 7168, "U8")}, bytes(7168)),
        safetensors({"Bottleneck/kernel": 7}),
        safetensors({"Bottleneck/kernel": {"dtype": ["F32"], "shape": "x", "data_offsets": None}}),
        safetensors([1]),
    ],
)
def test_a_safetensors_file_whose_header_lies_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(tmp_path / "w.safetensors")


def test_an_onnx_file_with_data_elsewhere_or_absurd_sizes_is_refused(tmp_path):
    from onnx import TensorProto, helper

    def saved(tensor):
        (tmp_path / "w.onnx").write_bytes(
            helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
        )
        return tmp_path / "w.onnx"

    elsewhere = TensorProto(name="a", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value=__file__)
    refused(saved(elsewhere), "another file", onnx_file.constants)
    for dims in ([1 << 62], [-1], [1 << 20, 1 << 20], [1] * 100, [0, 1 << 62]):
        refused(
            saved(TensorProto(name="a", data_type=1, dims=dims, raw_data=bytes(4))),
            "damaged or another",
            onnx_file.constants,
        )
    for content in (b"\x3a" + b"\x80" * 5_000_000, b"\xff" * 100, b"\x3a\x02\x2a\x7f"):
        (tmp_path / "w.onnx").write_bytes(content)
        refused(tmp_path / "w.onnx", "damaged or another", onnx_file.constants)


def test_a_file_larger_than_any_weights_is_refused_unread(tmp_path):
    for suffix in (*formats.READERS, ".onnx"):
        with open(tmp_path / f"w{suffix}", "wb") as file:
            file.truncate(2 << 30)  # a hole
        refused(tmp_path / f"w{suffix}", "bytes", onnx_file.constants if suffix == ".onnx" else formats.read)
    began = time.monotonic()
    with pytest.raises(ModelError, match="at most"):
        fetch.import_file(tmp_path / "w.h5", "mine", "fixed")
    assert time.monotonic() - began < 1  # not even hashed


# models that somebody copied in ---------------------------------------------

PART = {
    "name": "mine",
    "sha256": "0" * 64,
    "dimension": 128,
    "standardisation": "fixed",
    "parent": None,
    "zoom": 1.0,
    "weight": 1.0,
}


def spec_with(**part):
    return json.dumps(json.loads(FaceSpec(parts=(Part(**PART),)).to_json()) | {"parts": [PART | part]})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"fingerprint": []}',
        b"1" * 5000,
        spec_with(dimension="128"),
        spec_with(dimension=True),
        spec_with(dimension=10**12),
        spec_with(dimension=-1),
        spec_with(dimension=1.5),
        spec_with(sha256="../../../../etc/passwd"),
        spec_with(sha256=None),
        spec_with(sha256="0" * 63),
        spec_with(zoom="2"),
        spec_with(zoom=float("nan")),
        spec_with(weight=float("inf")),
        spec_with(standardisation="other"),
        spec_with(name=7),
        spec_with(name="x" * 10_000),
        spec_with(parent=[1]),
        spec_with(extra=1),
    ],
)
def test_a_hostile_contract_is_refused_with_its_model(tmp_path, content):
    (tmp_path / "spec.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(str(tmp_path), None, store.open_model)


def test_a_large_contract_is_refused_unread(tmp_path):
    with open(tmp_path / "spec.json", "wb") as file:
        file.truncate(2 << 30)
    refused(str(tmp_path), "at most", store.open_model)


def test_arrays_of_a_copied_model_are_checked(tmp_path):
    import hashlib

    from safetensors.numpy import save

    data = save(
        {
            "Bottleneck/kernel": np.zeros((1792, 128), np.float32),
            "Conv2d_1a_3x3/kernel": np.zeros((3, 3, 3, 31), np.float32),
        }
    )
    spec = FaceSpec(parts=(Part("mine", hashlib.sha256(data).hexdigest(), 128, "fixed"),))
    (tmp_path / "spec.json").write_text(spec.to_json())
    (tmp_path / f"{spec.parts[0].sha256[:16]}.safetensors").write_bytes(data)
    model = store.open_model(str(tmp_path))
    with pytest.raises(ModelError, match="shape"):
        model.arrays(0)
    assert issubclass(ModelError, FaceGalleryError)
