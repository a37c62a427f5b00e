"""A pretended GPU for tests on machines without one: device ``"fakegpu"``, in pure Python.

    fakegpu.install()               # once a process; tensors that live elsewhere are not touched
    x = torch.zeros(3, device="fakegpu")
    x + torch.ones(3)               # RuntimeError: Expected all tensors to be on the same device, …
    x.numpy()                       # TypeError: can't convert fakegpu:0 device type tensor to numpy. …

    with fakegpu.course("fp16"):    # the course finds a GPU with this number format; Trainer and TRL, too
        ...
    with fakegpu.bitsandbytes():    # 4-bit models are loaded onto it (weights of 16,384 numbers or more)
        ...

It finds mistakes that only a GPU shows: a CPU mask against a device tensor, ``.numpy()`` without
``.cpu()``, a CPU generator, a forgotten ``.to(device)``, weights loaded to the wrong side, what fp16's
gradient scaler does. It has no GPU's kernels, rounding, speed or memory; code that asks ``device.type ==
"cuda"``, ``tensor.is_cuda`` or ``torch.cuda.…`` takes its other way. Two mistakes pass: a 2-D attention
mask and labels on the CPU, which transformers moves itself. Written against torch 2.13, transformers 5.23,
accelerate 1.15, bitsandbytes 0.50.

How it works. torch lets one more backend be registered under the dispatch key PrivateUse1. A tensor of it
is a plain ``torch.Tensor`` whose storage says "fakegpu:0" and whose data pointer leads to ordinary memory:
made by handing torch a DLPack capsule of a CPU tensor in which the device was rewritten
(:func:`_relabelled`); no copy, real addresses, real views. So autograd, nn.Parameter, tied weights,
torch.save, safetensors, PEFT and transformers see nothing unusual. Views are torch's own kernels,
re-dispatched. Every other operator lands in :func:`_fallback`, which checks what CUDA would have checked,
relabels the arguments as CPU tensors, runs the operator, and relabels what comes out: the numbers are the
CPU's, to the last bit (but in fp16, see :data:`PRODUCTS`), and a test may compare them.

The rules, taken from CUDA's:
- a CPU tensor of one dimension or more beside a device tensor is refused;
- a CPU tensor of no dimensions is let through (a "wrapped number"), but not where CUDA's kernel wants it on
  the device all the same (:data:`STRICT`);
- a CPU tensor as index in ``x[i]`` and ``x[i] = y`` is let through, the ``y`` is not;
- ``copy_`` and ``.to()`` go between the devices, as does ``x[a:b] = y`` (it is a ``copy_``);
- the result may not be a CPU tensor (``cpu += device``);
- autocast("fakegpu") casts by CUDA's lists of operators, which are not the CPU's;
- the device has a random generator of its own (``torch.manual_seed`` seeds both), and refuses CPU ones.

:data:`calls` counts operators, :data:`transfers` copies from the device, which ``.item()``, ``.cpu()``,
``.tolist()`` and ``bool()`` make (on CUDA each waits for the device), :data:`waits` the calls of
``synchronize``.
"""
# ruff: noqa: SIM905, operators' names as lines of words

from __future__ import annotations

import contextlib
import ctypes
import os
import types
from collections import Counter
from collections.abc import Iterator

import torch

NAME = "fakegpu"
CPU, EXTENSION = 1, 12  # DLPack's numbers; torch takes the second for PrivateUse1
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

calls: Counter[str] = Counter()
transfers: Counter[str] = Counter()
waits: Counter[str] = Counter()

