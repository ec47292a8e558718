"""One reader per data set: a tree on disk becomes the sample table."""

from preprocessing.config import DatasetSettings
from preprocessing.manifest import Manifest


def read(settings: DatasetSettings) -> Manifest:
    """Read the data set with the reader that the settings name.

    Raises:
        ManifestError: every fault of the tree and of its annotation files at once.
    """
    if settings.reader == "dfew":
        from preprocessing.datasets import dfew as reader
    else:
        from preprocessing.datasets import folder as reader
    return reader.read(settings)
