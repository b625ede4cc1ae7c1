"""Plain pickles that ask for more than values: for names, calls, objects, files within files.

A table as in `hostile_programs`.
"""

from hostile_programs import DAMAGED, KEYS, MEMORY
from pickle_parts import (
    BUILD,
    LINEAR,
    MARK,
    NONE,
    OF_ITSELF,
    POP,
    Loads,
    call,
    dict_of,
    doubled,
    get,
    kept,
    list_of,
    name,
    number,
    persistent,
    program,
    raw,
    record,
    text,
    tuple_of,
)

CALLING, MAKING = "calling .* is refused", "making a .* is refused"
NO_INSTRUCTION = "is not one of a checkpoint's"
ENCODE, ORDERED = name("_codecs", "encode"), name("collections", "OrderedDict")
LOAD, SIZE = name("torch.storage", "_load_from_bytes"), name("torch", "Size")
DTYPE, SCALAR = name("numpy", "dtype"), name("numpy.core.multiarray", "scalar")
CLASS = {"class_name": text("Linear")}


def global_of(module, attribute):
    """The same name in the later form, from texts of any kind."""
    return text(module) + text(attribute) + b"\x93"


NAMES = {
    "os.system": (program(call(name("os", "system"), text("touch executed"))), CALLING),
    "exec": (program(call(name("builtins", "exec"), text("open('executed', 'w')"))), CALLING),
    "Python 2's eval": (program(call(name("__builtin__", "eval"), text("1"))), CALLING),
    "a module beside the file": (program(call(name("canary", "sing"))), "calling canary.sing"),
    "a class of that module": (program(name("canary", "Bird"), b")\x81"), MAKING),
    "a module by importlib": (
        program(call(name("importlib", "import_module"), text("canary"))),
        CALLING,
    ),
    "an attribute of what was got": (
        program(call(call(name("builtins", "getattr"), name("os", "path"), text("os")))),
        CALLING,
    ),
    "torch.load": (program(call(name("torch", "load"), text("executed"))), CALLING),
    "a table of torch's": (
        program(name("torch._utils", "__dict__"), b"}b"),
        "of a Name is refused",
    ),
    "a class made by copyreg": (
        program(call(name("copyreg", "_reconstructor"), LINEAR, LINEAR, NONE)),
        CALLING,
    ),
    "a text that is called": (program(call(text("os.system"))), "calling a str is refused"),
    "a doubled tuple that is called": (program(call(doubled(60))), "calling a tuple is refused"),
    "a list of arguments": (program(name("os", "system"), b"]R"), "tuple expected, list found"),
    "arguments of a class": (program(LINEAR, tuple_of(number(3)), b"\x81"), MAKING),
    "a class of no arguments": (program(LINEAR, b"N\x81"), "tuple expected, NoneType found"),
    "a number that is made": (program(number(1), b")\x81"), "making a a int is refused"),
    "INST": (MARK + text("x") + b"ios\nsystem\n.", NO_INSTRUCTION),
    "OBJ": (program(MARK, name("os", "system"), text("touch executed"), b"o"), NO_INSTRUCTION),
    "EXT1": (program(b"\x82\x01"), NO_INSTRUCTION),
    "EXT2": (program(b"\x83\x01\x00"), NO_INSTRUCTION),
    "EXT4": (program(b"\x84\xff\xff\xff\x7f"), NO_INSTRUCTION),
    "PERSID": (b"Pexecuted\n.", NO_INSTRUCTION),
    "BINPERSID": (program(text("executed"), b"Q"), "a persistent id"),
    "NEWOBJ_EX": (program(LINEAR, b")}\x92"), NO_INSTRUCTION),
    "NEXT_BUFFER": (program(b"\x97"), NO_INSTRUCTION),
    "READONLY_BUFFER": (program(text("a"), b"\x98"), NO_INSTRUCTION),
    "control characters": (program(call(name("\x1b[2J\x07", "\x9b31m"))), r"calling .*x1b\[2J"),
    "letters that turn the line": (program(call(global_of("\u202eos", "s\u200b"))), r"u202e"),
    "half a pair in a name": (program(call(global_of("\ud800", "\udfff"))), r"calling .*ud800"),
    "a name of two lines": (program(call(global_of("os\nx", "system\r\n"))), r"calling os\\nx"),
    "a name in another alphabet": (program(call(name("\u043es", "system"))), "calling \u043es"),
    "a name that is not UTF-8": (program(b"c\xff\xfe\nsystem\n"), DAMAGED),
    "a name with a space": (program(call(name("os system", "x"))), "calling os system.x"),
    "an empty name": (program(call(name("", ""))), r"calling \."),
    "a huge name": (lambda _: program(global_of("a" * 10**6, "b")), "too long"),
    "a huge name of a module": (lambda _: program(b"c", b"a" * 10**6, b"\nb\n"), "too long"),
    "a huge name made many times": (
        lambda _: program(
            kept(global_of("torch.nn.modules." + "a" * 10**6, "b"), 1),
            MARK,
            (get(1) + b")\x81") * 10_000,
            b"l",
        ),
        "too long",
    ),
    "a name of numbers": (program(number(1), number(2), b"\x93"), "str expected, int found"),
    "a name of a doubled tuple": (program(doubled(60), text("x"), b"\x93"), "str expected, tuple"),
    "a name left as it is": (program(name("os", "system")), Loads(lambda v: str(v) == "os.system")),
}