# CUDA kernels that check devices themselves, and take no CPU tensor of zero dimensions either.
STRICT = set(
    """embedding embedding_dense_backward index_select gather scatter scatter_ scatter_add scatter_add_
    scatter_reduce index_copy index_copy_ index_add index_add_ index_fill mm bmm addmm baddbmm addmv mv dot
    masked_select masked_scatter masked_scatter_ searchsorted bucketize nll_loss_forward take cat convolution
    native_layer_norm multinomial _log_softmax equal""".split()
)
MASKS = {"masked_fill", "masked_fill_", "masked_scatter", "masked_scatter_"}
# Operators whose index tensors CUDA takes from the CPU: their position among the arguments.
INDEXED = dict.fromkeys(
    "index _unsafe_index index_put index_put_ _index_put_impl_ _unsafe_index_put".split(), 1
)
# fp16 products are summed in fp32 and rounded once, as on a GPU; the CPU's own take 3 to 200 times as long.
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}
# Autocast, by CUDA's lists (on the CPU softmax and sums stay in 16 bits).
LOWER = """conv1d conv2d conv3d convolution _convolution prelu addmm addmv addr matmul einsum mm mv linear
addbmm baddbmm bmm chain_matmul linalg_multi_dot linalg_vecdot scaled_dot_product_attention""".split()
FULL = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm group_norm cosine_similarity nll_loss
nll_loss2d kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss soft_margin_loss
binary_cross_entropy_with_logits dist cdist renorm logsumexp cosine_embedding_loss triplet_margin_loss
hinge_embedding_loss""".split()
SET_DTYPE = """prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm sum
sum.dim_IntList""".split()
PROMOTE = "addcdiv addcmul atan2 bilinear cross dot vdot index_put tensordot scatter_add".split()


# --- the same memory under the other device -----------------------------------------------------


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _Head(ctypes.Structure):  # of a DLManagedTensor; the rest is not touched
    _fields_ = (("data", ctypes.c_void_p), ("device", _Device))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _relabelled(tensor: torch.Tensor, kind: int) -> torch.Tensor:
    """The same memory as a tensor of the other device (the capsule keeps it alive)."""
    capsule = torch._C._to_dlpack(tensor)
    head = _Head.from_address(_pointer(capsule, b"dltensor"))
    head.device.kind, head.device.number = kind, 0
    found = torch._C._from_dlpack(capsule)
    if found.shape == tensor.shape and found.stride() != tensor.stride():  # DLPack normalises strides
        found = _as_strided(found, tensor.shape, tensor.stride(), found.storage_offset())
    return found


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over a device tensor's memory."""
    return _relabelled(tensor, CPU)


def to_device(tensor: torch.Tensor) -> torch.Tensor:
    """A device tensor over a CPU tensor's memory."""
    return _relabelled(tensor.detach(), EXTENSION)


def is_fake(x) -> bool:
    """Whether ``x`` is a tensor of the device."""
    return isinstance(x, torch.Tensor) and x.device.type == NAME


def _inside(values) -> list:
    """What an operator's arguments are made of: they are lists of lists at most."""
    found = []
    for value in values:
        found += _inside(value) if type(value) in (list, tuple) else (value,)
    return found


def _mapped(function, values):
    """The same lists, with ``function`` of each thing inside."""
    return [_mapped(function, v) if type(v) in (list, tuple) else function(v) for v in values]


def _redispatched(op):
    """torch's own CPU kernel for an operator that only looks at shapes; it keeps the device."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *args, **kwargs: op.redispatch(keys, *args, **kwargs)


_as_strided = _redispatched(torch.ops.aten.as_strided.default)
_set = _redispatched(torch.ops.aten.set_.source_Storage_storage_offset)


def _swap(target: torch.Tensor, host: torch.Tensor) -> None:
    """Let a device tensor stand for what a CPU tensor holds (after an operator resized it)."""
    new = to_device(host)
    _set(target, new.untyped_storage(), new.storage_offset(), new.shape, new.stride())


# --- randomness ---------------------------------------------------------------------------------


class _Random:
    """The device's own generator: a state that is swapped in for the operators that draw."""

    state = None

    @classmethod
    def seed(cls, seed: int) -> None:
        cls.state = torch.Generator().manual_seed(seed + 1_000_003).get_state()

    @classmethod
    @contextlib.contextmanager
    def used(cls) -> Iterator[None]:
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(cls.state)
        try:
            yield
        finally:
            cls.state = torch.default_generator.get_state()
            torch.default_generator.set_state(before)


