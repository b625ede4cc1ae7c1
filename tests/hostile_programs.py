"""Plain pickles that are damaged, or made to hurt: (name, the file or how it is made, the answer).

An answer is what the error says, or `Loads` for the few honest ones.
"""

import math
import pickle
import struct

from pickle_parts import (
    BUILD,
    DUP,
    LINEAR,
    MARK,
    NONE,
    OF_ITSELF,
    POP,
    PROTO,
    STOP,
    Loads,
    deep,
    doubled,
    get,
    kept,
    list_of,
    number,
    program,
    put,
    record,
    text,
)

DAMAGED = "is damaged, or no checkpoint"
MEMORY = "more memory than it holds|longer than that of any checkpoint"
KEYS = "as a key is refused"
HONEST = {"a": [1, 2.5, "text", None, (True, b"bytes")], "b": {3}, 4: frozenset("x"), "c": 2**80}


def boundaries():
    """An honest pickle cut behind each of its instructions, and within most of them."""
    whole = [pickle.dumps(HONEST["a"], protocol) for protocol in (0, 2, 4, 5)]
    return [content[:length] for content in whole for length in range(len(content))]


def sized(opcode, form, size, data=b"abc"):
    """A text or bytes that say how long they are."""
    return PROTO + opcode + struct.pack(form, size) + data + STOP


STREAMS = {
    "nothing": (b"", DAMAGED),
    "an end alone": (b".", DAMAGED),
    "a protocol alone": (PROTO, DAMAGED),
    "a protocol to come": (b"\x80\xc8N.", "protocol 200"),
    "no instruction": (b"\x80\x04\xffN.", "no instruction is"),
    "noise": (bytes(i * i * 7 % 251 for i in range(4096)), DAMAGED),
    "a page": (b"<!DOCTYPE html><html><body>Not found</body></html>", "it is a web page"),
    "JSON": (b'{"weights": [1, 2, 3]}', DAMAGED),
    "zeros": (bytes(1000), DAMAGED),
    "cut at every boundary": (boundaries(), DAMAGED),
    "pickles one behind another": (program(number(1)) * 9, Loads(lambda value: value == 1)),
    "noise behind a pickle": (program(number(1)) + b"\xff" * 99, Loads(lambda value: value == 1)),
    "every kind of value": (pickle.dumps(HONEST), Loads(lambda value: value == HONEST)),
    "protocol 0": (
        pickle.dumps(["a\u20ac\n", 7, -1.5], 0),
        Loads(lambda v: v == ["a\u20ac\n", 7, -1.5]),
    ),
    "Python 2's text": (b"S'a\\x41\\n'\n.", Loads(lambda value: value == "aA\n")),
    "bytes of protocol 2": (
        pickle.dumps(b"\x00\xff", 2),
        Loads(lambda value: value == b"\x00\xff"),
    ),
}

SIZES = {
    "a text of 4 GB": (sized(b"X", "<I", 2**32 - 1), DAMAGED),
    "a text of 2^63 bytes": (sized(b"\x8d", "<Q", 2**63), DAMAGED),
    "a Latin text of -1 bytes": (sized(b"T", "<i", -1), DAMAGED),
    "bytes of a terabyte": (sized(b"\x8e", "<Q", 2**40), DAMAGED),
    "an array of 2^62 bytes": (sized(b"\x96", "<Q", 2**62), DAMAGED),
    "short bytes that are shorter": (sized(b"C", "<B", 200), DAMAGED),
    "an integer of -2^31 bytes": (sized(b"\x8b", "<i", -(2**31)), DAMAGED),
    "an integer of 2^31 bytes": (sized(b"\x8b", "<i", 2**31 - 1), DAMAGED),
    "a frame of 2^64 bytes": (sized(b"\x95", "<Q", 2**64 - 1, NONE), Loads(lambda v: v is None)),
    "a line without an end": (lambda _: b"V" + b"a" * 10**7, "cut short, or too long"),
    "a text without an end": (lambda _: b"S'" + b"\\x41" * 10**6, "cut short, or too long"),
    "a name without an end": (lambda _: b"cos\n" + b"a" * 10**7, "cut short, or too long"),
    "an array": (program(b"\x96" + struct.pack("<Q", 3) + b"abc"), Loads(lambda v: v == b"abc")),
}

