"""Which images calibrate, and which are kept for the test."""

import pytest

from resnets.export import calibration
from resnets.export.calibration import CalibrationOptions
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.conftest import draw_photos


def found_images(source, folder, **more):
    model = model_file.load(str(source))
    options = CalibrationOptions(calibrate=str(folder))
    return calibration.find_images(model, options, **more)


def test_few_labelled_images_all_calibrate_and_test_nothing(source, tmp_path):
    draw_photos(tmp_path / "photos", {"red": 8, "green": 8})
    images = found_images(source, tmp_path / "photos")
    assert (len(images.calibration), images.test) == (16, None)
    assert images.tested_on == "16 labelled images are too few to keep some for a test"
    draw_photos(tmp_path / "photos", {"blue": 4})
    images = found_images(source, tmp_path / "photos")
    assert (len(images.calibration), len(images.test)) == (10, 10)


def test_a_broken_labelled_image_is_named_and_calibrates_nothing(source, tmp_path):
    draw_photos(tmp_path / "photos", {"red": 8, "green": 8})
    (tmp_path / "photos" / "red" / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"red.3\.png: not an image"):
        found_images(source, tmp_path / "photos")


def test_a_dense_export_keeps_no_images_for_a_test(source, tmp_path):
    draw_photos(tmp_path / "photos", {"red": 12, "green": 12})
    images = found_images(source, tmp_path / "photos", dense=True)
    assert (len(images.calibration), images.test) == (24, None)
