"""The registered model: MLflow runs this file to load a bundle (models from code, nothing pickled)."""

from typing import Any

import mlflow
import pandas as pd


class EmotionModel(mlflow.pyfunc.PythonModel):
    """Emotion of the faces in media files."""

    def load_context(self, context: Any) -> None:
        """Remember where the bundle lies."""
        self.bundle = context.artifacts["bundle"]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify media by path.

        Args:
            model_input: column `uri`: a video, an image or a folder of frames each.

        Returns:
            One row per file: emotion, probability, p_<class>, face_found_share, frames, error.
        """
        # Here, not above: logging a model runs this file, and needs neither torch nor a decoder.
        from pipeline.predict import predict_files

        return pd.DataFrame(predict_files(self.bundle, model_input["uri"].tolist()))


mlflow.models.set_model(EmotionModel())
