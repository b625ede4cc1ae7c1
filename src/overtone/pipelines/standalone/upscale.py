"""Enlarges a picture by the model beside this file: python upscale.py PICTURE [SEED [CLASS]]"""

import sys

import numpy as np
from PIL import Image
from sample import HERE, MODEL, program

PATCH = MODEL["patch"]


def patched(x, matrix):
    """The product of each patch, row by row, with a matrix."""
    b, c, h, w = x.shape
    parts = x.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH).swapaxes(3, 4)
    made = (parts.reshape(-1, PATCH**2) @ matrix.T).reshape(parts.shape)
    return made.swapaxes(3, 4).reshape(x.shape)


def upscale(pictures, noise, *labels):
    """pictures (b, c, h, w) in [-1, 1], noise (b, c, PATCH h, PATCH w) of the process."""
    x, past = pictures.repeat(PATCH, 2).repeat(PATCH, 3), []
    x = x + np.float32(MODEL["sigma_start"]) * noise
    for step, matrix in zip(MODEL["steps"], np.load(HERE / "matrices.npy"), strict=True):
        c_skip, c_out, c_in, c_noise, scale, gamma = np.float32(step["numbers"])
        network = program(step["network"])
        null = [np.full_like(own, MODEL["num_classes"]) for own in labels]
        given = (c_in * x, np.full(len(x), c_noise))
        out = [network(*given, *own)[:, : x.shape[1]] for own in (labels, null)[: 1 + (scale != 1)]]
        past = [c_skip * x + c_out * (out[-1] + scale * (out[0] - out[-1])), *past]
        x = patched(np.tensordot(np.float32(step["estimate"]), past, 1), matrix) + gamma * x
    return x


def noise_of(seed):
    """White noise, and some of it summed over blocks."""
    white, other = np.random.default_rng(seed).standard_normal((2, 1, *MODEL["shape"]))
    rolled = [np.roll(other, (i, j), (2, 3)) for i in range(PATCH) for j in range(PATCH)]
    return np.float32((white + MODEL["block"] * sum(rolled) / PATCH) / MODEL["deviation"])


if __name__ == "__main__":
    name, seed, label = [*sys.argv[1:], 0, 0][:3]
    (channels, height, width), mode = MODEL["shape"], "L" if MODEL["shape"][0] == 1 else "RGB"
    picture = Image.open(name).convert(mode).resize((width // PATCH, height // PATCH))
    low = np.asarray(picture, np.float32).reshape(1, height // PATCH, width // PATCH, channels)
    labels = [np.array([int(label)])] if MODEL["num_classes"] else []
    made = upscale(low.transpose(0, 3, 1, 2) / 127.5 - 1, noise_of(int(seed)), *labels)[0]
    pixels = np.clip((made + 1) * 127.5, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save("upscaled.png")
