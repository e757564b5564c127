"""Choosing device and precision; a machine without a GPU says so in one line."""

from __future__ import annotations

import pytest
import torch

from engine.cost import devices
from engine.cost.devices import DeviceError, find_device, find_dtype, nominal_profile


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """Pretend that there are two CUDA devices."""
    driver = tmp_path / "nvidiactl"
    driver.touch()
    monkeypatch.setattr(devices, "_DRIVER_FILES", (str(driver),))
    monkeypatch.setattr(devices, "_NEEDED", ("torch",))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    return monkeypatch


def test_without_a_driver_auto_is_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_DRIVER_FILES", ("/nonexistent",))
    assert find_device("auto") == find_device("cpu") == "cpu"
    with pytest.raises(DeviceError) as error:
        find_device("cuda")
    expected = "--device: cuda cannot be used: this machine has no NVIDIA driver; use --device cpu or auto"
    assert str(error.value) == expected


def test_a_gpu_is_found(cuda) -> None:
    assert find_device("auto") == find_device("cuda") == find_device("cuda:0") == "cuda:0"
    assert find_device("cuda:1") == "cuda:1"
    assert find_device("cpu") == "cpu"
    with pytest.raises(DeviceError, match="there are 2 CUDA devices"):
        find_device("cuda:2")
    assert nominal_profile("cuda:0").name == "h100"
    cuda.setattr(torch.cuda, "get_device_name", lambda _: "Something New")
    assert nominal_profile("cuda:0").name == "a100"


@pytest.mark.parametrize(
    ("function", "reason"), [("is_built", "without CUDA"), ("is_available", "no usable CUDA device")]
)
def test_a_gpu_that_torch_cannot_use_says_why(cuda, function: str, reason: str) -> None:
    place = torch.backends.cuda if function == "is_built" else torch.cuda
    cuda.setattr(place, function, lambda: False)
    assert find_device("auto") == "cpu"
    with pytest.raises(DeviceError, match=reason) as error:
        find_device("cuda")
    assert "\n" not in str(error.value)


def test_a_gpu_without_kernels_says_what_is_missing(cuda) -> None:
    cuda.setattr(devices, "_NEEDED", ("torch", "no_such_module"))
    assert find_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="no_such_module is not installed"):
        find_device("cuda")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cuda:-1", "", "cpu:0"])
def test_unknown_devices_are_refused(asked: str) -> None:
    with pytest.raises(DeviceError, match="is unknown"):
        find_device(asked)


def test_precision_follows_the_device() -> None:
    assert find_dtype("auto", "cpu") == "float32"
    assert find_dtype("auto", "cuda:0") == "bfloat16"
    assert find_dtype("float16", "cpu") == "float16"
    with pytest.raises(DeviceError, match="--dtype: 'int8' is unknown"):
        find_dtype("int8", "cpu")


@pytest.mark.parametrize(
    ("device", "visible", "named"),
    [
        ("cpu", "", "cpu"),
        ("cuda", "", "GPU-aa11"),
        ("cuda:1", "", "GPU-bb22"),
        # As Ray and Slurm give a process one of the GPUs.
        ("cuda:0", "1", "GPU-bb22"),
        ("cuda:1", "1,0", "GPU-aa11"),
        ("cuda:0", "GPU-bb22", "GPU-bb22"),
        ("cuda:0", "GPU-b", "GPU-bb22"),
        ("cuda:0", "MIG-GPU-x/1/0", "MIG-GPU-x-1-0"),
        ("cuda:0", "7", "cuda-7"),
    ],
)
def test_a_gpu_has_one_name_for_all_processes(tmp_path, device: str, visible: str, named: str) -> None:
    for place, uuid in (("0000:1a:00.0", "GPU-aa11"), ("0000:3b:00.0", "GPU-bb22")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(f"Model: \t\t NVIDIA A100\nGPU UUID: \t {uuid}\n")
    assert devices.physical_device(device, visible, tmp_path) == named


def test_where_the_driver_tells_nothing_a_gpu_is_known_by_its_number(tmp_path) -> None:
    assert devices.physical_device("cuda:2", "", tmp_path / "none") == "cuda-2"
    assert devices.physical_device("cuda:0", "5,6", tmp_path / "none") == "cuda-5"
