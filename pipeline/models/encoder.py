"""timm image encoders for HKAFER: creation by name, local weights, tokens instead of class scores."""

import difflib
import sys
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


class EncoderError(ValueError):
    """The encoder cannot be built or filled as the settings ask; the message names the fix."""


def create_encoder(
    name: str, image_px: int, *, args: dict[str, Any], pretrained: bool = False, weights: str | None = None
) -> nn.Module:
    """A timm vision transformer whose `forward_features` gives tokens (B, L, D) for `image_px` pictures.

    Args:
        args: further arguments of timm.create_model.
        pretrained: fetch timm's weights (needs a network).
        weights: local safetensors file in the encoder's own names (any source that timm's filter converts).

    Raises:
        EncoderError: unknown name, arguments it does not take, an image size that its patches do not tile, or
            weights that do not fit.
    """
    _check_name(name)
    if args.get("img_size", image_px) not in (image_px, (image_px, image_px), [image_px, image_px]):
        raise EncoderError(
            f"encoder_args.img_size = {args['img_size']} differs from the model's input of {image_px} px "
            "(data.image_px): drop it or make them equal"
        )
    try:
        encoder = timm.create_model(name, pretrained=pretrained, **{**args, "img_size": image_px, "num_classes": 0})
    except (TypeError, AssertionError) as error:
        raise EncoderError(f"encoder {name} does not take img_size and encoder_args {args}: {error!r}") from error
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"encoder {name} with pretrained = {pretrained}, encoder_args = {args} cannot be created: {error}"
        ) from error
    _check_structure(name, encoder, image_px)
    if weights:
        load_weights(encoder, weights)
    if getattr(encoder, "attn_pool", None) is not None:
        encoder.attn_pool = None  # the head of HKAFER pools; loaded first, so that a full file still fits
    return encoder


def load_weights(encoder: nn.Module, path: str) -> None:
    """Fill the encoder from a safetensors file: everything but the classifier, strictly.

    Position embeddings (and other names) go through timm's own filter of the encoder's family.

    Raises:
        EncoderError: no safetensors file, or tensors missing, left over or of another shape: all at once.
    """
    if not Path(path).is_file():
        raise EncoderError(f"encoder weights {path}: no such file")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise EncoderError(f"encoder weights {path}: not a safetensors file ({error})") from error
    family = sys.modules[type(encoder).__module__]
    if hasattr(family, "checkpoint_filter_fn"):
        state = family.checkpoint_filter_fn(state, encoder)
    heads = encoder.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    faults = _mismatches(encoder.state_dict(), state)
    if faults:
        raise EncoderError(f"encoder weights {path}: {len(faults)} mismatches\n  " + "\n  ".join(faults))
    encoder.load_state_dict(state)


def has_class_token(encoder: nn.Module) -> bool:
    """Whether the first token summarises the picture."""
    return getattr(encoder, "cls_token", None) is not None


def _mismatches(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    faults = [f"missing: {key} {tuple(wanted[key].shape)}" for key in wanted if key not in found]
    faults += [f"not in the encoder: {key} {tuple(found[key].shape)}" for key in found if key not in wanted]
    return faults + [
        f"shape of {key}: file {tuple(found[key].shape)}, encoder {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and wanted[key].shape != found[key].shape
    ]


def _check_name(name: str) -> None:
    if ":" in name or timm.is_model(name):  # a source prefix such as hf-hub: is timm's to resolve
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f": did you mean {', '.join(near)}?" if near else ": timm.list_models('vit*') shows the names"
    raise EncoderError(f"unknown encoder {name!r}{hint}")


def _check_structure(name: str, encoder: nn.Module, image_px: int) -> None:
    needed = ("blocks", "patch_embed", "num_prefix_tokens", "forward_features")
    absent = [attribute for attribute in needed if not hasattr(encoder, attribute)]
    if absent:
        raise EncoderError(
            f"encoder {name} ({type(encoder).__name__}) is no plain vision transformer (no {', '.join(absent)}): "
            "choose e.g. vit_base_patch16_224, vit_small_patch14_dinov2, vit_base_patch16_siglip_224"
        )
    patch_px = encoder.patch_embed.patch_size[0]
    if image_px % patch_px:
        below = max(image_px // patch_px, 1) * patch_px
        raise EncoderError(
            f"data.image_px = {image_px} is no multiple of the {patch_px} px patches of {name}: "
            f"use {below} or {below + patch_px}"
        )