# --- what CUDA would refuse ---------------------------------------------------------------------


def _name(op) -> str:
    return op._schema.name.removeprefix("aten::")


def _refuse(op, tensors: list[torch.Tensor], why: str = "") -> None:
    said = ", ".join(f"{x.device}{list(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in tensors)
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
        f"{why}(in {op}: {said})"
    )


def _check(op, args, kwargs) -> None:
    """Refuse what CUDA refuses of these arguments."""
    name, flat = _name(op), _inside((*args, *kwargs.values()))
    for x in flat:
        if isinstance(x, torch.Generator):  # of the CPU: the device gives out none
            raise RuntimeError(
                f"Expected a '{NAME}' device type for generator but found '{x.device.type}' (in {op})"
            )
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    if not any(map(is_fake, tensors)):
        return
    allowed = set()
    if name in INDEXED:
        allowed = {id(x) for x in args[INDEXED[name]] if x is not None}
        if not is_fake(args[0]):
            _refuse(op, tensors, "indices should be either on cpu or on the device of the indexed tensor ")
    if name in MASKS and not is_fake(args[1]):
        _refuse(op, tensors, "expected self and mask to be on the same device ")
    for x in tensors:
        elsewhere = x.device.type == "cpu" and id(x) not in allowed
        if elsewhere and (x.dim() > 0 or name in STRICT):
            _refuse(op, tensors)
    for place, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            written = [x for x in _inside([value]) if isinstance(x, torch.Tensor)]
            if any(x.device.type == "cpu" for x in written):
                _refuse(op, tensors, "the output is on the cpu ")


# --- the fallback -------------------------------------------------------------------------------


def _fallback(op, *args, **kwargs):
    """Any operator that has no kernel of its own: checked, then computed on the CPU."""
    name = _name(op)
    calls[name] += 1
    _check(op, args, kwargs)
    if name in ("_local_scalar_dense", "equal", "is_set_to"):
        transfers[name] += 1
    pairs = []  # (device tensor, its CPU face)

    def face(x):
        if is_fake(x):
            pairs.append((x, to_host(x)))
            return pairs[-1][1]
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x

    host_args = _mapped(face, args)
    host_kwargs = dict(zip(kwargs, _mapped(face, kwargs.values()), strict=True))
    pairs, resized = _resizable(op._schema, host_kwargs, pairs)
    host_args = _numbers_as_tensors(op._schema, host_args, pairs)
    draws = _Random.used() if torch.Tag.nondeterministic_seeded in op.tags else contextlib.nullcontext()
    with torch._C._AutoDispatchBelowAutograd(), _no_autocast(), draws:
        found = _run(op, host_args, host_kwargs)
    for target, new in resized:
        if new.numel():
            _swap(target, new)
    if len(op._schema.returns) == 1:
        return _result(found, op._schema.returns[0], pairs)
    values = found if isinstance(found, (tuple, list)) else [found]
    results = tuple(_result(*two, pairs) for two in zip(values, op._schema.returns, strict=False))
    return results or None


def _run(op, args, kwargs):
    """The operator on the CPU."""
    name, flat = _name(op), _inside((*args, *kwargs.values()))
    half = any(isinstance(x, torch.Tensor) and x.dtype == torch.float16 for x in flat)
    if name not in PRODUCTS or not half:
        return op(*args, **kwargs)
    out = kwargs.pop("out", None)
    raised = _mapped(lambda x: x.float() if isinstance(x, torch.Tensor) else x, args)
    found = getattr(torch.ops.aten, name).default(*raised, **kwargs).half()
    return found if out is None else out.resize_(found.shape).copy_(found)


