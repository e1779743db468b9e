"""What an image's first bytes say, read where they lie."""

import io

import pytest
from PIL import Image

from stages.contract.blob import Blob
from stages.images.formats.essence import ImageFormat
from stages.images.image_header import Header, read_header


@pytest.mark.parametrize("format", ImageFormat)
def test_a_header_is_read_through_a_view_as_well(format: ImageFormat) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 24), "red").save(file, format.value)
    assert read_header(Blob(file.getvalue()).view) == read_header(file.getvalue()) == Header(format, 40, 24)
