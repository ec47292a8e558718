"""The typed tree behind a recipe: preprocessing, model, data, optimisation, run.

One recipe serves every command; `python -m jobs.<verb> recipe.yaml key.subkey=value`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from preprocessing.config import PreprocessSettings, Settings, load


class HdfSettings(Settings):
    """HDF: X3D with DAM after each stage (specification: arXiv 2507.15765 and docs/models.md)."""

    name: Literal["hdf"] = "hdf"
    depths: tuple[int, ...] = (3, 5, 11, 7)
    """Blocks per X3D stage: (3, 5, 11, 7) is XS, S and M; (5, 10, 25, 15) is L."""
    widths: tuple[int, ...] = (24, 48, 96, 192)
    """Channels per X3D stage."""
    head: Literal["plain", "x3d"] = "plain"
    """`plain` pools and classifies; `x3d` is the stock head of X3D."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout before the classifier."""
    dam: bool = True
    """Attach a DAM after each stage."""
    variant: Literal["paper", "released"] = "paper"
    """DAM and DSM as the paper's figure has them, or as the authors' release has them."""
    weights: str | None = None
    """Local X3D checkpoint (public names, safetensors or torch); the classifier is not taken from it."""
    zero_init: bool = True
    """Start every residual block as the identity, as X3D does; `false` learns sooner where steps are few."""

    @model_validator(mode="after")
    def _stages_agree(self) -> "HdfSettings":
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ValueError(f"depths {self.depths} and widths {self.widths} must name the same stages")
        if min(self.depths) < 1 or min(self.widths) < 8:
            raise ValueError(f"depths {self.depths} must be >= 1 and widths {self.widths} >= 8")
        return self


class HkaferSettings(Settings):
    """HKAFER: HeKA adapters and a DBIR router on a frozen timm encoder (reconstructed from the abstract)."""

    name: Literal["hkafer"] = "hkafer"
    encoder: str = "vit_base_patch16_224"
    """timm name of a vision transformer."""
    encoder_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm.create_model, e.g. {img_size: 96}."""
    pretrained: bool = False
    """Fetch the encoder's weights from the model hub (needs a network)."""
    weights: str | None = None
    """Local safetensors file with the encoder's weights."""
    scales: tuple[int, ...] = (4, 8, 16, 32)
    """One HeKA adapter per scale: the size of its left Kronecker factor."""
    rank: int = Field(default=4, ge=1)
    """Rank of each right Kronecker factor."""
    alpha: float = Field(default=4.0, gt=0)
    """Adapter gain: the sum of the adapters is multiplied by alpha / rank."""
    router: Literal["none", "static", "global", "regional", "dual"] = "dual"
    """How adapters are weighted per sample; `dual` is DBIR, the others are ablations."""
    router_width: int = Field(default=8, ge=1)
    """Width d of the router's branches."""
    router_tau: float = Field(default=1.0, gt=0)
    """Temperature of the routing softmax."""
    balance: float = Field(default=0.01, ge=0)
    """Coefficient of the load-balance term."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _scales_rise(self) -> "HkaferSettings":
        if not self.scales or list(self.scales) != sorted(set(self.scales)) or self.scales[0] < 1:
            raise ValueError(f"scales {self.scales} must be positive and strictly rising")
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights exclude each other: choose one source")
        return self


ModelSettings = Annotated[HdfSettings | HkaferSettings, Field(discriminator="name")]


class AugmentSettings(Settings):
    """Clip-consistent augmentation of training batches: one draw per clip."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    min_area: float = Field(default=0.7, gt=0, le=1)
    """Smallest share of the crop's area that the random resized crop keeps; 1 = no cropping."""
    jitter: float = Field(default=0.2, ge=0, lt=1)
    """Strength of brightness, contrast and saturation jitter."""


