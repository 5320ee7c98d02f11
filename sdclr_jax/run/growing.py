"""Files that grow line by line, on a disk or in a bucket."""

import contextlib
import pathlib
import shutil
from collections.abc import Callable

from sdclr_jax import files


class Growing:
    """Files of a folder that grow line by line.

    On a disk they grow where they are. For a bucket, whose objects do not grow, they do so on the disk of this machine,
    and `publish` puts those that have changed into the bucket.

    Args:
        folder: on a disk or in a bucket.
        still_held: raises UserError where another process holds the folder by now.

    Attributes:
        at: the folder to write to.
    """

    def __init__(self, folder: files.Path, still_held: Callable[[], None]):
        self._folder, self._still_held = folder, still_held
        self._published: dict[pathlib.Path, tuple[int, int]] = {}  # size and time of change
        self._scratch = contextlib.ExitStack()
        self.at = self._scratch.enter_context(files.on_this_machine()) if files.in_bucket(folder) else folder

    def publish(self) -> None:
        """Put what has been written into the bucket.

        Raises:
            UserError: the bucket cannot be written, or another process holds the folder.
        """
        if not files.in_bucket(self._folder):
            return
        self._still_held()
        for path in sorted(path for path in self.at.rglob("*") if path.is_file()):
            size, changed = path.stat().st_size, path.stat().st_mtime_ns
            if self._published.get(path) != (size, changed):
                with files.replacing(self._folder / path.relative_to(self.at).as_posix()) as part:
                    shutil.copyfile(path, part)
                self._published[path] = size, changed

    def close(self) -> None:
        """Publish, and remove what is on the disk of this machine."""
        with self._scratch:
            self.publish()
