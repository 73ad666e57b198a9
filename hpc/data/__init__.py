"""Text to tokens on disk (`prepare`), and tokens on disk to batches (`open_dataset`, `Batches`)."""

from asiarch.hpc.data.batches import Batches, document_boundaries, evaluation_windows
from asiarch.hpc.data.dataset import Dataset, Split, open_dataset
from asiarch.hpc.data.manifest import Manifest
from asiarch.hpc.data.preparation import Progress, prepare

__all__ = [
    "Batches",
    "Dataset",
    "Manifest",
    "Progress",
    "Split",
    "document_boundaries",
    "evaluation_windows",
    "open_dataset",
    "prepare",
]
