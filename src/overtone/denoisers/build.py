"""A network and a preconditioning made a denoiser, or a solution operator."""

from __future__ import annotations

from typing import Any

from overtone.denoisers.denoiser import Model
from overtone.denoisers.experts import ExpertDenoiser
from overtone.denoisers.intervals import intervals_of
from overtone.denoisers.network import NetworkDenoiser
from overtone.denoisers.operator import SolutionOperator
from overtone.denoisers.preconditioning import Preconditioning
from overtone.networks.network import Network


def denoiser_of(network: Network, preconditioning: Preconditioning) -> Model:
    """The network's denoiser; its networks', each for its interval, if it is experts; or, of a
    network of trajectories, the solution operator.

    Raises `ValueError` for parts that do not belong together.
    """
    config, own = network.config, preconditioning
    if config.makes_trajectories != own.of_trajectories:
        raise ValueError(
            f"a {config.kind} returns whole trajectories: its preconditioning is that of an"
            f" operator, not '{own.kind}'"
            if config.makes_trajectories
            else f"a {config.kind} is not an operator: its preconditioning can't be '{own.kind}'"
        )
    if own.for_network(config) != own:
        raise ValueError(
            f"the log-SNRs of the preconditioning are not those that the {config.kind} was built"
            f" with, {config.log_snrs}: use OperatorPreconditioning().for_network(config)"
        )
    if config.learns_variance and not own.takes_variance:
        raise ValueError(
            f"a {config.kind} with learned_variance needs a 'vp' preconditioning, not"
            f" '{own.kind}': ADM_DIFFUSION, say"
        )
    if own.of_trajectories:
        operator: Any = SolutionOperator
        return operator(network, own)
    if network.experts is None:
        return NetworkDenoiser(network, own)
    return ExpertDenoiser(
        [NetworkDenoiser(expert, own) for expert in network.experts],
        intervals_of(config.boundaries),
    )
