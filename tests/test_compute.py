import pytest
import tensorflow as tf

from embedder import compute, engines
from embedder.compute import Compute, choose_device, cores
from embedder.errors import InputError, SystemFault

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
    monkeypatch.setattr(compute, "GPU_FILES", (str(tmp_path / "nvidia0"),))
    assert choose_device("auto") == "CPU:0" and asked == ["GPU"]


def test_the_precision_is_what_was_asked_or_what_the_cpu_does_fast(monkeypatch):
    for native, expected in ((True, "bf16"), (False, "f32")):
        monkeypatch.setattr(engines, "has_bf16", lambda native=native: native)
        assert Compute("cpu").chosen() == Compute("CPU:0", expected) == Compute("CPU:0", expected).chosen()
        assert Compute("cpu", "f32").chosen().precision == "f32" and Compute("cpu", "bf16").chosen().precision == "bf16"
    monkeypatch.setattr(compute, "choose_device", lambda device: "GPU:0")
    assert Compute().chosen() == Compute("GPU:0", "f32")
    for precision in ("bf16", "int8"):
        with pytest.raises(InputError, match="expected --precision auto or f32 on a GPU"):
            Compute(precision=precision).chosen()


def test_int8_needs_vnni(monkeypatch):
    monkeypatch.setattr(engines, "has_vnni", lambda: True)
    assert Compute("cpu", "int8").chosen() == Compute("CPU:0", "int8")
    monkeypatch.setattr(engines, "has_vnni", lambda: False)
    with pytest.raises(InputError, match="expected a CPU with VNNI"):
        Compute("cpu", "int8").chosen()
    assert Compute("cpu").chosen().precision != "int8"


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= 4096
