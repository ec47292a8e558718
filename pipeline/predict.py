"""Raw media to emotion, through the very clip path that the model was trained on."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.augment import to_float
from pipeline.batch import decode_crops, segment_positions
from pipeline.checkpoint import BundleFacts, load_weights, read_bundle
from pipeline.config import Recipe
from pipeline.models.registry import build_model
from preprocessing.clip import ClipProcessor
from preprocessing.datasets.folder import list_media


class Predictor:
    """A loaded bundle: `predict` takes samples, `classify` takes clips that are decoded already.

    Use it as a context manager, or call `close`: it holds a decoding process.
    """

    def __init__(self, bundle: str | Path, device: str | None = None) -> None:
        self.recipe: Recipe
        self.facts: BundleFacts
        self.recipe, self.facts, weights = read_bundle(Path(bundle))
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        data = self.recipe.data
        # The bundle holds every weight: neither a hub nor the file of the pretrained encoder is needed again.
        settings = self.recipe.model.model_copy(update={"pretrained": False, "weights": None})
        model = build_model(settings, classes=len(self.facts.classes), frames=data.frames, image_px=data.image_px)
        load_weights(weights, model)
        self.model = model.to(self.device).eval()
        self._clips: ClipProcessor | None = None

    @torch.inference_mode()
    def classify(self, video_BTHWC: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 B,K, of uint8 RGB clips B,T,H,W,3."""
        x_BCTHW = to_float(torch.from_numpy(np.ascontiguousarray(video_BTHWC)).to(self.device))
        return self.model(x_BCTHW).logits.float().softmax(-1).cpu().numpy()

    def predict(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """One row per sample, in order: see `prediction_row`; bad media give a row with `error` set."""
        for sample in samples:
            yield self._predict(sample)

    def _predict(self, sample: dict[str, Any]) -> dict[str, Any]:
        self._clips = self._clips or ClipProcessor(self.recipe.preprocess)
        clip = self._clips.process(sample)
        if "kind" in clip:
            return prediction_row(sample, self.facts.classes, error=f"{clip['kind']}: {clip['message']}")
        crops, data = clip["frames"], self.recipe.data
        positions = segment_positions(len(crops), data.frames)
        video = decode_crops([crops[p] for p in positions], data.image_px)
        share = float(np.mean(clip["face_found"]))
        return prediction_row(sample, self.facts.classes, self.classify(video[None])[0], share, len(crops))

    def close(self) -> None:
        """Stop the decoding process."""
        if self._clips is not None:
            self._clips.close()
            self._clips = None

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prediction_row(
    sample: dict[str, Any],
    classes: list[str],
    probabilities: np.ndarray | None = None,
    face_found_share: float | None = None,
    frames: int = 0,
    error: str | None = None,
) -> dict[str, Any]:
    """One prediction: sample_id, uri, emotion, probability, p_<class>, face_found_share, frames, error."""
    best = int(np.argmax(probabilities)) if probabilities is not None else None
    row: dict[str, Any] = {
        "sample_id": sample["sample_id"],
        "uri": sample["uris"][0] if sample["media"] != "frames" else str(Path(sample["uris"][0]).parent),
        "emotion": None if best is None else classes[best],
        "probability": None if best is None else float(probabilities[best]),
    }
    row |= {f"p_{c}": None if best is None else float(probabilities[k]) for k, c in enumerate(classes)}
    return row | {"face_found_share": face_found_share, "frames": frames, "error": error}


def predict_files(bundle: str | Path, uris: Iterable[str]) -> list[dict[str, Any]]:
    """Predict videos, images or folders by path; rows as in `prediction_row`."""
    with Predictor(bundle) as predictor:
        return [row for uri in uris for row in predictor.predict(list_media(uri))]