CALLS = {
    "another encoding": (program(call(ENCODE, text("abc"), text("rot13"))), "another encoding"),
    "a doubled encoding": (program(call(ENCODE, text("abc"), doubled(60))), "another encoding"),
    "bytes of a number": (
        program(call(ENCODE, number(1), text("latin1"))),
        "str expected, int found",
    ),
    "bytes of nothing": (program(call(ENCODE)), DAMAGED),
    "a million arguments": (lambda _: program(call(ENCODE, NONE * 10**6)), DAMAGED),
    "bytes beyond Latin": (program(call(ENCODE, text("\u20ac"), text("latin1"))), DAMAGED),
    "one text encoded many times": (
        lambda _: program(
            kept(text("a" * 10**6), 1),
            kept(tuple_of(get(1), text("latin1")), 2),
            MARK,
            (ENCODE + get(2) + b"R") * 400,
            b"l",
        ),
        MEMORY,
    ),
    "an ordered number": (program(call(ORDERED, number(5))), "list expected, int found"),
    "ordered triples": (program(call(ORDERED, list_of(tuple_of(NONE, NONE, NONE)))), DAMAGED),
    "ordered by lists": (program(call(ORDERED, list_of(tuple_of(b"]", NONE)))), f"list {KEYS}"),
    "ordered twice": (program(call(ORDERED, b"]", b"]")), DAMAGED),
    "an ordered list of itself": (program(call(ORDERED, OF_ITSELF)), DAMAGED),
    "pairs that are one long list": (
        lambda _: program(
            kept(list_of(NONE * 200_000), 1), call(ORDERED, list_of(get(1) * 100_000))
        ),
        DAMAGED,
    ),
    "an ordered dictionary made of class": (program(ORDERED, b")\x81"), Loads(lambda v: v == {})),
    "a set of lists": (program(call(name("builtins", "set"), list_of(b"]"))), f"list {KEYS}"),
    "a set of a text": (
        program(call(name("builtins", "set"), text("ab"))),
        "list expected, str found",
    ),
    "a set of Python 2": (
        program(call(name("__builtin__", "set"), list_of(number(1)))),
        Loads(lambda v: v == {1}),
    ),
    "a size of texts": (program(call(SIZE, tuple_of(text("1")))), "int expected, str found"),
    "a doubled size": (program(call(SIZE, doubled(60))), "int expected, tuple found"),
    "no size": (program(call(SIZE)), DAMAGED),
    "a size made many times": (
        lambda _: program(
            kept(tuple_of(number(1) * 20_000), 1), MARK, (SIZE + get(1) + b"\x85R") * 900, b"l"
        ),
        MEMORY,
    ),
    "a device of a number": (program(call(name("torch", "device"), number(0))), "str expected"),
    "half a number of numpy's": (
        program(call(SCALAR, call(DTYPE, text("f8")), raw(b"abc"))),
        DAMAGED,
    ),
    "an object of numpy's": (program(call(SCALAR, call(DTYPE, text("O8")), raw(b""))), "type O8"),
    "numpy's number of no type": (
        program(call(SCALAR, text("f8"), raw(bytes(8)))),
        "Record expected",
    ),
    "numpy's number of a module": (program(call(SCALAR, record(), raw(bytes(8)))), "str expected"),
    "a type that is a number": (program(call(DTYPE, number(8))), "str expected, int found"),
    "a type of a million letters": (
        lambda _: program(call(SCALAR, call(DTYPE, text("\n" * 10**6)), raw(b""))),
        "of numpy's type",
    ),
    "a type of half a state": (program(call(DTYPE, text("f8")), b")b"), DAMAGED),
    "a type the other way round": (
        program(call(DTYPE, text("f8")), tuple_of(number(3), text(">")), BUILD),
        "another byte order",
    ),
    "a parameter of nothing": (
        program(call(name("torch._utils", "_rebuild_parameter"), NONE, b"\x88", NONE)),
        "Tensor expected",
    ),
    "a tensor of nothing": (
        program(call(name("torch._utils", "_rebuild_tensor"), NONE, number(0), b")", b")")),
        "Storage expected",
    ),
    "a tensor of numpy's": (
        program(call(name("numpy.core.multiarray", "_reconstruct"), NONE)),
        CALLING,
    ),
}


