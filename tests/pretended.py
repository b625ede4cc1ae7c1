"""A device that is not there: what would fail, wait or mix on a GPU is found on a machine without.

    with Pretence("cuda") as pretence:
        model.to(pretence.device)
        ...
        pretence.waits

Its tensors compute on the CPU, with real numbers, so that results can be compared with the CPU's
own. It is as strict as the real one: a tensor of the host beside one of the device is refused, and
so is float64 where the device is Apple's. It counts what costs a real one its speed. torch's
FakeTensorMode can't do this: it takes away the host's numbers too, which samplers compute with.
"""

import ctypes
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import accelerate
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LARGE = 4096
"""numbers of a float64 tensor that is worth to be told of"""

SIZED = {
    *("_unique", "_unique2", "unique_consecutive", "unique_dim", "allclose", "bincount", "equal"),
    *("masked_select", "nonzero", "_linalg_check_errors"),
}
"""operations whose result, or its size, the host has to read"""

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""operations that take indices of the host beside tensors of the device, and copy them there"""


class MixedDevicesError(RuntimeError):
    """One operation was given tensors of the host and of the device."""


def place() -> str:
    """The function of overtone that is running, as FILE FUNCTION, and the library that it called;
    where none of overtone is running, whoever called."""
    frame, library, other = sys._getframe(1), "", ""
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_qualname
        if "/src/overtone/" in file:
            return f"{file.split('/src/overtone/')[-1]} {function}{library}"
        if "/site-packages/" in file and not library and not other:
            package = file.split("/site-packages/")[-1].partition("/")[0]
            library = f" in {package}" if package != "torch" else ""
        elif file != __file__:
            other = other or f"{Path(file).name} {function}"
        frame = frame.f_back
    return other


def tensors_in(values) -> Iterator[Tensor]:
    """The tensors among an operation's arguments, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def mapped(value, function: Callable):
    """A function of everything in nested lists and tuples; torch's own does it ten times slower."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(entry, function) for entry in value)
    return function(value)


class OnDevice(Tensor):
    """A tensor that claims to be on the pretended device; `elem`, on the host, has its numbers."""

    elem: Tensor
    pretence: "Pretence"
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: Tensor, pretence: "Pretence") -> "OnDevice":
        self = Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=pretence.inner,
        )
        self.elem, self.pretence = elem.detach(), pretence
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Reached where the mode is off, in torch's own code that turns it off."""
        kwargs = kwargs or {}
        leaves = tensors_in((*args, *kwargs.values()))
        mine = next(leaf for leaf in leaves if isinstance(leaf, cls))
        return mine.pretence.run(func, args, kwargs)

    device = property(lambda self: self.pretence.device)
    is_cuda = property(lambda self: self.pretence.device.type == "cuda")
    is_meta = property(lambda self: False)

    def __repr__(self, **_):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo):
        """torch's own copies the storage, and here there is none. Averages are such copies."""
        if id(self) not in memo:
            with torch.no_grad():
                copied = self.clone()
            parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if parameter else copied
        return memo[id(self)]

    def data_ptr(self):
        return self.elem.data_ptr()

    def tolist(self):
        """torch's own looks into the storage."""
        return self.cpu().tolist()

    def record_stream(self, _):
        """There is one stream only."""


def can_autocast() -> bool:
    """Whether torch's C++ may be told that there is CUDA: of a build that knows none, on Linux."""
    return sys.platform == "linux" and torch.version.cuda is None


def on_host(value):
    """What is on the device without its claim to be."""
    return value.elem if isinstance(value, OnDevice) else value


class Stream:
    """In the place of torch.cuda.Stream: all that is asked for happens at once."""

    def __init__(self, *_):
        self.record_event, self.wait_event = object, lambda _: None
        self.is_capturing = lambda: False


