"""Checkpoints that can be read and not converted: (kind, the file or how it is made, the answer).

A third entry, where there is one, is the file of settings that DSNO's has beside it.
"""

import functools
import io
import json

import torch

from helpers import Golden
from hostile import pipe
from pickle_parts import (
    FOUR,
    NONE,
    OF_ITSELF,
    Loads,
    dict_of,
    get,
    kept,
    list_of,
    name,
    number,
    persistent,
    program,
    put,
    record,
    storage,
    tensor,
    text,
    tuple_of,
    zipped,
)

CONVERTS = Loads(lambda value: value is None)
DAMAGED = "a module of this checkpoint is damaged"
SETTINGS, NOT_EDM = "the setting '|settings of", "not the weights of a DhariwalUNet"
NOT_DSNO = "not the weights of a DSNO"


# EDM's: modules within modules, each with its parameters.


def edm(inner, outer=b"}", kind="DhariwalUNet"):
    """A network of EDM's, from the attributes of its model."""
    model = persistent({"class_name": text(kind)}, state=inner)
    state = {"_init_kwargs": outer, "_modules": dict_of({"model": model})}
    return dict_of({"ema": persistent({"class_name": text("EDMPrecond")}, state=dict_of(state))})


def told(**settings):
    """A model without tensors, built with these settings."""
    usual = {"img_resolution": number(8), "img_channels": number(3), "model_channels": number(1)}
    return program(edm(dict_of({"_init_kwargs": dict_of(usual | settings)})))


def module_of(parts):
    """A module's attributes, from what is in it by name: instructions, or a dictionary of such."""
    tensors = {key: part for key, part in parts.items() if isinstance(part, bytes)}
    modules = {
        key: persistent({"class_name": text("Conv2d")}, state=module_of(part))
        for key, part in parts.items()
        if isinstance(part, dict)
    }
    return dict_of({"_parameters": dict_of(tensors), "_modules": dict_of(modules)})


STORES = {torch.float32: "Float", torch.float16: "Half", torch.int32: "Int"}


@functools.cache
def weights():
    return Golden("adm_edm_precond").state


def network(changes=None, shared=False, **settings):
    """The reference network in a zip, with other tensors or settings; with `shared`, each tensor
    shows the numbers of the largest."""
    golden = Golden("adm_edm_precond")
    state = weights() | (changes or {})
    largest = max(state.values(), key=torch.Tensor.numel).flatten()
    data, tree = {}, {}
    for place, (key, value) in enumerate(state.items()):
        count = len(largest) if shared else value.numel()
        where = "0" if shared else str(place)
        data[where] = (largest if shared else value).contiguous().numpy().tobytes()
        kind = name("torch", f"{STORES[value.dtype]}Storage")
        within = tree
        *modules, last = key.removeprefix("model.").split(".")
        for module in modules:
            within = within.setdefault(module, {})
        strides = torch.empty(value.shape).stride()
        stored = storage(number(count), kind, text(where))
        within[last] = tensor(stored, size=tuple(value.shape), stride=strides)
    config = golden.config | settings
    values = {
        key: list_of(*map(number, value)) if isinstance(value, list) else number(value)
        for key, value in config.items()
        if isinstance(value, int | float | list)
    }
    values |= {key: value for key, value in settings.items() if isinstance(value, bytes)}
    parts = module_of(tree)[:-1] + text("_init_kwargs") + dict_of(values) + b"d"
    return zipped(edm(parts), data)


def first(value):
    """The reference network with a number of one tensor changed."""

    def make(_):
        weight = weights()["model.out_conv.weight"].clone()
        weight.view(-1)[0] = value
        return network({"model.out_conv.weight": weight})

    return make


def named_so(*names):
    """The reference network with more tensors."""
    return lambda _: network({f"model.{one}": torch.zeros(1) for one in names})


def chain(count, letters):
    """Modules in modules, with long names."""
    value = module_of({"weight": tensor()})
    for _ in range(count):
        inner = persistent({"class_name": text("Conv2d")}, state=value)
        value = dict_of({"_modules": b"(" + get(9) + inner + b"d"})
    return lambda _: zipped(kept(text("a" * letters), 9) + edm(value))


