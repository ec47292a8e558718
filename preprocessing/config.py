"""Typed settings: one YAML recipe plus dotted overrides, every fault reported at once.

The loader is shared with `pipeline.config`; the classes here configure preprocessing only.
"""

import difflib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigError(ValueError):
    """All faults of a configuration: one line each, with dotted path, value and fix."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        noun = "fault" if len(self.faults) == 1 else "faults"
        super().__init__(f"{source}: {len(self.faults)} {noun}\n" + "\n".join(f"  - {f}" for f in self.faults))


class Settings(BaseModel):
    """Base of every settings class: frozen, unknown keys refused, field docstrings kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DatasetSettings(Settings):
    """Which data set to read, and from where."""

    reader: Literal["dfew", "folder"] = "folder"
    """Reader of the tree: `dfew` (its own layout and set_k.csv) or `folder` (<root>/<label>/<file>)."""
    root: str
    """Directory of the data set as it lies on disk."""
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    """Name of the shard set and first part of each sample id; empty = the reader's name."""
    media: Literal["auto", "original", "clip_224x224", "clip_224x224_16f"] = "auto"
    """DFEW only: which published form to read; `auto` takes the first of the three that is there."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first samples (in id order), for a trial run."""


class SamplingSettings(Settings):
    """Which frames of a clip are kept."""

    frames: int = Field(default=16, ge=1, le=512)
    """Frames kept per clip, evenly spaced in presentation time; a shorter clip keeps all of its own."""


class DecodeSettings(Settings):
    """How media files become RGB frames."""

    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """`auto` uses decord where it is frame-exact for the container and codec, PyAV elsewhere."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Wall-clock limit of one clip; past it the decoding process is killed and the clip rejected."""
    max_megapixels: float = Field(default=64.0, gt=0)
    """Refuse frames that are larger than this before decoding them."""
    salvage: bool = True
    """Keep the readable prefix of a damaged clip (marked `salvaged`) instead of rejecting it."""


class FaceSettings(Settings):
    """How faces are found, chosen and aligned."""

    aligner: Literal["centerface", "none"] = "centerface"
    """`centerface` finds and aligns faces offline; `none` only resizes (for media that is already cropped)."""
    detect_px: int = Field(default=320, ge=64, le=2048)
    """Long side, in pixels, of the picture that the detector sees."""
    min_score: float = Field(default=0.5, gt=0, lt=1)
    """Detections below this confidence are ignored."""
    pick: Literal["largest", "longest", "central"] = "longest"
    """Which face track a clip keeps: greatest mean area, most frames (ties: largest), or most central."""
    template: Literal["arcface", "loose"] = "loose"
    """Where the five landmarks land in the crop: ArcFace's own (tight) or with forehead and chin."""
    crop_px: int = Field(default=224, ge=32, le=1024)
    """Side of the aligned square crop in pixels."""
    missing: Literal["nearest", "center_crop", "reject"] = "nearest"
    """A frame without a face: take the landmarks of the nearest frame that has one, crop the centre, or reject."""
    max_gap_frames: int = Field(default=4, ge=0)
    """Gaps of at most this many sampled frames are bridged by interpolating landmarks (flagged as not found)."""
    min_found_share: float = Field(default=0.25, ge=0, le=1)
    """Reject a clip when a face was found in less than this share of its frames (`no_face` when in none)."""
    smooth: float = Field(default=0.0, ge=0, lt=1)
    """Landmark smoothing over time: 0 = off, towards 1 = stronger."""
    jpeg_quality: int = Field(default=95, ge=50, le=100)
    """JPEG quality of the stored crops."""


class PreprocessSettings(Settings):
    """Everything that turns a data set into a shard set."""

    dataset: DatasetSettings
    sampling: SamplingSettings = SamplingSettings()
    decode: DecodeSettings = DecodeSettings()
    faces: FaceSettings = FaceSettings()
    out: str = "runs/shards"
    """Root of the shard sets: <out>/<dataset>/<fingerprint>/."""
    clips_per_part: int = Field(default=32, ge=1, le=65536)
    """Clips per part file: the unit of work, of commit and of resume."""
    actors: int | None = Field(default=None, ge=1)
    """Parallel preprocessing actors; default: one per CPU of the cluster."""
    max_reject_share: float = Field(default=0.5, ge=0, le=1)
    """Failure budget: stop when more than this share of the finished clips was rejected."""


S = TypeVar("S", bound=Settings)


def load(cls: type[S], path: str | Path | None, overrides: Sequence[str] = ()) -> S:
    """Read a YAML recipe, apply `a.b.c=value` overrides and validate the whole.

    Raises:
        ConfigError: with every fault at once (file, override syntax, unknown key, wrong value).
    """
    source = str(path) if path else "settings"
    tree = _read_yaml(path) if path else {}
    faults = [fault for text in overrides if (fault := _apply_override(tree, text))]
    if faults:
        raise ConfigError(source, faults)
    return validate(cls, tree, source)


def validate(cls: type[S], tree: dict[str, Any], source: str = "settings") -> S:
    """Validate a plain dictionary against a settings class.

    Raises:
        ConfigError: with every fault at once.
    """
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(source, [_describe(cls, fault) for fault in error.errors()]) from None


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read ({error.strerror}): give the path of a recipe"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"is not valid YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(tree, dict):
        raise ConfigError(str(path), [f"must hold a mapping of settings, holds {type(tree).__name__}"])
    return tree


def _apply_override(tree: dict[str, Any], text: str) -> str | None:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        return f"override {text!r}: write it as key.subkey=value"
    *parents, leaf = key.split(".")
    for name in parents:
        node = tree.setdefault(name, {})
        if not isinstance(node, dict):
            return f"override {text!r}: {name} is a plain value, it has no keys"
        tree = node
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        tree[leaf] = value
    return None


def _describe(cls: type[BaseModel], fault: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in _plain_location(cls, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = _known_keys(cls, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{path} = {fault['input']!r}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{path}: is required and not set"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{path or 'settings'} = {_short(fault['input'])}: {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain_location(cls: type[BaseModel], location: tuple[Any, ...]) -> list[Any]:
    """Drop the union tags that pydantic puts into a location: the user never wrote them."""
    plain, node = [], cls
    for part in location:
        members = _models(node)
        field = next((m.model_fields[part].annotation for m in members if part in m.model_fields), None)
        is_tag = len(members) > 1 and any(_tag(m) == part for m in members)
        if is_tag:
            node = next(m for m in members if _tag(m) == part)
            continue
        plain.append(part)
        node = field
    return plain


def _known_keys(cls: type[BaseModel], parents: tuple[Any, ...]) -> list[str]:
    node: Any = cls
    for part in parents:
        members = _models(node)
        tagged = next((m for m in members if len(members) > 1 and _tag(m) == part), None)
        node = tagged or next((m.model_fields[part].annotation for m in members if part in m.model_fields), None)
    return [name for model in _models(node) for name in model.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType) or hasattr(annotation, "__metadata__"):
        return [model for arg in get_args(annotation) for model in _models(arg)]
    return []


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["name"].default if "name" in model.model_fields else None
