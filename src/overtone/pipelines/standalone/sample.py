"""Samples from the model beside this file, without Overtone: python sample.py [SEED [CLASS]]"""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
MODEL = json.loads((HERE / "model.json").read_text())


@cache
def program(name):
    if name.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(HERE / name)
        names = [given.name for given in session.get_inputs()]
        return lambda *given: session.run(None, dict(zip(names, given, strict=True)))[0]
    import torch

    module = torch.export.load(HERE / name).module()
    return lambda *given: module(*map(torch.from_numpy, given)).detach().numpy()


def sample(noise, *labels):
    x, past = np.float32(MODEL["sigma_start"]) * noise, []
    for step in MODEL["steps"]:
        c_skip, c_out, c_in, c_noise, scale, gamma = np.float32(step["numbers"])
        network = program(step["network"])
        null = [np.full_like(own, MODEL["num_classes"]) for own in labels]
        given = (c_in * x, np.full(len(x), c_noise))
        out = [network(*given, *own)[:, : x.shape[1]] for own in (labels, null)[: 1 + (scale != 1)]]
        on = MODEL["guided_channels"] or slice(None)
        out[0][:, on] = out[-1][:, on] + scale * (out[0][:, on] - out[-1][:, on])
        past = [c_skip * x + c_out * out[0], *past]
        x = (1 - gamma) * np.tensordot(np.float32(step["estimate"]), past, 1) + gamma * x
    x = program(MODEL["last"])(x, *([] if MODEL["steps"] else labels)) if MODEL["last"] else x
    return x[:, -1] if x.ndim == 5 else x  # an operator, which is told the class, gives all states


if __name__ == "__main__":
    sys.exit("this model enlarges: python upscale.py PICTURE") if "patch" in MODEL else None
    seed, label = [*map(int, sys.argv[1:]), 0, 0][:2]
    noise = np.random.default_rng(seed).standard_normal((1, *MODEL["shape"]), np.float32)
    pixels = sample(noise, *([np.array([label])] if MODEL["num_classes"] else []))[0]
    pixels = np.clip((pixels + 1) * 127.5, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save("sample.png")