def of_one_dictionary(_):
    """Thousands of modules that name one dictionary of thousands of tensors."""
    many = b"(" + b"".join(text(str(i)) + get(1) for i in range(5000)) + b"d"
    module = persistent({"class_name": text("Conv2d")}, state=dict_of({"_parameters": get(2)}))
    modules = dict_of({str(i): module for i in range(3000)})
    return zipped(kept(tensor(), 1) + kept(many, 2) + edm(dict_of({"_modules": modules})))


def one_long_name(_):
    """Thousands of modules that name their tensor by one text of a megabyte."""
    parameters = b"(" + get(2) + get(1) + b"d"
    module = persistent({"class_name": text("Conv2d")}, state=dict_of({"_parameters": parameters}))
    modules = dict_of({str(i): module for i in range(3000)})
    long = kept(text("a" * 10**6), 2)
    return zipped(kept(tensor(), 1) + long + edm(dict_of({"_modules": modules})))


def long_list_of_buffers(_):
    """Buffers that are looked for, each, in a list."""
    many = b"(" + b"".join(text(str(i)) + get(1) for i in range(20_000)) + b"d"
    names = list_of(*(text(f"x{i}") for i in range(20_000)))
    state = {"_buffers": many, "_non_persistent_buffers_set": names}
    return zipped(kept(tensor(), 1) + edm(dict_of(state)))


def modules_of(value):
    state = dict_of({"_modules": value})
    net = persistent({"class_name": text("EDMPrecond")}, state=state)
    return program(dict_of({"ema": net}))