class Pretence(TorchDispatchMode):
    """The device, as long as the context is open: what is asked of it, and what was counted.

    torch's C++ is told that its tensors are of the meta device: a build without CUDA can't go back
    through tensors of CUDA, nor choose a kernel of attention for them. Of autocast, which is C++ as
    well and acts on CUDA's tensors alone, it has to be told the truth, and then nothing can be
    differentiated.
    """

    def __init__(self, kind: str, *, autocast: bool = False) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.inner = self.device if autocast else torch.device("meta")
        self._builds = False
        self._pinned: dict[int, weakref.ref[Tensor]] = {}
        self.forget()

    def forget(self) -> None:
        """Count from the beginning: operations; places where the host waits for what was asked
        before; copies from pinned memory, which nothing waits for; large tensors of float64."""
        self.operations = 0
        self.waits, self.sent, self.wide = Counter[str](), Counter[str](), Counter[str]()

    @contextmanager
    def building(self) -> Iterator[None]:
        """While a model is built: then what asks for the meta device means it."""
        self._builds = True
        yield
        self._builds = False

    def __enter__(self):
        self._patches = ExitStack()
        _patch(self, self._patches)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        """One operation: checked, counted, computed on the host, and its results wrapped again."""
        name = func.overloadpacket.__name__
        leaves = list(tensors_in((*args, *kwargs.values())))
        mine = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        if name == "is_pinned":
            return not mine and self._is_pinned(args[0])
        if name == "_pin_memory":
            return self._pin(args[0].clone())
        pinned, device = kwargs.get("pin_memory"), kwargs.get("device")
        there = bool(mine) if device is None else self._means(device)
        if not mine and not there and not pinned:
            return func(*args, **kwargs)
        self.operations += 1
        if there and kwargs.get("generator") is not None:
            raise MixedDevicesError(f"{name} by a generator of the host, at {place()}")
        if name in ("_to_copy", "copy_"):
            self._count_copy(name, args, kwargs, there)
        elif mine:
            self._refuse(name, args, leaves)
            self._count_reading(name, args, kwargs)
        changes = {"pin_memory": False} if pinned else {}
        changes |= {"device": torch.device("cpu")} if device is not None and there else {}
        named = {key: mapped(value, on_host) for key, value in (kwargs | changes).items()}
        out = func(*mapped(args, on_host), **named)
        if pinned:
            return self._pin(out)
        known = {id(tensor.elem): tensor for tensor in mine}

        def wrapped(value):
            if not isinstance(value, Tensor):
                return value
            if value.dtype == torch.float64:
                self._look_at_width(name, value, mine)
            own = known.get(id(value))  # what was changed in its place stays itself
            return OnDevice(value, self) if own is None else own

        return mapped(out, wrapped) if there else out

    def _means(self, device) -> bool:
        """Whether a device is this one, by its name or by what C++ was told."""
        kind = torch.device(device).type
        return kind == self.device.type or (kind == self.inner.type and not self._builds)

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned[tensor.untyped_storage().data_ptr()] = weakref.ref(tensor)
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        """Of views too, for as long as the tensor that was pinned lives."""
        first = self._pinned.get(tensor.untyped_storage().data_ptr())
        return first is not None and first() is not None

    def _wait(self, what: str) -> None:
        self.waits[f"{place()}: {what}"] += 1

    def _count_copy(self, name, args, kwargs, there: bool) -> None:
        """Count a copy from one side to the other, by whether the host waits for it."""
        in_place = name == "copy_"
        source, up = (args[1], isinstance(args[0], OnDevice)) if in_place else (args[0], there)
        late = kwargs.get("non_blocking", in_place and len(args) > 2 and args[2])
        if isinstance(source, OnDevice) == up:
            return
        if not up:
            if not late:
                self._wait("copies to the host")
        elif late and self._is_pinned(source):
            self.sent[place()] += 1
        else:
            self._wait("copies from the host")

    def _count_reading(self, name, args, kwargs) -> None:
        """Count what the host has to read, or to send, before it can go on."""
        if name in ("_local_scalar_dense", "is_nonzero"):  # of item() and bool()
            self._wait("reads a number")
        elif name in SIZED or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self._wait(f"reads what {name.strip('_')} finds")
        elif name in INDEXED:
            for index in tensors_in(args[1]):
                if index.dtype in (torch.bool, torch.uint8):
                    self._wait("reads how many places a mask has")
                elif not isinstance(index, OnDevice):
                    self._wait("copies indices of the host")

    def _refuse(self, name, args, leaves) -> None:
        """Refuse tensors of the host, but for single numbers, beside those of the device."""
        free = [id(index) for index in tensors_in(args[1])] if name in INDEXED else []
        for leaf in leaves:
            if leaf.dim() and not isinstance(leaf, OnDevice) and id(leaf) not in free:
                what = f"{name} of {tuple(leaf.shape)} of the host and others of the device"
                raise MixedDevicesError(f"{what}, at {place()}")

    def _look_at_width(self, name, tensor: Tensor, mine) -> None:
        """Refuse or count new memory of float64."""
        storage = tensor.untyped_storage().data_ptr()
        if any(other.elem.untyped_storage().data_ptr() == storage for other in mine):
            return
        if self.device.type == "mps":
            raise TypeError(f"MPS has no float64: {name} at {place()}")
        if tensor.numel() >= LARGE:
            self.wide[f"{place()}: {name} {tuple(tensor.shape)}"] += 1