def nested_records(times):
    """EDM's objects, each the state of the one before."""
    value = b"}"
    for _ in range(times):
        value = persistent(CLASS, state=dict_of({"a": value}))
    return program(value)


OBJECTS = {
    "an object without a class": (program(persistent({"state": b"}"})), "without a class_name"),
    "an object of a number": (
        program(persistent({"class_name": number(1)})),
        "without a class_name",
    ),
    "an object of a huge class": (
        lambda _: program(persistent({"class_name": text("A" * 10**7)})),
        "without a class_name",
    ),
    "an object that colours the line": (
        program(persistent({"class_name": text("\x1b[31m")})),
        "without a class_name",
    ),
    "an object with a list of attributes": (
        program(persistent(CLASS, state=list_of(NONE))),
        "dict expected, list found",
    ),
    "an object with code of bytes": (
        program(persistent(CLASS, module_src=raw(b"1 / 0"))),
        "str expected, bytes found",
    ),
    "an object with code": (
        program(persistent(CLASS, module_src=text("open('executed', 'w')"))),
        Loads(lambda value: value.kind == "Linear" and "executed" in value.source),
    ),
    "an object of no facts": (
        program(call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), text("a"))),
        "dict expected, str found",
    ),
    "objects in each other": (
        lambda _: nested_records(500),
        Loads(lambda value: value.state["a"].kind == "Linear"),
    ),
    "one state of many objects": (
        lambda _: program(
            kept(b"}(" + b"".join(number(i) + NONE for i in range(50_000)) + b"u", 1),
            kept(dict_of(CLASS | {"state": get(1)}) + b"\x85", 2),
            MARK,
            (name("torch_utils.persistence", "_reconstruct_persistent_obj") + get(2) + b"R") * 5000,
            b"l",
        ),
        Loads(lambda value: len(value) == 5000),
    ),
}


def within(times, value=None):
    """A pickle in a pickle in a pickle."""
    data = program(NONE) if value is None else value
    for _ in range(times):
        data = program(call(LOAD, raw(data)))
    return data


def doubled_within(times):
    """Pickles that load the one within them twice: two to the power of `times` in all."""
    data = program(NONE)
    for _ in range(times):
        data = program(kept(raw(data), 1), call(LOAD, get(1)), POP, call(LOAD, get(1)))
    return data


WITHIN = {
    "a pickle in a pickle": (within(1), Loads(lambda value: value is None)),
    "pickles 100 deep": (within(100), MEMORY),
    "pickles that load twice": (doubled_within(20), MEMORY),
    "a pickle loaded many times": (
        lambda _: program(
            kept(raw(program(list_of(NONE * 1000))), 1), MARK, call(LOAD, get(1)) * 2000, b"l"
        ),
        MEMORY,
    ),
    "noise in a pickle": (program(call(LOAD, raw(b"\xff" * 100))), DAMAGED),
    "a text in a pickle": (program(call(LOAD, text("abc"))), "bytes expected, str found"),
    "nothing in a pickle": (program(call(LOAD, raw(b""))), DAMAGED),
    "two things in a pickle": (program(call(LOAD, raw(b"N."), raw(b"N."))), DAMAGED),
    "malice in a pickle": (
        program(call(LOAD, raw(program(call(name("os", "system"), text("touch executed")))))),
        CALLING,
    ),
}

REQUESTS = {**NAMES, **CALLS, **OBJECTS, **WITHIN}
