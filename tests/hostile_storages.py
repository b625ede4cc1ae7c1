"""What torch.save writes, damaged or made to hurt: tensors, storages, its former format.

A table as in `hostile_programs`.
"""

import struct

from hostile_programs import DAMAGED, MEMORY
from pickle_parts import (
    HOOKS,
    MAGIC,
    MARK,
    NONE,
    NUMBERS,
    OF_ITSELF,
    REBUILD,
    STORAGE,
    Loads,
    both,
    call,
    deep,
    dict_of,
    doubled,
    former,
    get,
    kept,
    list_of,
    name,
    number,
    program,
    raw,
    record,
    storage,
    tensor,
    text,
    tuple_of,
    zipped,
)

MANY = "not a few integers|of many dimensions"
BEYOND, LARGER = "beyond its storage", "more elements than its storage"
NEGATIVE = "of negative size"
LOAD = name("torch.storage", "_load_from_bytes")


def is_ramp(value):
    return value.tolist() == [1, 2, 3, 4]


TENSORS = {
    "a tensor": (both(tensor()), Loads(is_ramp)),
    "a tensor in a pickle": (
        program(call(LOAD, raw(former(tensor(storage(view=NONE)))))),
        Loads(is_ramp),
    ),
    "a tensor in a pickle of torch's": (
        former(call(LOAD, raw(former(tensor()))), keys=b"]", data=b""),
        Loads(is_ramp),
    ),
    "a negative size": (both(tensor(size=(-4,))), NEGATIVE),
    "a negative stride": (both(tensor(stride=(-1,))), NEGATIVE),
    "a negative offset": (both(tensor(offset=-1)), NEGATIVE),
    "an offset beyond the end": (both(tensor(offset=1)), BEYOND),
    "an offset far beyond the end": (both(tensor(offset=2**62, size=(0,))), BEYOND),
    "a stride beyond the end": (both(tensor(size=(2,), stride=(4,))), BEYOND),
    "strides that overlap": (
        both(tensor(size=(2, 2), stride=(1, 1))),
        Loads(lambda v: v.tolist() == [[1, 2], [2, 3]]),
    ),
    "strides of zero": (both(tensor(stride=(0,))), Loads(lambda v: v.tolist() == [1, 1, 1, 1])),
    "strides of zero without end": (both(tensor(size=(2**40,), stride=(0,))), LARGER),
    "a million dimensions": (
        lambda _: zipped(tensor(size=tuple_of(number(1) * 10**6), stride=b")")),
        MANY,
    ),
    "a million dimensions and strides": (
        lambda _: former(kept(tuple_of(number(1) * 10**6), 0) + tensor(size=get(0), stride=get(0))),
        MANY,
    ),
    "17 dimensions": (both(tensor(size=(1,) * 17, stride=(1,) * 17)), MANY),
    "half a row": (both(tensor(size=(1.5,))), "not a few integers"),
    "a text as a size": (both(tensor(size=text("4"))), "list expected, str found"),
    "texts in a size": (both(tensor(size=tuple_of(text("4")))), "not a few integers"),
    "a number as a size": (both(tensor(size=number(4))), "list expected, int found"),
    "a tensor as a size": (both(tensor(size=tensor())), "list expected, Tensor found"),
    "a doubled tuple as a size": (
        both(tensor(size=doubled(60), stride=(1, 1))),
        "not a few integers",
    ),
    "a deep tuple as a size": (both(tensor(size=deep(10**5))), "not a few integers"),
    "a list of itself as a size": (both(tensor(size=OF_ITSELF)), "not a few integers"),
    "truths as a size": (both(tensor(size=tuple_of(b"\x88"))), DAMAGED),
    "fewer strides": (both(tensor(size=(2, 2), stride=(1,))), "strides are not as many"),
    "an offset that is a text": (both(tensor(offset=text("0"))), "not a few integers"),
    "a size of 2^64": (both(tensor(size=(2**64,))), "more than memory can be"),
    "a size of 2000 bits": (both(tensor(size=(2**2000,))), "more than memory can be"),
    "a product of 2^128": (both(tensor(size=(2**62, 2**62, 4), stride=(0, 0, 0))), LARGER),
    "a product of 0": (
        both(tensor(size=(0, 2**62, 2**62), stride=(1, 1, 1))),
        Loads(lambda v: v.numel() == 0),
    ),
    "a storage that is a number": (both(tensor(of=number(4))), "Storage expected, int found"),
    "a storage that is a tensor": (both(tensor(of=tensor())), "Storage expected, Tensor found"),
    "the state of a tensor": (both(tensor() + b"}b"), Loads(is_ramp)),
    "a state of a tensor that is none": (both(tensor() + b"]b"), "state of a Tensor is refused"),
    "items of a tensor": (both(tensor() + number(0) + number(1) + b"s"), "dict expected"),
    "a tensor as a key": (both(b"}" + tensor() + b"Ns"), "a Tensor as a key is refused"),
    "a million tensors of one storage": (
        lambda _: former(
            kept(REBUILD, 1)
            + kept(tuple_of(STORAGE, number(0), b"K\4\x85", b"K\1\x85", b"\x89", HOOKS), 2)
            + MARK
            + (b"h\1h\2R" * 10**6)
            + b"l"
        ),
        MEMORY,
    ),
}