class DataSettings(Settings):
    """Which clips train, validate and test, and how they become batches."""

    split: str = "fold1"
    """Split to use: rows marked `<split>/train` train, rows marked `<split>/test` test."""
    val_share: float = Field(default=0.15, ge=0, lt=0.5)
    """Share of train cut off for validation, whole subjects where subjects are known."""
    test_share: float = Field(default=0.2, ge=0, lt=0.5)
    """Share of train cut off for testing, only where the split has no test part of its own."""
    frames: int = Field(default=16, ge=1, le=512)
    """Frames per clip that the model sees, drawn from those stored."""
    image_px: int = Field(default=112, ge=16, le=1024)
    """Side of the model's input in pixels; stored crops are resized to it."""
    batch_size: int = Field(default=16, ge=1)
    """Clips per step and worker."""
    augment: AugmentSettings = AugmentSettings()
    cache_mib: int = Field(default=2048, ge=0)
    """A worker whose decoded share fits into this keeps it in memory; larger sets stream every epoch."""


class LossSettings(Settings):
    """Cross entropy and DSM."""

    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weights each class by its inverse frequency in train."""
    dsm: bool = False
    """Add the distribution-aware similarity loss (hdf.md section 3) and its gradient-driven scaling."""
    dsm_alpha: float = Field(default=10.0, gt=0)
    dsm_beta: float = Field(default=0.1, gt=0)
    dsm_beta_ib: float = Field(default=0.1, ge=0)
    dsm_tau: float = Field(default=0.07, gt=0)
    dsm_eta: float = Field(default=0.2, gt=0)


class OptimSettings(Settings):
    """AdamW with warm-up and cosine decay, SAM around it on request."""

    epochs: int = Field(default=30, ge=1)
    lr: float = Field(default=5e-4, gt=0)
    min_lr: float = Field(default=5e-6, ge=0)
    warmup_epochs: float = Field(default=2.0, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    sam_rho: float = Field(default=0.0, ge=0)
    """Radius of SAM's ascent step (0.05 in HDF); 0 switches SAM off."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Clip the gradient's global norm to this."""
    amp: Literal["off", "bf16"] = "off"
    """Autocast precision of forward and loss."""


class RunSettings(Settings):
    """Where the run lives, how many workers it has, how it is tracked."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the logical run; the same name continues an interrupted run."""
    dir: str = "runs"
    """Directory of run folders; on a cluster a path that every node mounts."""
    workers: int = Field(default=1, ge=1)
    """Training workers (one process each)."""
    use_gpu: bool | Literal["auto"] = "auto"
    """One GPU per worker; `auto` takes GPUs when the cluster has enough of them."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    max_failures: int = Field(default=3, ge=-1)
    """Worker-group restarts before the run fails; -1 = without limit."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Latest checkpoints kept beside the best one."""
    select_on: Literal["val", "test"] = "val"
    """Part that chooses the best epoch; `test` only to compare with papers that do so (marks the run)."""
    experiment: str = "ferflow"
    """MLflow experiment."""
    tracking_uri: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else sqlite in the run directory."""
    register_as: str | None = None
    """Registered-model name; default: the model's own name."""


class Recipe(Settings):
    """One complete recipe: everything from raw data to a tracked model."""

    seed: int = Field(default=0, ge=0)
    preprocess: PreprocessSettings
    model: ModelSettings = HdfSettings()
    data: DataSettings = DataSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _parts_agree(self) -> "Recipe":
        faults = []
        if self.data.frames > self.preprocess.sampling.frames:
            faults.append(
                f"data.frames = {self.data.frames} exceeds preprocess.sampling.frames = "
                f"{self.preprocess.sampling.frames}: shards hold no more"
            )
        if self.optim.warmup_epochs >= self.optim.epochs:
            faults.append(
                f"optim.warmup_epochs = {self.optim.warmup_epochs} must stay below optim.epochs = {self.optim.epochs}"
            )
        if self.optim.min_lr > self.optim.lr:
            faults.append(f"optim.min_lr = {self.optim.min_lr} exceeds optim.lr = {self.optim.lr}")
        if self.run.select_on == "val" and self.data.val_share == 0:
            faults.append("run.select_on = 'val' needs data.val_share > 0")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe.

    Raises:
        preprocessing.config.ConfigError: every fault at once.
    """
    return load(Recipe, path, overrides)
