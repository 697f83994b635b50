import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from twinsight_core.host import accelerators
from twinsight_core.host.accelerators import has_accelerator, may_have_accelerator

LOOK_ONCE = accelerators._has_plugins


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without plugins, and an environment that says nothing."""
    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(accelerators, "find_spec", lambda _name: None)
    monkeypatch.setattr(accelerators, "entry_points", lambda *, group: EntryPoints(()))  # noqa: ARG005
    monkeypatch.setattr(accelerators, "_has_plugins", LOOK_ONCE.__wrapped__)


def test_without_plugins_there_is_none() -> None:
    assert not may_have_accelerator()


@pytest.mark.parametrize("module", ["jax_plugins", "libtpu"])
def test_an_installed_plugin_may_bring_one(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "find_spec", lambda name: ModuleSpec(name, None) if name == module else None)
    assert may_have_accelerator()


def test_an_entry_point_may_bring_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint("metal", "jax_plugins.metal", "jax_plugins")
    monkeypatch.setattr(accelerators, "entry_points", lambda *, group: EntryPoints((plugin,)).select(group=group))
    assert may_have_accelerator()


def test_what_is_installed_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def told(*, group: str) -> EntryPoints:
        asked.append(group)
        return EntryPoints(())

    monkeypatch.setattr(accelerators, "entry_points", told)
    monkeypatch.setattr(accelerators, "_has_plugins", LOOK_ONCE)
    LOOK_ONCE.cache_clear()
    assert [may_have_accelerator() for _ in range(3)] == [False] * 3
    LOOK_ONCE.cache_clear()
    assert asked == ["jax_plugins"]


def test_a_library_of_the_environment_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/opt/libtpu.so")
    assert may_have_accelerator()


@pytest.mark.parametrize(
    ("name", "platforms", "may"),
    [
        ("JAX_PLATFORMS", "cpu", False),
        ("JAX_PLATFORMS", "cuda,cpu", True),
        ("JAX_PLATFORM_NAME", "CPU", False),
        ("JAX_PLATFORM_NAME", "gpu", True),
    ],
)
def test_the_environment_keeps_jax_to_platforms(
    name: str, platforms: str, *, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerators, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setenv(name, platforms)
    assert may_have_accelerator() == may


def test_jax_is_asked_where_it_is_there_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert has_accelerator()


def test_jax_is_not_imported_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    assert not has_accelerator()
    assert "jax" not in sys.modules
