"""The page with detectors, in a real browser: boxes, the slider of scores, the list of objects."""

import pytest

from resnets.inference.image_inputs import SAMPLES
from tests.detection.files import noisy_blocks, save_detector
from tests.serve.test_page import (  # noqa: F401
    browser,
    encoded,
    open_page,
    pick,
    pixels,
    slide,
    started,
    try_sample,
)


@pytest.fixture(scope="module")
def address(models, tmp_path_factory):
    """A server of two detectors, a classifier, and a detector of masks."""
    folder = tmp_path_factory.mktemp("detectors")
    one = save_detector(folder / "finder.safetensors", score=0.05)
    two = save_detector(folder / "keen.safetensors", score=0.05, nms=0.7)
    shapes = save_detector(folder / "shapes.safetensors", masks=True, score=0.05)
    return started(str(one), str(two), f"flat={models[1]}", str(shapes), samples=SAMPLES)


@pytest.fixture
def page(open_page):  # noqa: F811
    page = open_page()
    page.wait_for_selector("#samples button")
    return page


def blocks():
    return encoded(noisy_blocks((300, 200)), format="PNG")


def found(page, panels=1):
    """Wait until every panel has its answer."""
    page.wait_for_function(
        """count => [...document.querySelectorAll(".timing")].filter((one) => one.textContent)
          .length === count && !document.querySelector('.panel[aria-busy="true"]')""",
        arg=panels,
    )


def rows(page, panel=0):
    return page.locator(".panel").nth(panel).locator(".answer").count()


def test_images_of_cifar_10_are_shown_for_classifiers_only(open_page, models, tmp_path):  # noqa: F811
    finder = save_detector(tmp_path / "finder.safetensors")
    page = open_page(url=started(str(finder), f"flat={models[1]}"))
    page.wait_for_selector(".panel-name")
    assert not page.locator("#try").is_visible()
    page.select_option("#other", "flat")
    assert page.locator("#samples button").count() == 10
    page.select_option("#other", "")
    assert not page.locator("#try").is_visible()
    page.select_option("#model", "flat")
    assert page.locator("#try").is_visible()


def test_a_picture_gets_boxes_and_a_list_of_objects(page):
    assert page.locator(".blank").is_visible()
    pick(page, blocks())
    found(page)
    slide(page, ".score", 0)
    many, boxes = rows(page), pixels(page)
    assert many > 3
    shares = page.locator(".answer .chance").all_inner_texts()
    assert shares == sorted(shares, reverse=True)
    middle = round(100 * float(shares[many // 2])) + 1
    slide(page, ".score", middle)
    assert 0 < rows(page) < many
    assert f"{many - rows(page)} more with a lower score" in page.inner_text(".caption")
    assert pixels(page) != boxes
    slide(page, ".score", 100)
    assert rows(page) == 0
    assert "No objects of this score" in page.inner_text(".caption")
    assert "finder finds nothing" in page.locator(".panel canvas").get_attribute("aria-label")
    assert page.locator(".score-value").inner_text() == "1.00"


def test_the_slider_and_the_list_work_by_keyboard(page):
    try_sample(page, "ship")
    found(page)
    slide(page, ".score", 21)
    page.locator(".score").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".score").get_attribute("aria-valuetext") == "20 percent"
    before = pixels(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    pressed = page.locator(".answer").first
    assert pressed.get_attribute("aria-pressed") == "true"
    assert pixels(page) != before
    page.keyboard.press("Space")
    assert pressed.get_attribute("aria-pressed") == "false"
    assert pixels(page) == before


def test_masks_are_drawn_follow_the_slider_and_are_chosen_by_keyboard(page):
    page.select_option("#model", "shapes")
    pick(page, blocks())
    found(page)
    slide(page, ".score", 0)
    drawn = pixels(page)
    page.evaluate(
        """() => { window.fills = 0; const fill = CanvasRenderingContext2D.prototype.fill;
          CanvasRenderingContext2D.prototype.fill = function (rule) {
            window.fills += rule === "evenodd"; return fill.call(this, rule); }; }"""
    )

    def masks(act):
        page.evaluate("window.fills = 0")
        act()
        return page.evaluate("window.fills")

    middle = round(100 * float(page.locator(".answer .chance").nth(2).inner_text())) + 1
    assert masks(lambda: slide(page, ".score", 0)) == rows(page) > 3
    assert masks(lambda: slide(page, ".score", middle)) == rows(page) < 4
    assert pixels(page) != drawn
    page.locator(".score").focus()
    page.keyboard.press("Tab")
    assert masks(lambda: page.keyboard.press("Enter")) == 1  # that of the object chosen
    assert page.locator(".answer").first.get_attribute("aria-pressed") == "true"
    assert masks(lambda: page.keyboard.press("Enter")) == rows(page)
    slide(page, ".score", 0)
    assert pixels(page) == drawn


def test_a_detector_beside_another_and_beside_a_classifier(page):
    page.select_option("#other", "keen")
    try_sample(page, "bird")
    found(page, 2)
    assert page.locator(".panel-name").all_inner_texts() == ["finder", "keen"]
    slide(page, ".score", 7)
    assert page.locator(".score-value").all_inner_texts() == ["0.07", "0.07"]
    assert rows(page, 1) >= rows(page, 0) > 0
    page.select_option("#other", "flat")
    page.wait_for_function(
        "() => /Class activation map|No evidence/.test(document.querySelectorAll('.caption')[1]"
        ".textContent)"
    )
    assert rows(page, 1) == 5
    assert "finder finds" in page.locator(".panel canvas").first.get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(open_page, scheme):  # noqa: F811
    page = open_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.wait_for_selector("#samples button")
    page.select_option("#other", "keen")
    pick(page, blocks())
    found(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_everything_has_a_name_for_screen_readers(page):
    pick(page, blocks())
    found(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas, img, a")]
          .filter((one) => one.offsetParent !== null)
          .filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.alt
            || one.labels?.length || one.querySelector("img[alt]")))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert "finder finds" in page.locator("#news").inner_text()