def _resizable(schema, host_kwargs: dict, pairs: list) -> tuple[list, list]:
    """Empty ``out=`` arguments get a storage that the operator can resize: (pairs, [(device tensor, it)])."""
    resized = []
    for argument in schema.arguments:
        value = host_kwargs.get(argument.name) if argument.is_out else None
        if isinstance(value, torch.Tensor) and value.numel() == 0:
            new = torch.empty(value.shape, dtype=value.dtype)
            resized.append((next(device for device, face in pairs if face is value), new))
            pairs = [(device, new if face is value else face) for device, face in pairs]
            host_kwargs[argument.name] = new
    return pairs, resized


def _numbers_as_tensors(schema, args: tuple, pairs: list) -> list:
    """torch hands a "wrapped number" (the 2 of ``x & 2``) over as a number, which most operators' Tensor
    overload does not take back from Python."""
    found = list(args)
    for place, (value, argument) in enumerate(zip(args, schema.arguments, strict=False)):
        if isinstance(value, (bool, int, float)) and isinstance(argument.type, torch.TensorType):
            if torch._C._should_allow_numbers_as_tensors(schema.name.split("::")[1]):
                continue
            like = next((face.dtype for _, face in pairs), torch.get_default_dtype())
            higher = isinstance(value, float) and not (like.is_floating_point or like.is_complex)
            higher = higher or (like is torch.bool and not isinstance(value, bool))
            own = torch.get_default_dtype() if isinstance(value, float) else torch.int64
            found[place] = torch.tensor(value, dtype=own if higher else like)
    return found


