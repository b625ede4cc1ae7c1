"""The published latent DiffiTs, for the tests of what is made of them."""

from helpers import Golden
from overtone.convert import from_published


def published(name):
    golden = Golden(name)
    state = {key: golden[f"state.{key}"] for key in golden.state}
    return golden, state, from_published("diffit-latent", state, golden.config)
