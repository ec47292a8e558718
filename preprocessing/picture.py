"""A still picture file -> RGB, by content, in display orientation."""

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from preprocessing.container import check_size
from preprocessing.errors import ClipError, RejectKind

DECODER = "pillow"
DECODER_VERSION = PIL.__version__


def read_picture(path: str, max_megapixels: float) -> tuple[np.ndarray, str]:
    """Decode a picture to uint8 H,W,3 RGB (EXIF orientation applied) and name its format.

    Transparency is dropped; grey, palette, CMYK and 16-bit pictures are converted; of an animation the first
    frame counts. A cut file is refused, never padded with grey.

    Raises:
        ClipError: not_media, too_large, truncated, unreadable.
    """
    try:
        with Image.open(path) as picture:
            check_size(path, *picture.size, max_megapixels)
            name = (picture.format or "unknown").lower()
            return _to_rgb(ImageOps.exif_transpose(picture)), name
    except UnidentifiedImageError:
        raise ClipError(RejectKind.NOT_MEDIA, "decode", f"{path}: no known picture format") from None
    except Image.DecompressionBombError as error:
        raise ClipError(RejectKind.TOO_LARGE, "decode", f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's decoders raise all of these
        kind = RejectKind.TRUNCATED if "truncated" in str(error) else RejectKind.UNREADABLE
        raise ClipError(kind, "decode", f"{path}: {error}") from None


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):  # Pillow would clip 16 bits to 255 instead of scaling them
        grey = np.clip(np.asarray(picture), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no defined brightness range")
    return np.array(picture.convert("RGB"))