def _result(value, returned, pairs: list):
    """What came out on the CPU as the device's: an argument, a view of one, or a new tensor."""
    if isinstance(value, (list, tuple)):
        return type(value)(_result(v, returned, pairs) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    for device, face in pairs:
        if value is face:
            return device
    for device, face in pairs if returned.alias_info is not None else ():
        start = face.untyped_storage().data_ptr()
        if start and value.untyped_storage().data_ptr() == start:
            offset = device.storage_offset() + value.storage_offset() - face.storage_offset()
            return _as_strided(device, value.shape, value.stride(), offset)
    return to_device(value)


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    with torch._C._ExcludeDispatchKeyGuard(keys):
        yield


# --- the kernels that need their own ------------------------------------------------------------


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    dtype = dtype or torch.get_default_dtype()
    return to_device(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return to_device(torch.empty_strided(size, stride, dtype=dtype or torch.get_default_dtype()))


def _copy_from(source, target, non_blocking=False):
    calls["_copy_from"] += 1
    if is_fake(source) and not is_fake(target):
        transfers["copy to the cpu"] += 1
    face = to_host(target) if is_fake(target) else target
    with torch._C._AutoDispatchBelowAutograd():
        face.copy_(to_host(source) if is_fake(source) else source)
    return target


def _copy_from_and_resize(source, target):
    target.resize_(source.shape)
    return _copy_from(source, target)


def _resize_(tensor, size, memory_format=None):
    stride, length = [], 1
    for n in reversed(size):
        stride.insert(0, length)
        length *= max(n, 1)
    needed = (tensor.storage_offset() + (length if all(size) else 0)) * tensor.element_size()
    storage = tensor.untyped_storage()
    if needed > storage.nbytes():
        kept = torch.empty(needed // tensor.element_size(), dtype=tensor.dtype)
        if storage.nbytes():
            whole = _as_strided(tensor, (storage.nbytes() // tensor.element_size(),), (1,), 0)
            kept[: whole.numel()] = to_host(whole)
        storage = to_device(kept).untyped_storage()
    return _set(tensor, storage, tensor.storage_offset(), size, stride)


def _storage_face(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of a device storage as a CPU tensor, no copy."""
    holder = _empty([0], dtype=torch.uint8)
    _set(holder, storage, 0, [storage.nbytes()], [1])
    return to_host(holder)


def _teach_storages() -> None:
    """torch.save, torch.load and copy.deepcopy work on storages, which want an allocator in C++."""
    cls = torch.UntypedStorage
    plain_clone, plain_cpu, plain_to = cls.clone, cls.cpu, cls.to

    def clone(self):
        if self.device.type != NAME:
            return plain_clone(self)
        return to_device(_storage_face(self).clone()).untyped_storage()

    def cpu(self):
        return _storage_face(self).clone().untyped_storage() if self.device.type == NAME else plain_cpu(self)

    def fake(self, device=None, non_blocking=False):
        if self.device.type == NAME:
            return self
        return to_device(torch.empty(0, dtype=torch.uint8).set_(self.clone())).untyped_storage()

    def to(self, *, device, non_blocking=False):
        device = torch.device(device)
        if device.type == NAME:
            return fake(self)
        return (
            cpu(self)
            if self.device.type == NAME
            else plain_to(self, device=device, non_blocking=non_blocking)
        )

    for kind in (torch.storage._StorageBase, cls):
        kind.clone, kind.cpu, kind.to = clone, cpu, to
        setattr(kind, NAME, fake)


# --- autocast -----------------------------------------------------------------------------------


def _eligible(x) -> bool:
    return is_fake(x) and x.is_floating_point() and x.dtype != torch.float64


def _cast(args, kwargs: dict, dtype: torch.dtype) -> tuple[list, dict]:
    def cast(values) -> list:
        return _mapped(lambda x: x.to(dtype) if _eligible(x) else x, values)

    return cast(args), dict(zip(kwargs, cast(kwargs.values()), strict=True))


def _autocast_kernel(op, policy: str):
    """An operator as autocast calls it: "lower", "full", "promote", or "dtype" (the sum is in fp32)."""
    off = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    names = [argument.name for argument in op._schema.arguments]

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(off):
            if policy == "lower":
                args, kwargs = _cast(args, kwargs, torch.get_autocast_dtype(NAME))
            elif policy == "full":
                args, kwargs = _cast(args, kwargs, torch.float32)
            elif policy == "promote":
                if torch.float32 in {x.dtype for x in _inside((*args, *kwargs.values())) if _eligible(x)}:
                    args, kwargs = _cast(args, kwargs, torch.float32)
            elif _eligible(args[0]) and kwargs.get("dtype") is None:
                place = names.index("dtype")
                if place >= len(args):
                    kwargs["dtype"] = torch.float32
                elif args[place] is None:
                    args = (*args[:place], torch.float32, *args[place + 1 :])
            return op(*args, **kwargs)

    return kernel


def _register_autocast() -> None:
    nothing = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    nothing.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, policy in ((LOWER, "lower"), (FULL, "full"), (SET_DTYPE, "dtype"), (PROMOTE, "promote")):
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, _autocast_kernel(op, policy))
    _libraries.extend([nothing, library])


# --- the device as torch knows it ---------------------------------------------------------------


class _Module(types.ModuleType):
    """``torch.fakegpu``, what ``torch.cuda`` is to "cuda". It is "available", and so torch's accelerator,
    inside :func:`trainers` alone: tests that run after its own shall not find it."""

    offered = False

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.offered

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def set_device(self, device) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed(self, seed: int) -> None:
        _Random.seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, device=NAME) -> torch.Tensor:
        return _Random.state.clone()

    def set_rng_state(self, state: torch.Tensor, device=NAME) -> None:
        _Random.state = state.clone()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def synchronize(self, device=None) -> None:
        waits["synchronize"] += 1

    def empty_cache(self) -> None:
        pass

    def memory_allocated(self, device=None) -> int:
        return 0

    max_memory_allocated = memory_allocated

    def reset_peak_memory_stats(self, device=None) -> None:
        pass

    @contextlib.contextmanager
    def device(self, device) -> Iterator[None]:
        yield

    def is_bf16_supported(self) -> bool:
        return True


_libraries: list = []  # kept: a Library takes its kernels along when it is collected
_module = _Module(NAME)


def install() -> torch.device:
    """Register the device, once a process; gives ``torch.device("fakegpu")``."""
    if _libraries:
        return torch.device(NAME)
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_module)
    aten, ops = torch.library.Library("aten", "IMPL", "PrivateUse1"), torch.ops.aten
    for op in (
        *(ops.as_strided.default, ops.view.default, ops._reshape_alias.default, ops.unfold.default),
        *(ops.set_.source_Storage_storage_offset, ops.set_.source_Storage, ops.set_.source_Tensor),
    ):
        aten.impl(op._name.removeprefix("aten::"), _redispatched(op))
    for name, kernel in {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "_copy_from": _copy_from,
        "_copy_from_and_resize": _copy_from_and_resize,
        "resize_": _resize_,
        "record_stream": lambda tensor, stream: None,
    }.items():
        aten.impl(name, kernel)
    rest = torch.library.Library("_", "IMPL", "PrivateUse1")
    rest.fallback(_fallback)
    _libraries.extend([aten, rest])
    _register_autocast()
    _teach_storages()
    # Pinned memory wants an allocator in C++; here nothing is gained by it.
    torch.Tensor.pin_memory = lambda self, device=None: self
    torch.Tensor.is_pinned = lambda self, device=None: False
    _Random.seed(torch.initial_seed())
    return torch.device(NAME)


# --- other libraries ----------------------------------------------------------------------------


@contextlib.contextmanager
def _patched(*changes) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def trainers() -> Iterator[None]:
    """Let Accelerate, and with it transformers' Trainer and TRL, use the device inside the block. They know
    the names of the devices that have bf16 and fp16; this one is not among them."""
    import accelerate.accelerator as accelerator
    import accelerate.state as state
    import transformers.training_args as training_args

    cls = accelerator.Accelerator
    device, start = cls.device, cls.__init__

    def is_said_to_be(self):
        found = device.fget(self)
        building = getattr(self, "scaler", 0) is None and self.state.mixed_precision == "fp16"
        return types.SimpleNamespace(type="cuda") if building and found.type == NAME else found

    def init(self, *args, **kwargs):
        with _patched((cls, "device", property(is_said_to_be))):
            start(self, *args, **kwargs)

    wanted = os.environ.get("ACCELERATE_TORCH_DEVICE")
    os.environ["ACCELERATE_TORCH_DEVICE"] = NAME
    state.PartialState._reset_state()  # it remembers the device
    with _patched(
        (_module, "offered", True),
        (cls, "__init__", init),
        (accelerator, "is_bf16_available", lambda ignore_tpu=False: True),
        (
            accelerator,
            "get_grad_scaler",
            lambda distributed_type=None, **kw: torch.amp.GradScaler(NAME, **kw),
        ),
        (training_args, "is_torch_bf16_gpu_available", lambda: True),
    ):
        try:
            yield
        finally:
            os.environ.pop("ACCELERATE_TORCH_DEVICE")
            if wanted:
                os.environ["ACCELERATE_TORCH_DEVICE"] = wanted
            state.PartialState._reset_state()


@contextlib.contextmanager
def bitsandbytes() -> Iterator[None]:
    """Let transformers load 4-bit models onto the device inside the block, as it does onto a GPU."""
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer as Quantizer

    def onto(self, device_map):
        return {"": torch.device(NAME, 0)} if device_map is None else device_map

    checked = (Quantizer, "validate_environment", lambda *_, **__: None)
    # Its kernels for unknown devices are compiled, which takes a second each and gains nothing here.
    with _patched((Quantizer, "update_device_map", onto), checked), torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def course(number: str) -> Iterator[torch.device]:
    """The course finds a GPU that computes in ``number`` (fp32, bf16 or fp16) inside the block, and so do
    the trainers of the libraries; a profile that asks for a precision still gets it."""
    from sawyer_utils.plumbing import machine

    device, found = install(), (NAME, FORMATS[number], f"pretended, {number}")
    with trainers(), _patched((machine, "number_format", lambda: found)):
        yield device


_stays = contextlib.ExitStack()


def stay(number: str) -> None:
    """:func:`course` and :func:`bitsandbytes` until this process ends: for a notebook's kernel."""
    _stays.enter_context(course(number))
    _stays.enter_context(bitsandbytes())