STORAGES = {
    "a type that is unknown": (
        both(tensor(storage(kind=name("torch", "QInt8Storage")))),
        "is unknown",
    ),
    "complex numbers": (
        both(tensor(storage(kind=name("torch", "ComplexFloatStorage")))),
        "is unknown",
    ),
    "a type that colours the line": (
        both(tensor(storage(kind=name("\x1b[1m", "x")))),
        "is unknown",
    ),
    "a type that is a text": (
        both(tensor(storage(kind=text("torch.FloatStorage")))),
        "Name expected",
    ),
    "a count below 0": (both(tensor(storage(number(-4)))), DAMAGED),
    "a count of 2^60": (both(tensor(storage(number(2**60)))), DAMAGED),
    "a count of 2000 bits": (both(tensor(storage(number(2**2000)))), DAMAGED),
    "half a count": (both(tensor(storage(number(4.0)))), "int expected, float found"),
    "a count that is a text": (both(tensor(storage(text("4")))), "int expected, str found"),
    "a doubled count": (both(tensor(storage(doubled(60)))), "int expected, tuple found"),
    "fewer than there are": (both(tensor(storage(number(3)), size=(3,))), DAMAGED),
    "more than there are": (both(tensor(storage(number(5)), size=(5,))), DAMAGED),
    "a storage of two types": (
        both(list_of(tensor(), tensor(storage(kind=name("torch", "IntStorage"))))),
        "two types or sizes",
    ),
    "a storage of two sizes": (
        both(list_of(tensor(), tensor(storage(number(2))))),
        "types or sizes",
    ),
    "a storage that is not there": (
        [zipped(tensor(storage(key=text("1")))), former(tensor(storage(key=text("1"))))],
        DAMAGED,
    ),
    "a storage by number": (both(tensor(storage(key=number(0)))), "str expected, int found"),
    "a storage by a doubled tuple": (both(tensor(storage(key=doubled(60)))), "str expected"),
    "a storage of a huge name": (
        lambda _: zipped(tensor(storage(key=text("\x1b" * 10**6)))),
        "There is no item named",
    ),
    "a storage outside": (
        zipped(tensor(storage(key=text("../../../etc/passwd")))),
        "There is no item",
    ),
    "an identity that is a text": (both(text("storage") + b"Q"), "tuple expected, str found"),
    "an empty identity": (both(b")Q"), DAMAGED),
    "an identity cut short": (both(tuple_of(text("storage")) + b"Q"), DAMAGED),
    "an identity of a thousand": (
        both(tuple_of(text("storage") * 1000) + b"Q"),
        DAMAGED + "|not a storage's",
    ),
    "a doubled identity": (both(doubled(60) + b"Q"), DAMAGED),
    "another kind of identity": (
        both(tuple_of(text("file"), NONE, text("0"), NONE, number(4)) + b"Q"),
        "not a storage's",
    ),
    "a view of a storage": (
        former(tensor(storage(view=tuple_of(text("1"), number(0), number(4))))),
        "not a storage's",
    ),
    "a module that is a text": (
        former(tuple_of(text("module"), text("os"), text("x"), text("y")) + b"Q"),
        "Name expected",
    ),
    "100,000 storages of nothing": (
        lambda _: former(
            list_of(*(storage(number(0), key=text(str(i))) for i in range(100_000))),
            keys=list_of(*(text(str(i)) for i in range(100_000))),
            data=bytes(8 * 10**5),
        ),
        MEMORY,
    ),
    "storages of more than the file": (
        lambda _: former(
            list_of(*(storage(number(10**6), key=text(str(i))) for i in range(100))),
            data=bytes(5 * 10**6),
        ),
        "more bytes than there are in the file",
    ),
}

FORMER = {
    "the beginning alone": (program(number(MAGIC)), DAMAGED),
    "another beginning": (program(number(MAGIC + 1)), Loads(lambda value: value == MAGIC + 1)),
    "no facts": (former(tensor(), facts=b""), DAMAGED),
    "malice in the facts": (
        former(tensor(), facts=call(name("os", "system"), text("touch executed"))),
        "calling os.system",
    ),
    "a machine the other way round": (
        former(tensor(), facts=dict_of({"little_endian": b"\x89"})),
        "big-endian machine",
    ),
    "no list of storages": (former(tensor(), keys=number(1)), "list expected, int found"),
    "an empty list of storages": (former(tensor(), keys=b"]"), "whose numbers are not in the file"),
    "a storage listed twice": (former(tensor(), keys=list_of(text("0"), text("0"))), DAMAGED),
    "a storage listed that nobody asked for": (
        former(tensor(), keys=list_of(text("1"), text("0"))),
        DAMAGED,
    ),
    "a deep name in the list": (
        lambda _: former(tensor(), keys=list_of(deep(100_000))),
        "str expected, tuple found",
    ),
    "a list of itself as the list": (former(tensor(), keys=OF_ITSELF), "str expected, list found"),
    "another count before the numbers": (
        former(tensor(), data=struct.pack("<q", 5) + NUMBERS),
        "a storage of 5 numbers, not 4",
    ),
    "a count below 0 before the numbers": (
        former(tensor(), data=struct.pack("<q", -1) + NUMBERS),
        "a storage of -1 numbers",
    ),
    "numbers cut short": (former(tensor())[:-1], "ends within the numbers"),
    "no numbers": (former(tensor(), data=b""), DAMAGED),
    "one that is cut anywhere": (
        [former(tensor())[:length] for length in range(1, len(former(tensor())), 3)],
        DAMAGED,
    ),
    "a record around a tensor": (
        former(record(dict_of({"weight": tensor()}))),
        Loads(lambda v: is_ramp(v.state["weight"])),
    ),
}

STORED = {**TENSORS, **STORAGES, **FORMER}
