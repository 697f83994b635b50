"""Architectures by name: the only way from a model package's JSON to a network.

A package names an architecture and gives its configuration as plain values; nothing else of it reaches a constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flax import nnx

from twinsight_core.models.siamese import SiameseConfig, SiameseNetwork

Config = SiameseConfig
"""The configuration of any architecture."""

Network = SiameseNetwork
"""A network of any architecture."""


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        config: frozen dataclass of the configuration, from and to plain JSON.
        build: makes the network with first weights.
    """

    config: type[Config]
    build: Callable[[Config, nnx.Rngs], Network]


def _siamese(config: SiameseConfig, rngs: nnx.Rngs) -> SiameseNetwork:
    return SiameseNetwork(config=config, rngs=rngs)


ARCHITECTURES: dict[str, Architecture] = {"siamese": Architecture(config=SiameseConfig, build=_siamese)}
