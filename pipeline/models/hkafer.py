"""HKAFER: a frozen timm encoder with HeKA adapters, a DBIR router per block and a small head.

Reconstructed from the abstract of HKAFER (AAAI 2026): equations and hyper-parameters are not public.
Shapes: B clips, C colours, T frames, H, W pixels, L tokens, D encoder width, N adapters, K classes.
"""

from collections.abc import Callable
from typing import Any

import timm.data
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import HkaferSettings
from pipeline.models.dbir import balance_term, make_router, routing_stats
from pipeline.models.encoder import EncoderError, create_encoder, has_class_token
from pipeline.models.heka import HekaLinear, Routing
from pipeline.models.output import ModelOutput

TARGETS = ("qkv", "q_proj", "k_proj", "v_proj", "proj", "fc1", "fc1_g", "fc1_x", "fc2")
"""Names of the linear layers that are adapted: attention and feed-forward of timm's transformer blocks."""


class HekaBlock(nn.Module):
    """A transformer block with HeKA layers and the router that weights them.

    The weights are computed once from the block's normalised input and are an argument of the checkpointed
    part, so that recomputation in the backward pass sees the very same ones.

    Args:
        block: frozen block; its target layers are replaced here.
        router: tokens (B, L, D) -> (B, N), or None for weights of 1.
        make_layer: HekaLinear around one linear layer: (layer, blocks, routing).
    """

    def __init__(
        self,
        block: nn.Module,
        router: nn.Module | None,
        make_layer: Callable[[nn.Linear, int, Routing | None], HekaLinear],
    ) -> None:
        super().__init__()
        self.block, self.router = block, router
        self.routing = Routing() if router is not None else None
        self.checkpointing = False
        self._weights: Tensor | None = None
        targets = [
            (name, layer)
            for name, layer in block.named_modules()
            if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in TARGETS
        ]
        for name, layer in targets:
            parent, _, leaf = name.rpartition(".")
            block.get_submodule(parent).register_module(
                leaf, make_layer(layer, 3 if leaf == "qkv" else 1, self.routing)
            )
            if hasattr(block.get_submodule(parent), "qkv_bias_separate"):
                # EvaAttention multiplies by qkv.weight itself, past the adapters, unless told otherwise.
                block.get_submodule(parent).qkv_bias_separate = True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (B, L, D) -> (B, L, D); further arguments are the block's own."""
        if self.router is None:
            return self._run(self.block, x, *args, **kwargs)
        self._weights = self._run(self._route, x)
        return self._run(self._adapted, x, self._weights, *args, **kwargs)

    def take_weights(self) -> Tensor | None:
        """Routing weights (B, N) of the last forward pass, once: nothing keeps its graph alive."""
        weights, self._weights = self._weights, None
        return weights

    def layers(self) -> dict[str, HekaLinear]:
        """Adapted layers by their names in the block."""
        return {name: m for name, m in self.block.named_modules() if isinstance(m, HekaLinear)}

    def _run(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **kwargs)
        return function(*args, **kwargs)

    def _route(self, x: Tensor) -> Tensor:
        return self.router(self.block.norm1(x))

    def _adapted(self, x: Tensor, weights: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with self.routing.use(weights):
            return self.block(x, *args, **kwargs)


class Hkafer(nn.Module):
    """Classifies clips frame by frame; a clip's logits are the mean of its frames' logits.

    The encoder is frozen: only adapters, routers and head train. Its dropout rates are timm's defaults of 0 unless
    `encoder_args` sets them.

    Args:
        encoder: from `create_encoder`; changed in place.
        classes: K.
        image_px: side of the input.
        settings: scales, rank, alpha, router and its options, balance, gradient_checkpointing.

    Raises:
        EncoderError: no layer of the encoder matches TARGETS, or its blocks do not normalise their input.
    """

    def __init__(self, encoder: nn.Module, classes: int, image_px: int, settings: HkaferSettings) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.image_px, self.scales, self.balance = image_px, settings.scales, settings.balance
        self.prefix_tokens, self.class_token = encoder.num_prefix_tokens, has_class_token(encoder)
        self._adapt(settings)
        width = encoder.num_features * (2 if self.class_token else 1)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        data = timm.data.resolve_model_data_config(encoder)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1), persistent=False)

    @classmethod
    def from_settings(cls, settings: HkaferSettings, classes: int, image_px: int) -> "Hkafer":
        """Build encoder and model as a recipe names them.

        Raises:
            EncoderError: see `create_encoder` and the class.
        """
        encoder = create_encoder(
            settings.encoder,
            image_px,
            args=settings.encoder_args,
            pretrained=settings.pretrained,
            weights=settings.weights,
        )
        return cls(encoder, classes, image_px, settings)

    def forward(self, x_BCTHW: Tensor) -> ModelOutput:
        """Classify clips (pictures are T = 1).

        Args:
            x_BCTHW: float in [0, 1], RGB, H = W = image_px.

        Returns:
            logits (B, K); features (B, 2D; B, D without class token), the mean over frames of what the head sees;
            extra_loss = balance x balance term and stats of the routing, when routed.

        Raises:
            ValueError: wrong shape.
        """
        batch, frames = self._check(x_BCTHW)
        pictures = x_BCTHW.transpose(1, 2).flatten(0, 1)
        pooled = self._pool(self.encoder.forward_features((pictures - self.mean) / self.std))
        logits = self.head(pooled).unflatten(0, (batch, frames)).mean(dim=1)
        features = pooled.unflatten(0, (batch, frames)).mean(dim=1)
        weights = [w for block in self.encoder.blocks if (w := block.take_weights()) is not None]
        if not weights:
            return ModelOutput(logits, features)
        return ModelOutput(logits, features, self.balance * balance_term(weights), routing_stats(weights, self.scales))

    def _adapt(self, settings: HkaferSettings) -> None:
        def make_layer(layer: nn.Linear, blocks: int, routing: Routing | None) -> HekaLinear:
            return HekaLinear(layer, settings.scales, settings.rank, settings.alpha, blocks=blocks, routing=routing)

        name = type(self.encoder).__name__
        for i, block in enumerate(self.encoder.blocks):
            if not hasattr(block, "norm1"):
                raise EncoderError(f"{name}: block {i} ({type(block).__name__}) has no norm1 for the router")
            router = make_router(
                settings.router,
                self.encoder.num_features,
                len(settings.scales),
                router_width=settings.router_width,
                tau=settings.router_tau,
                prefix_tokens=self.prefix_tokens,
                class_token=self.class_token,
            )
            self.encoder.blocks[i] = HekaBlock(block, router, make_layer)
            self.encoder.blocks[i].checkpointing = settings.gradient_checkpointing
        if not any(block.layers() for block in self.encoder.blocks):
            raise EncoderError(f"{name}: no linear layer named {', '.join(TARGETS)} to adapt in its blocks")

    def _pool(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, self.prefix_tokens :].mean(dim=1)
        return torch.cat([tokens[:, 0], patches], dim=1) if self.class_token else patches

    def _check(self, x: Tensor) -> tuple[int, int]:
        if x.dim() != 5 or x.shape[1] != 3 or tuple(x.shape[3:]) != (self.image_px, self.image_px):
            raise ValueError(f"input of shape {tuple(x.shape)}: expected (B, 3, T, {self.image_px}, {self.image_px})")
        return x.shape[0], x.shape[2]


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of trainable and of all parameters."""
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in model.parameters()),
    }


def parameter_table(model: Hkafer) -> str:
    """Text table: each adapted layer with its weight's shape, its adapters' p x q and its trainable parameters."""
    lines = [f"{'layer':<28}{'weight':>12}  {'p x q of the adapters':<40}{'trainable':>12}"]

    def add(name: str, weight: str, sizes: str, module: nn.Module) -> None:
        lines.append(f"{name:<28}{weight:>12}  {sizes:<40}{parameter_counts(module)['trainable']:>12,}")

    for i, block in enumerate(model.encoder.blocks):
        for name, layer in block.layers().items():
            weight = f"{layer.base.out_features}x{layer.base.in_features}"
            add(f"blocks.{i}.{name}", weight, " ".join(f"{p}x{q}" for p, q in layer.adapters.sizes), layer)
        if block.router is not None:
            add(f"blocks.{i}.router", "", "", block.router)
    add("head", "", "", model.head)
    counts = parameter_counts(model)
    share = counts["trainable"] / counts["total"]
    lines.append(f"trainable {counts['trainable']:,} of {counts['total']:,} parameters ({share:.2%})")
    return "\n".join(lines)
