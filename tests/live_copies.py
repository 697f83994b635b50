"""Copies of folders that someone is writing to."""

import shutil
from pathlib import Path


def copied_in_use(folder: Path, target: Path) -> Path:
    """Copies a folder as a kill at this moment would leave it.

    A snapshot of the graph that is renamed, or taken away, between listing and copying is no state that a kill could
    leave: then all is copied anew.

    Args:
        folder: in use, maybe written to.
        target: does not exist.

    Returns:
        `target`.

    Raises:
        shutil.Error: something else can not be copied.
        TimeoutError: it changed each time.
    """
    for _ in range(20):
        try:
            return Path(shutil.copytree(folder, target))
        except shutil.Error as error:
            if not all("No such file" in why for _, _, why in error.args[0]):
                raise
            shutil.rmtree(target)
    raise TimeoutError(f"{folder} did not hold still")
