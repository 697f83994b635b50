"""Compiled networks kept between starts.

A start that finds them takes a third of the CPU time that compiling takes. Kept programs are run, so the folder is
trusted; a file that a full or failing disk has damaged is detected by its digest and compiled again.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from twinsight_core.executors.kept_files import keep, read_kept

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptPrograms:
    """The compiled forms of one network, as files of a folder.

    Attributes:
        folder: of the files; created when something is kept.
        network: names the network, in letters and digits.
        exported: names what exported it: another export is another program, and replaces the earlier one.
    """

    folder: Path
    network: str
    exported: str

    def load(self, environment: str, form: str) -> bytes | None:
        """Returns a program; None if it was not kept, or is damaged.

        Args:
            environment: what a program depends on besides the network: the compiler, the machine.
            form: names the program among those of the network, in letters, digits and hyphens.
        """
        return read_kept(self._file(environment, form))

    def keep(self, environment: str, form: str, program: bytes) -> None:
        """Keeps a program and removes those of other exports and environments; does nothing if the disk is full."""
        if not keep(self._file(environment, form), program):
            return
        try:
            for other in self.folder.glob(f"{self.network}.*.program"):
                if not other.name.startswith(self._prefix(environment)):
                    other.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("can't delete an old compiled network: %s", error)

    def _file(self, environment: str, form: str) -> Path:
        return self.folder / f"{self._prefix(environment)}{form}.program"

    def _prefix(self, environment: str) -> str:
        made_by = hashlib.sha256(f"{self.exported} {environment}".encode()).hexdigest()[:16]
        return f"{self.network}.{made_by}."
