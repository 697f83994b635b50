from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from twinsight_core.errors import InvalidInput, NotFound, PackageError
from twinsight_core.packages import package_folders
from twinsight_server.config import ServerConfig
from twinsight_server.inference.models import Models, read_packages
from twinsight_server.metrics import Metrics

Offered = Callable[..., Models]


@pytest.fixture
def offered(tmp_path: Path) -> Offered:
    """Returns the models of a server that is started with some of those that ship; none is compiled."""

    def made(names: str, default: str = "") -> Models:
        config = ServerConfig(models=names, default_model=default, cache_dir=tmp_path)
        return Models(read_packages(config), config, Metrics())

    return made


def test_only_the_packages_that_are_asked_for_are_read(tmp_path: Path) -> None:
    shutil.copytree(package_folders()["glyph"], tmp_path / "models" / "mine")
    (tmp_path / "models" / "half-copied").mkdir()
    config = ServerConfig(models="mine", models_dir=tmp_path / "models", cache_dir=tmp_path)
    assert list(read_packages(config)) == ["mine"]
    with pytest.raises(PackageError, match=r"half-copied/model\.json: the file is missing"):
        read_packages(replace(config, models=""))
    with pytest.raises(PackageError, match=r"available: `base`, .*`half-copied`.*`mine`"):
        read_packages(replace(config, models="gone"))


def test_base_is_the_default_where_it_is_served(offered: Offered) -> None:
    assert offered("").default_name == "base"
    assert offered("glyph,base").get("").name == "base"
    assert offered("glyph,base", "glyph ").get("").name == "glyph"


def test_the_only_embedding_model_is_the_default_without_base(offered: Offered) -> None:
    models = offered("cells,glyph")
    assert models.default_name == "glyph"
    assert models.get("").name == models.get_for("embedding", "").name == "glyph"
    assert models.get_for("detection", "").name == "cells"


def test_without_base_and_an_only_embedding_model_there_is_no_default(offered: Offered) -> None:
    models = offered("cells")
    assert models.default_name == ""
    assert models.get_for("detection", "").name == "cells"
    with pytest.raises(NotFound, match="No model for embedding is loaded"):
        models.get_for("embedding", "")
    with pytest.raises(InvalidInput, match="`model` must be set: there is no default model") as refused:
        models.get("")
    assert (refused.value.reason, refused.value.field) == ("MODEL_AMBIGUOUS", "model")


def test_of_several_embedding_models_without_base_none_is_the_default(tmp_path: Path) -> None:
    config = ServerConfig(models="glyph", cache_dir=tmp_path)
    glyph = read_packages(config)["glyph"]
    models = Models({"glyph": glyph, "other": replace(glyph, name="other")}, config, Metrics())
    assert models.default_name == ""
    with pytest.raises(InvalidInput, match="`model` must be set; available for embedding: `glyph`, `other`") as refused:
        models.get_for("embedding", "")
    assert refused.value.reason == "MODEL_AMBIGUOUS"


@pytest.mark.parametrize("given", ["base", "nope"])
def test_a_default_that_was_given_and_is_not_served_is_refused_with_the_option(offered: Offered, given: str) -> None:
    with pytest.raises(PackageError) as refused:
        offered("glyph", given)
    assert refused.value.message == (
        f"Default model `{given}` does not exist; available: `glyph`. Give one of these as `--default-model`."
    )
