"""Pickles put together from instructions, and what torch.save writes around them."""

import io
import struct
import zipfile

PROTO, STOP, MARK, POP, DUP, NONE, BUILD = b"\x80\x04", b".", b"(", b"0", b"2", b"N", b"b"
MAGIC = 0x1950A86A20F9469CFC6C
"""with which torch.save's former format begins"""


class Loads:
    """The answer to an honest file: what it loads to fulfils the check."""

    def __init__(self, check):
        self.check = check


def program(*parts):
    return PROTO + b"".join(parts) + STOP


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def raw(data):
    return b"B" + struct.pack("<I", len(data)) + data


def number(value):
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def tuple_of(*items):
    return MARK + b"".join(items) + b"t"


def list_of(*items):
    return MARK + b"".join(items) + b"l"


def dict_of(pairs):
    return MARK + b"".join(text(name) + value for name, value in pairs.items()) + b"d"


def put(place):
    return b"r" + struct.pack("<I", place)


def get(place):
    return b"j" + struct.pack("<I", place)


def kept(value, place):
    """A value that is put into the memory, and off the stack."""
    return value + put(place) + POP


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(what, *arguments):
    return what + tuple_of(*arguments) + b"R"


LINEAR = name("torch.nn.modules.linear", "Linear")


def record(state=b"}", kind=LINEAR):
    """What was an object of torch's, with attributes."""
    return kind + b")\x81" + state + BUILD


def persistent(facts, **others):
    """What was an object of EDM's."""
    rebuild = name("torch_utils.persistence", "_reconstruct_persistent_obj")
    return call(rebuild, dict_of(facts | others))


def doubled(times, value=NONE):
    """A tuple that holds twice what holds twice what ... in two instructions a level."""
    return value + (DUP + b"\x86") * times


def deep(times, value=b")"):
    return value + b"\x85" * times


OF_ITSELF = b"]2a"
"""a list that holds itself"""


# Tensors.


FOUR, FLOATS, FIRST = number(4), name("torch", "FloatStorage"), text("0")


def storage(count=FOUR, kind=FLOATS, key=FIRST, view=b""):
    return tuple_of(text("storage"), kind, key, text("cpu"), count, view) + b"Q"


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
HOOKS = call(name("collections", "OrderedDict"))


STORAGE = storage()


def tensor(of=STORAGE, offset=0, size=(4,), stride=(1,)):
    """A tensor of a storage. Sizes are numbers, or instructions for anything else."""

    def several(value):
        return value if isinstance(value, bytes) else tuple_of(*map(number, value))

    first = offset if isinstance(offset, bytes) else number(offset)
    return call(REBUILD, of, first, several(size), several(stride), b"\x89", HOOKS)


NUMBERS = struct.pack("<4f", 1, 2, 3, 4)
FACTS = dict_of({"protocol_version": number(1001), "little_endian": b"\x88"})


def former(body, keys=list_of(text("0")), data=struct.pack("<q", 4) + NUMBERS, facts=FACTS):  # noqa: B008
    """torch.save's former format: five pickles, then the numbers."""
    parts = (number(MAGIC), number(1001), facts, body, keys)
    return b"".join(map(program, parts)) + data


FOLDER = "archive/"


def zipped(body, data=NUMBERS, **options):
    """torch.save's present format with one storage, or with those in a dictionary."""
    members = data if isinstance(data, dict) else {"0": data}
    files = {f"data/{key}": value for key, value in members.items()}
    return archive({"data.pkl": program(body), "byteorder": b"little", **files}, **options)


def archive(members, how=zipfile.ZIP_STORED, folder=FOLDER):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as whole:
        for member, data in members.items():
            whole.writestr(zipfile.ZipInfo(folder + member), data, how)
    return content.getvalue()


def both(body):
    """One program in either of torch.save's formats."""
    return [former(body), zipped(body)]


def changed(content, old, new, count=1):
    """A file in which some bytes are others."""
    assert content.count(old) >= count
    return content.replace(old, new, count)