LITERALS = {
    "a million digits": (lambda _: b"I" + b"9" * 10**6 + b"\n.", "cut short, or too long"),
    "a long of a million digits": (
        lambda _: b"L" + b"9" * 10**6 + b"L\n.",
        "cut short, or too long",
    ),
    "a million bytes": (
        lambda _: program(b"\x8b\x40\x42\x0f\0" + b"\x7f" * 10**6),
        "number of 1,000,000",
    ),
    "an integer of 255 bytes": (program(number(2**2000)), Loads(lambda value: value == 2**2000)),
    "digits that are none": (b"Iabc\n.", DAMAGED),
    "digits of no ASCII": ("I\u0661\n.".encode(), DAMAGED),
    "no digits": (b"I\n.", DAMAGED),
    "a truth": (b"(I01\nI00\nl.", Loads(lambda value: value == [True, False])),
    "a float of a million digits": (
        lambda _: b"F" + b"1" * 10**6 + b"\n.",
        "cut short, or too long",
    ),
    "a float that is none": (b"F1.5.\n.", DAMAGED),
    "no number": (b"Fnan\n.", Loads(math.isnan)),
    "half an integer": (b"J\x01\x02", DAMAGED),
    "half a float": (b"G\x01\x02", DAMAGED),
    "no UTF-8": (b"X\x02\0\0\0\xc3\x28.", DAMAGED),
    "half a pair": (program(text("\ud800")), Loads(lambda value: value == "\ud800")),
    "no quotes": (b"Sabc\n.", "without its quotes"),
    "one quote": (b"S'\n.", "without its quotes"),
    "quotes that differ": (b"S'abc\"\n.", "without its quotes"),
    "an escape that is none": (b"S'\\q\\777'\n.", "without its quotes"),
    "an escape cut short": (b"V\\u12\n.", DAMAGED),
    # One letter of four bytes makes all of them take four.
    "a text that becomes four times as long": (
        lambda _: program(text("a" * (60 * 2**20) + "\U0001f600")),
        MEMORY,
    ),
}

STACK = {
    "off an empty stack": (program(POP), DAMAGED),
    "off to no mark": (program(b"1"), DAMAGED),
    "a tuple without a mark": (program(b"t"), DAMAGED),
    "a list without a mark": (program(number(1), b"l"), DAMAGED),
    "three of two": (program(NONE, NONE, b"\x87"), "of more than there is"),
    "one more of none": (program(DUP), DAMAGED),
    "a mark as a value": (program(MARK, b"\x85"), DAMAGED),
    "a mark at the end": (program(MARK), DAMAGED),
    "a mark remembered": (program(MARK, b"\x94"), DAMAGED),
    "a mark that is a key": (program(b"}", MARK, NONE, b"s"), DAMAGED),
    "a mark taken off": (program(NONE, MARK, POP), Loads(lambda value: value is None)),
    "what is not remembered": (program(b"h\x07"), DAMAGED),
    "what nobody could remember": (program(get(2**32 - 1)), DAMAGED),
    "a place below 0": (program(NONE, b"p-1\n"), "below 0"),
    "a place without a number": (program(NONE, b"pfirst\n"), DAMAGED),
    "a place of a million digits": (
        lambda _: program(NONE, b"p" + b"9" * 10**6 + b"\n"),
        "cut short, or too long",
    ),
    "the last place of all": (
        program(number(5), put(2**32 - 1), get(2**32 - 1), b"\x85"),
        Loads(lambda value: value == (5,)),
    ),
    "three million instructions": (lambda _: program((NONE + POP) * 3_000_000, NONE), MEMORY),
    "three million marks": (lambda _: program(MARK * 3_000_000), MEMORY),
    "three million copies": (lambda _: program(OF_ITSELF, DUP * 3_000_000), MEMORY),
    "three million memories": (lambda _: program(NONE, b"\x94" * 3_000_000), MEMORY),
    "three million sets": (lambda _: program(b"\x8f" * 3_000_000), MEMORY),
    "two million dictionaries": (lambda _: program(MARK, b"}" * 2_000_000, b"t"), MEMORY),
    "half a million tables": (lambda _: program(MARK, b"}K\1Ns" * 500_000, b"l"), MEMORY),
    "a million lists": (lambda _: program(MARK, b"]Na" * 600_000, b"l"), MEMORY),
    "half a million numbers": (
        lambda _: program(MARK, number(0.5) * 500_000, b"l"),
        Loads(lambda v: v == [0.5] * 500_000),
    ),
}