def _patch(pretence: Pretence, patches: ExitStack) -> None:
    """What torch, accelerate and overtone have to believe, until the stack is closed."""

    def put(owner, name, value):
        patches.enter_context(mock.patch.object(owner, name, value))

    if pretence.inner.type == "cuda":
        _give_guard()
    # torch.tensor(..., device=...) copies in C++ where no mode sees it, unless it is told this.
    torch._C._set_only_lift_cpu_tensors(True)
    patches.callback(torch._C._set_only_lift_cpu_tensors, False)
    # A parameter's `data` may change its device, which a subclass's may not.
    put(Tensor, "data", _data())
    # There is an accelerator, which batches of images are pinned for and models are moved to.
    put(torch.accelerator, "is_available", lambda: True)
    put(torch.accelerator, "current_accelerator", lambda *_, **__: pretence.device)
    put(torch.accelerator, "current_stream", lambda *_: Stream())
    put(accelerate.Accelerator, "device", property(lambda self: pretence.device))
    # overtone does not choose Apple's by itself.
    put(sys.modules["overtone.precision"], "default_device", lambda: pretence.device)
    # torch.cuda is not there to be started, to name its capabilities, or to have other streams.
    put(torch.cuda, "_lazy_init", lambda: None)
    put(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    put(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    put(torch.cuda, "Stream", Stream)
    put(torch.cuda, "stream", lambda _: nullcontext())
    put(torch.cuda, "current_stream", lambda *_: Stream())
    # Autocast turns itself off where there is no CUDA.
    put(sys.modules["torch.cuda.amp.common"], "amp_definitely_not_available", lambda: False)
    # C++ sorts gradients by the device that it knows of, which has no lists of tensors.
    put(sys.modules["torch.nn.utils.clip_grad"], "_device_has_foreach_support", lambda _: True)


def _data() -> property:
    """`Tensor.data` of tensors that change places where their device changes."""
    plain = Tensor.data

    def read(self):
        return plain.__get__(self)

    def write(self, value):
        if isinstance(self, OnDevice) == isinstance(value, OnDevice):
            plain.__set__(self, value)
            if isinstance(self, OnDevice):
                self.elem = value.elem
            return
        value = value.detach()
        if isinstance(self, nn.Parameter):
            value = nn.Parameter(value, self.requires_grad)
        torch.utils.swap_tensors(self, value)

    return property(read, write)


def _give_guard() -> None:
    """torch's C++ asks the guard of a tensor's device here and there, and a build without CUDA has
    none. The meta device's, which does nothing, takes its place in the table of guards."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    table = (ctypes.c_void_p * 21).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # of c10::DeviceType
    table[cuda] = table[cuda] or table[meta]
