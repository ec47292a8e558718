"""Shards to decoded clips: Ray Data reads, selects and decodes; each worker gets its share."""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import ray
import ray.data
import ray.train
from ray.data import RandomSeedConfig

from pipeline.batch import decode_crops, segment_positions
from preprocessing.shards import ShardSet

INDEX_COLUMNS = ["sample_id", "label", "subject", "splits"]
TRAIN_MARGIN = 1.15
"""Training clips are stored this much larger than the model's input, so that cropping does not enlarge."""


def read_index(shard_set: ShardSet) -> pa.Table:
    """Columns sample_id, label, subject and splits of every clip of a shard set."""
    return pads.dataset([str(p) for p in shard_set.parts()], format="parquet").to_table(columns=INDEX_COLUMNS)


def clip_dataset(
    shard_set: ShardSet, ids: list[str], *, frames: int, side_px: int, shuffle_seed: int | None = None
) -> ray.data.Dataset:
    """Ray Data set of decoded clips: sample_id, label (name) and video, uint8 frames,side_px,side_px,3.

    Args:
        ids: the samples to keep, each exactly once.
        frames: frames per clip, one from the centre of each equal segment of those stored.
        shuffle_seed: shuffle the encoded rows anew (and repeatably) at each execution.
    """
    chosen = ray.put(frozenset(ids))
    columns = ["sample_id", "label", "frames"]
    clips = ray.data.read_parquet([str(p) for p in shard_set.parts()], columns=columns)
    clips = clips.map_batches(_keep, fn_kwargs={"chosen": chosen}, batch_format="pyarrow", zero_copy_batch=True)
    if shuffle_seed is not None:
        clips = clips.random_shuffle(seed=RandomSeedConfig(seed=shuffle_seed, reseed_after_execution=True))
    arguments = {"frames": frames, "side_px": side_px}
    return clips.map_batches(_decode_rows, fn_kwargs=arguments, batch_format="pyarrow", batch_size=16)


def _keep(table: pa.Table, chosen: Any) -> pa.Table:
    ids = ray.get(chosen) if isinstance(chosen, ray.ObjectRef) else chosen
    return table.filter(pa.array([i in ids for i in table["sample_id"].to_pylist()], pa.bool_()))


def _decode_rows(table: pa.Table, frames: int, side_px: int) -> dict[str, np.ndarray]:
    cv2.setNumThreads(1)
    clips = []
    for crops in table["frames"].to_pylist():
        positions = segment_positions(len(crops), frames)
        unique, inverse = np.unique(positions, return_inverse=True)
        clips.append(decode_crops([crops[p] for p in unique], side_px)[inverse])
    video = np.stack(clips) if clips else np.empty((0, frames, side_px, side_px, 3), np.uint8)
    return {
        "sample_id": np.asarray(table["sample_id"].to_pylist(), dtype=object),
        "label": np.asarray(table["label"].to_pylist(), dtype=object),
        "video": video,
    }


class ExactSplit(ray.train.DataConfig):
    """Train is dealt out equally; every other data set is dealt out whole, each row to exactly one worker."""

    def configure(self, datasets, world_size, worker_handles, worker_node_ids, **kwargs):
        """See ray.train.DataConfig.configure."""
        shares = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            splits = dataset.streaming_split(world_size, equal=name == "train", locality_hints=worker_node_ids)
            for share, split in zip(shares, splits, strict=True):
                share[name] = split
        return shares