EDM = {
    "EDM's": (lambda _: network(), CONVERTS),
    "EDM's with a share of no labels": (lambda _: network(label_dropout=text("half")), CONVERTS),
    "a number for a network": (program(dict_of({"ema": number(1)})), "no network under 'ema'"),
    "a list of itself": (program(OF_ITSELF), "no network under 'ema'"),
    "a network of another kind": (
        program(dict_of({"ema": record(kind=name("torch.nn.modules." + "\x1b" * 200, "x"))})),
        "is not supported",
    ),
    "a list of modules": (modules_of(list_of(NONE)), "holds no model"),
    "a number of modules": (modules_of(number(3)), "holds no model"),
    "a record of modules": (modules_of(record()), "holds no model"),
    "a model that is a tensor": (zipped(edm(tensor())), "dict expected, Tensor found"),
    "parameters that are a tensor": (zipped(edm(dict_of({"_parameters": tensor()}))), DAMAGED),
    "settings that are a text": (program(edm(dict_of({"_init_kwargs": text("a")}))), "are damaged"),
    "100,000 settings": (
        lambda _: program(
            edm(dict_of({"_init_kwargs": dict_of({str(i): NONE for i in range(10**5)})}))
        ),
        "are damaged",
    ),
    "a width that is a text": (told(model_channels=text("a" * 1000)), SETTINGS),
    "a text times a billion": (
        told(model_channels=text("a"), channel_mult=list_of(number(10**9))),
        SETTINGS,
    ),
    "a list times a billion": (told(model_channels=list_of(NONE)), SETTINGS),
    "a width of 2000 bits": (told(model_channels=number(2**2000)), SETTINGS),
    "a width below 0": (told(model_channels=number(-1)), SETTINGS),
    "no width": (told(model_channels=number(float("nan"))), SETTINGS),
    "widths without end": (told(channel_mult=list_of(number(10**9) * 60)), "more than"),
    "half a million levels": (
        lambda _: told(channel_mult=list_of(number(1) * 5 * 10**5)),
        SETTINGS,
    ),
    "levels that are a text": (told(channel_mult=text("1" * 50)), SETTINGS),
    "a billion classes": (told(label_dim=number(10**9)), "a network of more than"),
    "a billion blocks": (lambda _: network(num_blocks=10**9), SETTINGS),
    "900 blocks": (lambda _: network(num_blocks=900), "ask for a larger network"),
    "a size of 0": (lambda _: network(img_resolution=0), SETTINGS),
    "levels of the square of a billion": (lambda _: network(channel_mult_emb=2**31), "more than"),
    "data without a spread": (lambda _: network(sigma_data=text("wide")), SETTINGS),
    "data of a spread below 0": (lambda _: network(sigma_data=-1.0), SETTINGS),
    "attention of a million levels": (
        lambda _: network(attn_resolutions=list_of(number(8) * 10**6)),
        "settings of|not the weights",
    ),
    "a class of another name": (
        lambda _: program(
            edm(
                dict_of({"_init_kwargs": dict_of({"model_channels": number(0)})}),
                kind="DhariwalUnet",
            )
        ),
        "did you mean 'DhariwalUNet'",
    ),
    "an encoder that colours the line": (
        program(
            edm(
                dict_of({"_init_kwargs": dict_of({"encoder_type": text("\x1b[1m" * 999)})}),
                outer=dict_of({"img_resolution": FOUR, "img_channels": FOUR}),
                kind="SongUNet",
            )
        ),
        "encoder None|more than",
    ),
    "a level of size 0": (named_so("enc.0x0_block0.conv0.weight"), NOT_EDM),
    "a level of no number": (named_so("enc.axb_block0.conv0.weight"), NOT_EDM),
    "a cell without a part": (named_so("enc.8x8_block0.weight"), NOT_EDM),
    "a tensor of no module": (named_so("weight"), NOT_EDM),
    "a stage without a cell": (named_so("enc.weight"), NOT_EDM),
    "a thousand tensors to turn": (
        named_so(*(f"enc.8x8_block{i}.qkv.weight" for i in range(1000))),
        NOT_EDM,
    ),
    "an infinite weight": (first(float("inf")), "holds NaN or infinity"),
    "a weight that is no number": (first(float("nan")), "holds NaN or infinity"),
    "whole weights": (
        lambda _: network({"model.out_conv.bias": torch.zeros(3, dtype=torch.int32)}),
        "holds whole numbers",
    ),
    "a tensor turned": (
        lambda _: network({"model.map_label.weight": torch.zeros(10, 64)}),
        "asks for",
    ),
    "a vector to turn": (lambda _: network({"model.map_label.weight": torch.zeros(640)}), NOT_EDM),
    "weights that share their numbers": (lambda _: network(shared=True), "share their numbers"),
    "modules 300 deep": (chain(300, 100), DAMAGED),
    "one dictionary of many modules": (of_one_dictionary, DAMAGED),
    "one long name in many modules": (one_long_name, DAMAGED),
    "buffers in a long list": (long_list_of_buffers, DAMAGED),
    "a module in itself": (
        program(
            dict_of({"a": record(b"}") + put(1), "b": get(1)})
            + b"0"
            + edm(dict_of({"_modules": dict_of({"a": get(1), "b": get(1)})}))
        ),
        "a module in two places",
    ),
    "parameters by number": (
        zipped(edm(dict_of({"_parameters": b"(K\1" + tensor() + b"d"}))),
        DAMAGED,
    ),
}


# DSNO's: a dictionary of tensors.


@functools.cache
def reference(kind="dsno_class_cond"):
    golden = Golden(kind)
    return golden.state, golden.config


def yaml(**changes):
    config = reference()[1]
    data = {"image_size": 16, "num_channels": 3, "time_step": "uniform"}
    model = {k: v for k, v in config.items() if k not in data and k != "num_times"}
    return json.dumps({"data": data, "model": model | changes}).encode()


def dsno(changes=None, **others):
    """The reference operator, with other tensors."""

    def make(_):
        content = io.BytesIO()
        torch.save({"ema": reference()[0] | (changes or {}) | others}, content)
        return content.getvalue()

    return make


def prefix(part):
    return next(key for key in reference()[0] if key.endswith(part))


def halved(_):
    content = io.BytesIO()
    torch.save({"ema": {k: v.half() for k, v in reference()[0].items()}}, content)
    return content.getvalue()


def shared(_):
    """A thousand tensors of 40 MB, all of them one storage of half precision."""
    content, large = io.BytesIO(), torch.zeros(10**7, dtype=torch.half)
    torch.save({"ema": {f"{i}.W": large.view(1000, 10**4) for i in range(1000)}}, content)
    return content.getvalue()


