"""The names of colour profiles."""

from __future__ import annotations

import io
import re

from PIL import ImageCms

#: libjxl's names for the profiles that it makes: colours, white point, primaries, intent, transfer function.
_OF_LIBJXL = re.compile(r"(RGB_D65_SRG|Gra_D65)_\w{3}_SRG")


def name_of(profile: bytes) -> str:
    """Return the description of an ICC profile; empty when it is broken."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return ""


def is_srgb(profile: bytes) -> bool:
    """Return whether an ICC profile's name is that of sRGB, or of its grey."""
    name = name_of(profile)
    return "sRGB" in name or bool(_OF_LIBJXL.match(name))
