"""The page in a real browser: pictures in, answers, maps and errors out."""

import base64
import json
import shutil
from urllib.parse import urlsplit

import pytest

from tests.deploy.server.conftest import picture

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(models):
    """A server in a thread: the shipped model and a plain one."""
    import threading

    import torch

    from resnets.deploy.server import running

    found, started = [], threading.Event()

    def ready(where):
        found.append(where)
        started.set()

    options = running.Options(
        ["cifar-resnet20", f"flat={models[1]}"], port=0, runtime="torch", precision="fp32"
    )
    threading.Thread(
        target=running.serve, args=(options, torch.device("cpu"), ready), daemon=True
    ).start()
    assert started.wait(60)
    return found[0]


@pytest.fixture
def page(browser, address):
    """The page, opened; afterwards it must have asked nobody else, and complained of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text)
            if message.type == "error" and "the server responded with" not in message.text
            else None
        ),
    )
    page.goto(address)
    page.wait_for_selector("#samples button")
    yield page
    assert {host for host in hosts if host} == {urlsplit(address).netloc}
    assert errors == []
    context.close()


def explained(page, panels=1):
    """Wait until every panel has its map."""
    page.wait_for_function(
        "count => [...document.querySelectorAll('.caption')]"
        ".filter(one => one.textContent.includes('activation map')).length === count",
        arg=panels,
    )
    page.wait_for_function("() => !document.querySelector('.panel[aria-busy=\"true\"]')")


def wait_for_words(page, selector, words):
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector).textContent.includes(words)",
        arg=[selector, words],
    )


def first_answer(page, panel=0):
    return page.locator(".panel").nth(panel).locator(".answers button").first.inner_text()


def pixels(page):
    return page.locator(".panel canvas").first.evaluate("canvas => canvas.toDataURL()")


def slide(page, selector, value):
    page.locator(selector).first.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def hand_over(page, how, content, kind="image/png", name="one.png"):
    """Drop or paste a file, as a user's browser would."""
    page.evaluate(
        """([how, content, kind, name]) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], name, { type: kind }));
          const event = how === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
        }""",
        [how, base64.b64encode(content).decode(), kind, name],
    )


def sample(name):
    from importlib import resources

    return (resources.files("resnets.deploy.server") / "samples" / f"{name}.png").read_bytes()


@pytest.mark.parametrize("how", ["drop", "paste", "pick", "sample"])
def test_a_picture_gets_its_class_and_its_map(page, how):
    empty = pixels(page)
    if how == "pick":
        page.set_input_files(
            "#file", {"name": "x.png", "mimeType": "image/png", "buffer": sample("ship")}
        )
    elif how == "sample":
        page.get_by_role("button", name="ship").click()
    else:
        hand_over(page, how, sample("ship"))
    explained(page)
    assert first_answer(page).startswith("ship")
    assert page.locator(".panel canvas").get_attribute("aria-label").endswith("says ship")
    assert "says ship" in page.locator("#news").inner_text()
    mapped = pixels(page)
    assert mapped != empty
    slide(page, "#opacity", 0)
    bare = pixels(page)
    assert bare != mapped
    slide(page, "#opacity", 100)
    assert pixels(page) not in (bare, mapped)
    last = pixels(page)
    slide(page, ".stage", 1)
    assert pixels(page) != last
    assert page.locator(".stage-value").inner_text() == "layer1"
    assert "Grad-CAM" in page.locator(".caption").inner_text()
    assert "network" in page.locator(".timing").inner_text()


def test_a_stage_is_chosen_in_the_drawing_and_shows_its_response(page):
    page.get_by_role("button", name="horse").click()
    explained(page)
    stages = page.locator(".network button")
    assert stages.count() == 4
    assert all("active" in text for text in stages.all_inner_texts())
    stages.nth(2).click()
    assert page.locator(".stage-value").inner_text() == "layer2"
    assert stages.nth(2).get_attribute("aria-pressed") == "true"
    assert [stages.nth(i).locator("path").count() for i in range(4)] == [0, 3, 3, 3]  # shortcuts


def test_another_class_is_explained_when_it_is_chosen(page):
    page.get_by_role("button", name="cat").click()
    explained(page)
    before = pixels(page)
    second = page.locator(".answers button").nth(1)
    name = second.inner_text().split("\n")[0]
    second.click()
    wait_for_words(page, ".caption", f"“{name}”")
    assert pixels(page) != before
    assert page.locator(".answers button").nth(1).get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.textContent").startswith(name)


def test_a_broken_file_is_an_error_and_what_was_there_stays(page):
    page.get_by_role("button", name="frog").click()
    explained(page)
    hand_over(page, "drop", b"not an image", "image/png", "broken.png")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "not an image" in alert.inner_text()
    assert first_answer(page).startswith("frog")
    hand_over(page, "drop", picture(0)[:80])
    wait_for_words(page, "#problem", "cannot be read")
    page.get_by_role("button", name="deer").click()
    wait_for_words(page, ".answers button", "deer")
    assert not alert.is_visible()


def test_a_format_that_browsers_do_not_know_is_answered_without_picture(page):
    hand_over(page, "drop", picture(0, kind="TIFF"), "image/tiff", "one.tif")
    explained(page)
    assert page.locator(".answers button").count() == 5


def test_two_models_look_at_one_picture(page):
    page.select_option("#other", "flat")
    page.get_by_role("button", name="truck").click()
    explained(page, 2)
    assert first_answer(page).startswith("truck")
    assert first_answer(page, 1).startswith("class ")
    boxes = [page.locator(".panel").nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert page.locator(".panel").nth(1).locator(".network path").count() == 0  # no shortcuts
    page.select_option("#other", "")
    explained(page, 1)


def test_the_keyboard_reaches_everything(page):
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(
            "document.activeElement.id || document.activeElement.className "
            "|| document.activeElement.closest('[id]')?.id"
        ))  # fmt: skip
    assert {"model", "other", "file", "samples", "stage"} <= set(reached)
    page.locator("#samples button").nth(1).focus()
    page.keyboard.press("Enter")
    explained(page)
    assert first_answer(page).startswith("automobile")
    page.locator(".stage").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".stage-value").inner_text() == "layer2"
    assert page.locator(".stage").get_attribute("aria-valuetext") == "layer2"


def test_everything_has_a_name_for_screen_readers(page):
    page.get_by_role("button", name="bird").click()
    explained(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas, img, a")]
          .filter((one) => one.offsetParent !== null)
          .filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.alt
            || one.labels?.length || one.querySelector("img[alt]")))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser, address, scheme):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.select_option("#other", "flat")
    page.get_by_role("button", name="airplane").click()
    explained(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(json.loads(ground.replace("rgb", "").replace("(", "[").replace(")", "]"))) > 384
    assert light == (scheme == "light")
    context.close()