COLLECTIONS = {
    "appended to a dictionary": (program(b"}Na"), "list expected, dict found"),
    "appended to nothing": (program(NONE, NONE, b"a"), "list expected, NoneType found"),
    "many appended to a text": (program(text("a"), MARK, NONE, b"e"), "list expected, str found"),
    "many appended to a record": (
        program(record(), MARK, NONE, b"e"),
        "list expected, Record found",
    ),
    "items of a list": (program(b"]", number(0), NONE, b"s"), "dict expected, list found"),
    "items of a tensor's name": (
        program(LINEAR, MARK, NONE, NONE, b"u"),
        "dict expected, Name found",
    ),
    "members of a list": (program(b"]", MARK, NONE, b"\x90"), "set expected, list found"),
    "a key without a value": (program(b"}", MARK, NONE, b"u"), DAMAGED),
    "three of a dictionary": (program(MARK, NONE * 3, b"d"), DAMAGED),
    "a list as a key": (program(b"}]Ns"), f"list {KEYS}"),
    "a dictionary as a key": (program(b"(}Nd"), f"dict {KEYS}"),
    "a tuple as a key": (program(b"}", number(1), b"\x85Ns"), f"tuple {KEYS}"),
    "a name as a key": (program(b"}", LINEAR, b"Ns"), f"Name {KEYS}"),
    "an array as a key": (program(b"}\x96", struct.pack("<Q", 1), b"aNs"), f"bytearray {KEYS}"),
    "a record as a member": (program(b"\x8f(", record(), b"\x90"), f"Record {KEYS}"),
    "a frozen set of frozen sets": (program(b"((\x91\x91"), f"frozenset {KEYS}"),
    "a deep key": (lambda _: program(b"}", deep(100_000), b"Ns"), f"tuple {KEYS}"),
    "a doubled key": (program(b"}", doubled(60), b"Ns"), f"tuple {KEYS}"),
    "a doubled member": (program(b"\x8f(", doubled(60), b"\x90"), f"tuple {KEYS}"),
    "a key of 100 bits": (program(b"}", number(2**99), b"Ns"), "more than 64 bits"),
    # Multiples of this prime have the hash 0, all of them.
    "keys of one hash": (
        lambda _: program(b"}(", *(number(i * (2**61 - 1)) + NONE for i in range(1, 50_000)), b"u"),
        "more than 64 bits",
    ),
    "members of one hash": (
        lambda _: program(b"\x8f(", *(number(i * (2**61 - 1)) for i in range(9, 50_000)), b"\x90"),
        "more than 64 bits",
    ),
    "keys that are no numbers": (
        program(b"}(", (number(math.nan) + NONE) * 999, b"u"),
        Loads(lambda value: len(value) == 999),
    ),
    "a list of itself": (program(OF_ITSELF), Loads(lambda value: value[0] is value)),
    "a dictionary in itself": (
        program(b"}", put(1), number(1), get(1), b"s"),
        Loads(lambda value: value[1] is value),
    ),
    "a tuple in its own list": (
        program(b"]", put(1), get(1), b"\x85a"),
        Loads(lambda value: value[0][0] is value),
    ),
    "tuples 100,000 deep": (lambda _: program(deep(100_000)), Loads(lambda value: len(value) == 1)),
    "lists 100,000 deep": (
        lambda _: program(b"]" * 100_000, b"a" * 99_999),
        Loads(lambda value: len(value) == 1),
    ),
    "dictionaries 100,000 deep": (
        lambda _: program(b"}K\1" * 100_000, NONE, b"s" * 100_000),
        Loads(lambda v: list(v) == [1]),
    ),
    "records 20,000 deep": (
        lambda _: program((LINEAR + b")\x81}K\1") * 20_000, NONE, b"sb" * 20_000),
        Loads(lambda value: list(value.state) == [1]),
    ),
    "doubled 60 times": (program(doubled(60)), Loads(lambda value: value[0] is value[1])),
    "a list doubled 60 times": (
        program(b"]", *(put(i) + POP + list_of(get(i), get(i)) for i in range(60))),
        Loads(lambda value: value[0] is value[1]),
    ),
    "a doubled state": (
        program(LINEAR, b")\x81", doubled(60), BUILD),
        "dict expected, tuple found",
    ),
    "a state that is no dictionary": (program(LINEAR, b")\x81]b"), "dict expected, list found"),
    "a state and its slots": (program(record(b"N}\x86")), "dict expected, tuple found"),
    "the state of a list": (program(b"]}b"), "state of a list is refused"),
    "the state of a name": (program(LINEAR, b"}b"), "state of a Name is refused"),
    "the state of nothing": (program(NONE, b"}b"), "state of a NoneType is refused"),
    "a record in itself": (
        program(LINEAR, b")\x81", put(1), b"}", text("a"), get(1), b"sb"),
        Loads(lambda value: value.state["a"] is value),
    ),
    "one state of many records": (
        lambda _: program(
            kept(b"}(" + b"".join(number(i) + NONE for i in range(10_000)) + b"u", 1),
            MARK,
            record(get(1)) * 700,
            b"l",
        ),
        MEMORY,
    ),
}

PROGRAMS = {**STREAMS, **SIZES, **LITERALS, **STACK, **COLLECTIONS}
