from types import SimpleNamespace

import pytest
import tensorflow as tf

from facegallery.embedder import machine
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError, SystemFault
from facegallery.embedder.machine import cores
from facegallery.embedder.network import engines
from facegallery.embedder.network.engines import choose, choose_device

HAS_GPU = bool(tf.config.list_physical_devices("GPU"))


def test_a_gpu_that_is_not_there_is_refused():
    if HAS_GPU:
        assert choose_device("gpu") == "GPU:0"
    else:
        with pytest.raises(SystemFault, match="expected a GPU"):
            choose_device("gpu")
    assert choose_device("cpu") == choose_device("CPU:0") == "CPU:0"


@pytest.mark.skipif(HAS_GPU, reason="for machines without a GPU")
def test_tensorflow_is_asked_only_where_there_might_be_a_gpu(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: asked.append(kind) or [])
    assert choose_device("auto") == "CPU:0" and asked == []
    (tmp_path / "nvidia0").write_text("")
    monkeypatch.setattr(engines, "GPU_FILES", (str(tmp_path / "nvidia0"),))
    assert choose_device("auto") == "CPU:0" and asked == ["GPU"]


def test_the_precision_is_what_was_asked_or_what_the_cpu_does_fast(monkeypatch):
    for native, expected in ((True, "bf16"), (False, "f32")):
        monkeypatch.setattr(engines, "has_fast_bf16", lambda native=native: native)
        assert choose(Compute("cpu")) == Compute("CPU:0", expected) == choose(Compute("CPU:0", expected))
        assert choose(Compute("cpu", "f32")).precision == "f32" and choose(Compute("cpu", "bf16")).precision == "bf16"
    monkeypatch.setattr(engines, "choose_device", lambda device: "GPU:0")
    assert choose(Compute()) == Compute("GPU:0", "f32")
    for precision in ("bf16", "int8"):
        with pytest.raises(InputError, match="--precision"):
            choose(Compute(precision=precision))


@pytest.mark.parametrize(
    ("maker", "flags", "reported", "fast"),
    [
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", ["FP32", "BF16"], True),
        ("GenuineIntel", "avx512_bf16", ["FP32", "BF16"], False),
        ("AuthenticAMD", "avx512_bf16", ["FP32", "BF16"], True),
        ("AuthenticAMD", "avx2", ["FP32"], False),
    ],
)
def test_bf16_counts_only_where_the_cpu_is_faster_in_it(monkeypatch, tmp_path, maker, flags, reported, fast):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {maker}\nflags\t\t: fpu {flags} sse\n")
    monkeypatch.setattr(engines, "CPU_FILE", tmp_path / "cpuinfo")
    monkeypatch.setattr(engines, "core", lambda: SimpleNamespace(get_property=lambda device, name: reported))
    assert engines.has_fast_bf16() is fast


def test_a_system_that_does_not_describe_its_cpu_has_no_vnni(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "CPU_FILE", tmp_path / "none")
    assert not engines.has_vnni()


def test_int8_needs_vnni(monkeypatch):
    monkeypatch.setattr(engines, "has_vnni", lambda: True)
    assert choose(Compute("cpu", "int8")) == Compute("CPU:0", "int8")
    monkeypatch.setattr(engines, "has_vnni", lambda: False)
    with pytest.raises(InputError, match="expected a CPU with VNNI"):
        choose(Compute("cpu", "int8"))
    assert choose(Compute("cpu")).precision != "int8"


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= 4096


@pytest.mark.parametrize(
    "line, expected",
    [("max 100000", None), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", None)],
)
def test_a_container_s_share_of_the_cores_counts(line, expected, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text(line + "\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "usable", lambda: [3, 5, 7])
    machine._limit.cache_clear()
    assert cores() == (expected or 3)
    machine._limit.cache_clear()


def test_a_container_s_memory_counts(monkeypatch, tmp_path):
    whole = machine.memory_gb()
    assert whole >= 1
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for line, expected in (("max", whole), (str(1 << 30), 1), (str(1 << 50), whole)):
        (tmp_path / "memory.max").write_text(line)
        machine._limit.cache_clear()
        assert machine.memory_gb() == expected
    machine._limit.cache_clear()
