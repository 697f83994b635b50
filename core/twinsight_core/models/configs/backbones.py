"""Configurations of backbones by name."""

from __future__ import annotations

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.resnet import ResNetConfig

BackboneConfig = MobileNetConfig | ResNetConfig
"""The configuration of any backbone."""


_CONFIGS: dict[str, type[MobileNetConfig] | type[ResNetConfig]] = {
    MobileNetConfig.NAME: MobileNetConfig,
    ResNetConfig.NAME: ResNetConfig,
}


def backbone_config(fields: JsonFields) -> BackboneConfig:
    """Returns the configuration that a package's JSON holds.

    Raises:
        ValueError: the name is unknown, or a value is of the wrong type or breaks its rule.
    """
    return _CONFIGS[fields.choice("name", tuple(_CONFIGS))].from_json(fields)
