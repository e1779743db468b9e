"""What a picture's first bytes say, read where they lie."""

import io

import pytest
from PIL import Image

from stages.contract.blob import Blob
from stages.pictures.formats.essence import PictureFormat
from stages.pictures.picture_header import Header, read_header


@pytest.mark.parametrize("format", PictureFormat)
def test_a_header_is_read_through_a_view_as_well(format: PictureFormat) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 24), "red").save(file, format.value)
    assert read_header(Blob(file.getvalue()).view) == read_header(file.getvalue()) == Header(format, 40, 24)
