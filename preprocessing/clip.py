"""The whole path of one clip: a sample becomes a clip row or a reject row. No Ray.

A clip row holds the aligned crops and everything that says how they came about; columns: `preprocessing.shards`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from preprocessing.config import FaceSettings, PreprocessSettings
from preprocessing.decode import source_sha256
from preprocessing.errors import ClipError, RejectKind, Stage
from preprocessing.faces.align import (
    TEMPLATES,
    DegenerateFaceError,
    centre_square,
    looks_like_face,
    sharpness,
    similarity,
    warp,
)
from preprocessing.faces.centerface import CenterFace
from preprocessing.faces.detection import Detection
from preprocessing.faces.track import borrow_nearest, bridge_gaps, link, pick, smooth
from preprocessing.frames import Frames
from preprocessing.guard import GuardedDecoder

logger = logging.getLogger(__name__)

Row = dict[str, Any]
NO_BOX, NO_LANDMARKS = [float("nan")] * 4, [float("nan")] * 10
NO_ALIGNER = "none"


@dataclass(frozen=True)
class Face:
    """The kept face of one frame, as far as it is known."""

    found: Detection | None
    landmarks: np.ndarray | None
    """float64 (5, 2) source pixels that align the crop: found, bridged or borrowed; None = centre crop."""


class ClipProcessor:
    """Turns samples into rows. Holds a detector and a decoding process: one per worker, closed after use."""

    def __init__(self, settings: PreprocessSettings, fingerprint: str = "") -> None:
        cv2.setNumThreads(1)  # workers are the unit of parallelism; OpenCV's own threads would fight over the cores
        self.settings, self.fingerprint = settings, fingerprint
        self._stage: Stage = "read"
        faces = settings.faces
        self._decoder = GuardedDecoder(settings.decode)
        self._detector = CenterFace(faces.detect_px, faces.min_score) if faces.aligner == "centerface" else None

    def process(self, sample: Mapping[str, Any]) -> Row:
        """A clip row, or a reject row (it has `kind`); bad media never raise.

        Args:
            sample: one row of SAMPLE_SCHEMA.
        """
        try:
            return self._clip(sample)
        except ClipError as error:
            return reject_row(sample, error.stage, error.kind, error.message, self.fingerprint)
        except Exception as error:  # one clip must never stop a data set; the reject row says what happened
            logger.exception("%s: internal fault", sample["sample_id"])
            message = f"{type(error).__name__}: {error}"
            return reject_row(sample, self._stage, RejectKind.INTERNAL, message, self.fingerprint)

    def close(self) -> None:
        """End the decoding process."""
        self._decoder.close()

    def _clip(self, sample: Mapping[str, Any]) -> Row:
        self._stage = "read"
        uris = list(sample["uris"])
        self._stage = "decode"
        clip = self._decoder.decode(sample["media"], uris, self.settings.sampling.frames)
        digest = source_sha256(uris)
        self._stage = "face"
        faces = self._faces(clip)
        found = [face.found for face in faces]
        self._stage = "align"
        crops = [self._crop(image, face) for image, face in zip(clip.images, faces, strict=True)]
        self._stage = "encode"
        return {
            **{key: sample[key] for key in ("sample_id", "dataset", "label", "dataset_label", "subject", "media")},
            "splits": list(sample["splits"]),
            "uri": uris[0],
            "frames": [_encode(crop, self.settings.faces.jpeg_quality) for crop in crops],
            "frame_index": clip.index,
            "timestamp_ms": clip.timestamp_ms,
            "face_found": [f is not None for f in found],
            "box": [NO_BOX if f is None else f.box.tolist() for f in found],
            "landmarks": [NO_LANDMARKS if f.landmarks is None else f.landmarks.ravel().tolist() for f in faces],
            "score": [0.0 if f is None else f.score for f in found],
            "sharpness": [sharpness(crop) for crop in crops],
            "source_width": clip.width,
            "source_height": clip.height,
            "source_fps": clip.fps,
            "source_frames": clip.frame_count,
            "source_codec": clip.codec,
            "source_sha256": digest,
            "decoder": clip.decoder,
            "decoder_version": clip.decoder_version,
            "aligner": self.settings.faces.aligner,
            "aligner_version": self._detector.version if self._detector else NO_ALIGNER,
            "salvaged": clip.salvaged,
            "fingerprint": self.fingerprint,
        }

    def _faces(self, clip: Frames) -> list[Face]:
        if self._detector is None:
            return [Face(None, None)] * len(clip.images)
        detections = [
            [face for face in found if looks_like_face(face.landmarks)] for found in self._detector.detect(clip.images)
        ]
        times = clip.timestamp_ms if np.isfinite(clip.timestamp_ms).all() else [float(i) for i in clip.index]
        return choose_faces(detections, times, clip.width, clip.height, self.settings.faces)

    def _crop(self, image: np.ndarray, face: Face) -> np.ndarray:
        size = self.settings.faces.crop_px
        if face.landmarks is None:
            return centre_square(image, size)
        try:
            matrix = similarity(face.landmarks, TEMPLATES[self.settings.faces.template] * size)
            return warp(image, matrix, size)
        except DegenerateFaceError as error:
            raise ClipError(RejectKind.NO_FACE, "align", str(error)) from error


def choose_faces(
    detections: Sequence[Sequence[Detection]],
    timestamp_ms: Sequence[float],
    width: int,
    height: int,
    settings: FaceSettings,
) -> list[Face]:
    """Keep one face of a clip and decide about the frames without it.

    Raises:
        ClipError: no_face (in no frame), face_share (in too few; with `missing: reject`, not in all after bridging).
    """
    count = len(detections)
    track = pick(link(detections), settings.pick, width, height)
    if track is None:
        raise ClipError(
            RejectKind.NO_FACE, "face", f"no face in any of {count} frames (faces.min_score {settings.min_score:g})"
        )
    found = [track.detections.get(i) for i in range(count)]
    share = len(track.detections) / count
    if share < settings.min_found_share:
        message = f"a face in {len(track.detections)} of {count} frames"
        raise ClipError(
            RejectKind.FACE_SHARE, "face", f"{message}, faces.min_found_share is {settings.min_found_share:g}"
        )
    points = smooth([None if f is None else f.landmarks for f in found], settings.smooth)
    points = bridge_gaps(points, timestamp_ms, settings.max_gap_frames)
    if settings.missing == "nearest":
        points = borrow_nearest(points, timestamp_ms)
    elif settings.missing == "reject" and any(p is None for p in points):
        gap = sum(p is None for p in points)
        message = f"no face in {gap} of {count} frames, and faces.missing is reject"
        raise ClipError(RejectKind.FACE_SHARE, "face", message)
    return [Face(f, p) for f, p in zip(found, points, strict=True)]


def reject_row(sample: Mapping[str, Any], stage: str, kind: str, message: str, fingerprint: str) -> Row:
    """A row of REJECT_SCHEMA."""
    uris = list(sample["uris"])
    return {
        **{key: sample[key] for key in ("sample_id", "dataset", "label")},
        "splits": list(sample["splits"]),
        "uri": uris[0] if uris else "",
        "stage": str(stage),
        "kind": str(kind),
        "message": message,
        "fingerprint": fingerprint,
    }


def _encode(crop: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ClipError(RejectKind.INTERNAL, "encode", f"a crop of {crop.shape} could not be encoded")
    return data.tobytes()
