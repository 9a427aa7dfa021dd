"""A small computation on every GPU that this process may use, by the CUDA driver alone; run as a program.

For each GPU: a context, memory, a copy to it, y = a * x + y over a million floats, a copy back, and a
comparison of every element. The kernel is PTX for the oldest GPUs still driven, which every driver compiles
for the GPU at hand. Prints one JSON object: ``{"gpus": [...], "error": ""}``. Nobody ends this process early:
a client that is killed inside the driver has frozen GPUs.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from array import array
from pathlib import Path
from typing import Final

ELEMENTS: Final = 1 << 20
BLOCK: Final = 256
FACTOR: Final = 3.0
ENTRY: Final = b"gsp_axpy"

PTX: Final = b"""
.version 6.0
.target sm_50
.address_size 64

.visible .entry gsp_axpy(
    .param .u64 p_x,
    .param .u64 p_y,
    .param .f32 p_a,
    .param .u32 p_n
)
{
    .reg .pred %p<2>;
    .reg .f32 %f<5>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;

    ld.param.u64 %rd1, [p_x];
    ld.param.u64 %rd2, [p_y];
    ld.param.f32 %f1, [p_a];
    ld.param.u32 %r1, [p_n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r5, 4;
    add.s64 %rd6, %rd3, %rd5;
    add.s64 %rd7, %rd4, %rd5;
    ld.global.f32 %f2, [%rd6];
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%rd7], %f4;
DONE:
    ret;
}
"""

MEANINGS: Final = {
    2: "out of memory",
    3: "the driver is not initialised",
    100: "no GPU that CUDA can use",
    101: "no such GPU",
    222: "the PTX is of a newer version than the driver knows",
    718: "the program counter went astray",
    719: "the kernel failed",
    802: "the system is not ready: the fabric manager",
    803: "libcuda is of another version than the loaded driver",
    804: "forward compatibility is not supported on this GPU",
    999: "unknown",
}
"""What the codes that are met after an upgrade mean; the driver names all of them."""


class CudaError(Exception):
    """A call of the driver that failed."""


class Driver:
    """libcuda's driver API, as far as it is needed; every call that fails raises CudaError."""

    def __init__(self, library: str) -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise CudaError(str(error)) from None

    def call(self, function: str, *arguments: object) -> None:
        """One call."""
        try:
            code = int(getattr(self._cuda, function)(*arguments))
        except AttributeError:
            raise CudaError(f"libcuda has no {function}") from None
        if code != 0:
            raise CudaError(f"{function}: {code} {self._name(code)}")

    def _name(self, code: int) -> str:
        name = ctypes.c_char_p()
        try:
            self._cuda.cuGetErrorName(code, ctypes.byref(name))
        except AttributeError:
            name.value = None
        named = (name.value or b"").decode("ascii", "replace")
        return " ".join(filter(None, (named, f"({MEANINGS[code]})" if code in MEANINGS else "")))

    def text(self, function: str, device: ctypes.c_int) -> str:
        """The answer of a call that writes a text of a device."""
        buffer = ctypes.create_string_buffer(256)
        self.call(function, buffer, 256, device)
        return buffer.value.decode("ascii", "replace")


def run(library: str = "libcuda.so.1") -> dict[str, object]:
    """Compute on every GPU; what was found of each, and what ended it as a whole."""
    try:
        cuda = Driver(library)
        cuda.call("cuInit", 0)
        count = ctypes.c_int()
        cuda.call("cuDeviceGetCount", ctypes.byref(count))
    except CudaError as error:
        return {"gpus": [], "error": str(error)}
    return {"gpus": [_on_gpu(cuda, index) for index in range(count.value)], "error": ""}


def _on_gpu(cuda: Driver, index: int) -> dict[str, object]:
    found: dict[str, object] = {"bus_id": "", "name": "", "error": "", "width": None, "speed": None}
    device, context = ctypes.c_int(), ctypes.c_void_p()
    try:
        cuda.call("cuDeviceGet", ctypes.byref(device), index)
        found["name"] = cuda.text("cuDeviceGetName", device)
        found["bus_id"] = _bus_id(cuda, device)
        cuda.call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
        try:
            wrong = _compute(cuda)
            found |= _link(str(found["bus_id"]))
        finally:
            cuda.call("cuCtxDestroy_v2", context)
        if wrong:
            found["error"] = f"{wrong} of {ELEMENTS} elements are wrong"
    except CudaError as error:
        found["error"] = str(error)
    return found


def _bus_id(cuda: Driver, device: ctypes.c_int) -> str:
    buffer = ctypes.create_string_buffer(64)
    cuda.call("cuDeviceGetPCIBusId", buffer, 64, device)
    return buffer.value.decode("ascii", "replace").lower()


def _compute(cuda: Driver) -> int:
    """The number of elements that came back wrong. All values are whole and small, so floats are exact."""
    x = array("f", (index % 1021 for index in range(ELEMENTS)))
    y = array("f", (index % 509 for index in range(ELEMENTS)))
    expected = array("f", (FACTOR * one + other for one, other in zip(x, y, strict=True)))
    size = ELEMENTS * x.itemsize
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    cuda.call("cuModuleLoadData", ctypes.byref(module), PTX)
    cuda.call("cuModuleGetFunction", ctypes.byref(kernel), module, ENTRY)
    on_gpu = (ctypes.c_uint64(), ctypes.c_uint64())
    for values, place in zip((x, y), on_gpu, strict=True):
        cuda.call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        cuda.call("cuMemcpyHtoD_v2", place, ctypes.c_void_p(values.buffer_info()[0]), ctypes.c_size_t(size))
    given = (*on_gpu, ctypes.c_float(FACTOR), ctypes.c_uint32(ELEMENTS))
    parameters = (ctypes.c_void_p * len(given))(*(ctypes.addressof(value) for value in given))
    grid = -(-ELEMENTS // BLOCK)
    cuda.call("cuLaunchKernel", kernel, grid, 1, 1, BLOCK, 1, 1, 0, None, parameters, None)
    cuda.call("cuCtxSynchronize")
    cuda.call("cuMemcpyDtoH_v2", ctypes.c_void_p(y.buffer_info()[0]), on_gpu[1], ctypes.c_size_t(size))
    for place in on_gpu:
        cuda.call("cuMemFree_v2", place)
    cuda.call("cuModuleUnload", module)
    if y == expected:
        return 0
    return sum(found != wanted for found, wanted in zip(y, expected, strict=True))


def _link(bus_id: str) -> dict[str, object]:
    """The link's width and speed as the kernel sees them now, while the GPU has a context and full clocks."""
    folder = Path("/sys/bus/pci/devices") / bus_id
    link: dict[str, object] = {}
    for key, name in (("width", "current_link_width"), ("speed", "current_link_speed")):
        try:
            link[key] = (folder / name).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            link[key] = None
    return link


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])), flush=True)
    os._exit(0)  # without the library's own ways of ending, which may wait for the driver