def many(_):
    """Tensors of one number each, 30,000 of them, that a part of the network might have."""
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    tensors = {
        f"1.x{i}": get(1) + tuple_of(get(2), number(i), b"))", b"\x89", b"}") + b"R"
        for i in range(30_000)
    }
    begin = kept(rebuild, 1) + kept(storage(number(30_000)), 2)
    return zipped(begin + dict_of({"ema": dict_of(tensors)}), bytes(120_000))


DSNO = {
    "DSNO's": (dsno(), CONVERTS),
    "DSNO's of half precision": (halved, CONVERTS),
    "no average": (program(dict_of({"model": b"}"})), "no tensors under 'ema'"),
    "an average of records": (program(dict_of({"ema": dict_of({"a": record()})})), "no tensors"),
    "tensors by number": (zipped(dict_of({"ema": b"(K\1" + tensor() + b"d"})), "no tensors"),
    "tensors by numbers of 60 bits": (
        zipped(dict_of({"ema": b"(" + number(2**60) + tensor() + b"d"})),
        "no tensors",
    ),
    "30,000 tensors": (many, "more than any network has"),
    "no tensors at all": (program(dict_of({"ema": b"}"})), NOT_DSNO),
    "a tensor of no number": (dsno({"W": torch.zeros(1)}), NOT_DSNO),
    "a tensor of number -1": (dsno({"all_modules.-1.W": torch.zeros(1)}), NOT_DSNO),
    "a tensor of another alphabet": (dsno({"all_modules.\u0663.W": torch.zeros(1)}), NOT_DSNO),
    "a tensor of 10^5 digits": (dsno({"9" * 10**5 + ".W": torch.zeros(1)}), NOT_DSNO),
    "a part that is none": (dsno({"all_modules.5.\x1b[1m.W": torch.zeros(1)}), NOT_DSNO),
    "a million waves": (
        lambda _: dsno({prefix("t_conv.weights1"): torch.zeros(1, 1, 10**6, 2)})(_),
        "asks for",
    ),
    "a wave without dimensions": (
        lambda _: dsno({prefix("t_conv.weights1"): torch.zeros(())})(_),
        NOT_DSNO,
    ),
    "classes that are added to all": (
        dsno(
            {
                "all_modules.2.weight": torch.zeros(10**4, 1),
                "all_modules.2.bias": torch.zeros(1, 10**4),
            }
        ),
        "asks for",
    ),
    "an operator that is no number": (
        lambda _: dsno(
            {prefix("bias"): torch.full_like(reference()[0][prefix("bias")], torch.nan)}
        )(_),
        "holds NaN or infinity",
    ),
    "an operator of whole numbers": (
        lambda _: dsno({prefix("bias"): reference()[0][prefix("bias")].int()})(_),
        "whole numbers",
    ),
    "operators that share their numbers": (shared, "share their numbers"),
    "settings of a far larger operator": (dsno(), "ask for a larger network", "imagenet64"),
    "settings that refer to themselves": (
        dsno(),
        "refers to itself",
        b"a: &a [x, x]\nb: &b [*a, *a]\ndata: *b\nmodel: *b\n",
    ),
    "settings 10,000 deep": (dsno(), "can't be read as YAML", b"[" * 10_000),
    "settings of 10 MB": (dsno(), "are the most", b"#" * 10**7),
    "settings of no text": (dsno(), "can't be read as YAML", b"\xff\xfe\x00"),
    "settings on a day that is none": (dsno(), "can't be read as YAML", b"data: 2001-99-99\n"),
    "a width of a billion": (dsno(), NOT_DSNO, yaml(nf=10**9)),
    "a text for a width": (dsno(), "the setting 'nf'", yaml(nf="a" * 60)),
    "a text for widths": (dsno(), "the setting 'ch_mult'", yaml(ch_mult="12")),
    "a billion times": (dsno(), "from 1 to 1000 times", yaml(num_t=10**9)),
    "a billion modes": (dsno(), NOT_DSNO, yaml(num_modes=10**9)),
    "settings that never come": (dsno(), "not a regular file", pipe),
}
CONVERSIONS = {("edm", key): case for key, case in EDM.items()}
CONVERSIONS |= {("dsno", key): case for key, case in DSNO.items()}
