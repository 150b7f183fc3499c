"""The page in a real browser: images in, predictions, maps and errors out."""

import base64
import io
import json
import os
import shutil
import threading
from urllib.parse import urlsplit

import pytest
from PIL import Image

from resnets.inference.image_inputs import SAMPLES
from resnets.weights import model_file
from tests.serve.conftest import picture

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


def started(*models, **options):
    """The URL of a server in a thread."""
    from resnets.serve import server

    found, ready = [], threading.Event()

    def note(where):
        found.append(where)
        ready.set()

    options = server.ServerOptions(models, port=0, runtime="torch", precision="fp32", **options)
    threading.Thread(target=server.serve, args=(options, "cpu", note), daemon=True).start()
    assert ready.wait(60)
    return found[0]


@pytest.fixture(scope="module")
def address(models):
    """A server of the shipped model and a plain one."""
    return started("cifar-resnet20", f"flat={models[1]}")


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end it must have contacted no other host and logged no error."""
    contexts, urls, hosts, errors = [], [], set(), []

    def complain(message):
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    def start(change=None, url=address, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", complain)
        if change:
            change(page)
        urls.append(urlsplit(url).netloc)
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
    assert hosts - {""} == set(urls)
    assert errors == []


@pytest.fixture
def page(open_page):
    page = open_page()
    page.wait_for_selector("#samples button")
    return page


def wait_for_words(page, selector, words):
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.textContent.includes(words)",
        arg=[selector, words],
    )


def explained(page, panels=1):
    """Wait until every panel has its map and none works any more."""
    page.wait_for_function(
        """count => [...document.querySelectorAll(".caption")]
          .filter((one) => /Class activation map|Grad-CAM|No evidence/.test(one.textContent))
          .length === count && !document.querySelector('.panel[aria-busy="true"]')""",
        arg=panels,
    )


def try_sample(page, name):
    page.locator("#samples").get_by_role("button", name=name).click()


def first_answer(page, panel=0):
    return page.locator(".panel").nth(panel).locator(".answer").first.inner_text()


def pixels(page):
    return page.locator(".panel canvas").first.evaluate("canvas => canvas.toDataURL()")


def pixel(page, across, down):
    """Red, green and blue at a place of the canvas, in shares of its width and height."""
    return page.locator(".panel canvas").first.evaluate(
        """(canvas, [across, down]) => [...canvas.getContext("2d").getImageData(
          Math.floor(across * canvas.width), Math.floor(down * canvas.height), 1, 1).data]""",
        [across, down],
    )[:3]


def slide(page, selector, value):
    page.locator(selector).first.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def hand_over(page, how, content, kind="image/png", name="one.png"):
    """Drop or paste a file, or text if there is no kind, as a user's browser would."""
    page.evaluate(
        """([how, content, kind, name]) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          if (kind) data.items.add(new File([bytes], name, { type: kind }));
          else data.setData("text/plain", atob(content));
          const event = how === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
        }""",
        [how, base64.b64encode(content).decode(), kind, name],
    )


def pick(page, content, name="x.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.set_input_files("#file", file)


def sample(name):
    return (SAMPLES / f"{name}.png").read_bytes()


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("how", ["drop", "paste", "pick", "sample"])
def test_a_picture_gets_its_class_and_its_map(page, how):
    assert page.locator(".blank").is_visible()
    if how == "pick":
        pick(page, sample("ship"))
    elif how == "sample":
        try_sample(page, "ship")
    else:
        hand_over(page, how, sample("ship"))
    explained(page)
    assert not page.locator(".blank").is_visible()
    assert first_answer(page).startswith("ship")
    assert "says ship" in page.locator(".panel canvas").get_attribute("aria-label")
    assert "says ship" in page.locator("#news").inner_text()
    mapped = pixels(page)
    slide(page, ".opacity", 0)
    bare = pixels(page)
    assert bare != mapped
    slide(page, ".opacity", 100)
    assert pixels(page) not in (bare, mapped)
    last = pixels(page)
    slide(page, ".stage", 1)
    assert pixels(page) != last
    assert page.locator(".stage-value").inner_text() == "layer1"
    assert "Grad-CAM" in page.locator(".caption").inner_text()
    assert "network" in page.locator(".timing").inner_text()


def test_the_map_lies_over_what_the_network_saw(page):
    """Of a picture twice as wide as high, the middle; its hottest place is bright and yellow."""

    def hot_in_the_corner(route):
        answer = route.fetch()
        facts = answer.json()
        facts["stages"][-1] |= {"width": 2, "height": 2, "values": [1.0, 0.0, 0.0, 0.0]}
        route.fulfill(response=answer, json=facts)

    page.route("**/v1/explain*", hot_in_the_corner)
    pick(page, encoded(Image.new("RGB", (800, 400), (40, 90, 200)), format="PNG"))
    explained(page)
    slide(page, ".opacity", 100)
    # The picture fills the canvas from side to side, between 1/6 and 5/6 of its height;
    # the network saw (32 of 36 pixels in the middle; see the card) what is around the centre.
    red, green, blue = pixel(page, 0.36, 0.32)
    assert red > 200
    assert green > 200
    assert blue < 200
    assert sum(pixel(page, 0.64, 0.68)) < 300
    outside = pixel(page, 0.1, 0.5)  # under a veil, in its own colour
    assert outside[2] > outside[0] * 3
    assert sum(outside) < 40 + 90 + 200
    slide(page, ".opacity", 0)
    assert pixel(page, 0.36, 0.32) == [40, 90, 200]
    assert "only what is framed" in page.locator(".caption").inner_text()


def test_a_turned_photograph_is_shown_upright(page):
    image = Image.new("RGB", (300, 200), "red")
    image.paste("blue", (150, 0, 300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # what is stored on the left belongs on top
    pick(page, encoded(image, format="JPEG", exif=exif))
    explained(page)
    slide(page, ".opacity", 0)
    top, bottom = pixel(page, 0.5, 0.3), pixel(page, 0.5, 0.7)
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]


def test_a_stage_is_chosen_in_the_drawing_and_shows_its_response(page):
    try_sample(page, "horse")
    explained(page)
    stages = page.locator(".network button")
    assert stages.count() == 4
    assert all("active" in text for text in stages.all_inner_texts())
    stages.nth(2).click()
    assert page.locator(".stage-value").inner_text() == "layer2"
    assert stages.nth(2).get_attribute("aria-pressed") == "true"
    arcs = [stages.nth(i).locator(".arc").count() for i in range(4)]
    assert arcs == [0, 3, 3, 3]  # shortcuts


def test_another_class_is_explained_when_it_is_chosen(page):
    try_sample(page, "cat")
    explained(page)
    before = pixels(page)
    second = page.locator(".answer").nth(1)
    name = second.inner_text().split("\n")[0]
    second.click()
    wait_for_words(page, ".caption", f"“{name}”")
    assert pixels(page) != before
    assert second.get_attribute("aria-pressed") == "true"
    assert page.locator('.answer[aria-pressed="true"]').count() == 1
    assert page.evaluate("document.activeElement.textContent").startswith(name)
    assert page.locator("#news").inner_text() == f"Map for {name} on cifar-resnet20"


def test_a_broken_file_is_an_error_and_the_last_result_stays(page):
    try_sample(page, "frog")
    explained(page)
    hand_over(page, "drop", b"not an image", "image/png", "broken.png")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text().startswith("broken.png: not an image, but a text file")
    assert not page.locator("#again").is_visible()
    assert first_answer(page).startswith("frog")
    hand_over(page, "drop", picture(0)[:80])
    wait_for_words(page, "#problem", "cannot be read")
    page.select_option("#other", "flat")  # looks at what is there, not at what was broken
    explained(page, 2)
    assert not alert.is_visible()
    try_sample(page, "deer")
    wait_for_words(page, ".answer", "deer")


def test_a_file_that_is_not_an_image_is_an_error_at_once(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for how in ("drop", "paste"):
        hand_over(page, how, b"words", kind="")
        wait_for_words(page, "#problem", "dropped" if how == "drop" else "pasted")
    page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([new Uint8Array(33e6)], "huge.png"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }"""
    )
    wait_for_words(page, "#problem", "huge.png has 33.0 MB; the server accepts up to 32.0 MB")
    assert asked == []


def test_a_format_unknown_to_browsers_is_predicted_without_a_picture(page):
    hand_over(page, "drop", picture(0, kind="TIFF"), "image/tiff", "one.tif")
    explained(page)
    assert page.locator(".answer").count() == 5
    assert "cannot show this format" in page.locator(".blank").inner_text()


def test_two_models_predict_one_picture(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    try_sample(page, "truck")
    explained(page)
    slide(page, ".stage", 1)
    page.select_option("#other", "flat")
    explained(page, 2)
    assert first_answer(page).startswith("truck")
    assert first_answer(page, 1).startswith("class ")
    boxes = [page.locator(".panel").nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert page.locator(".panel").nth(1).locator(".arc").count() == 0  # no shortcuts
    slide(page, ".opacity", 25)
    assert page.locator(".opacity-value").all_inner_texts() == ["25 %", "25 %"]
    # The first model keeps what it shows, and is not asked again.
    assert page.locator(".stage-value").first.inner_text() == "layer1"
    assert sum("predict?model=cifar" in url for url in asked) == 1
    page.select_option("#model", "flat")
    assert page.locator(".panel-name").all_inner_texts() == ["flat"]
    assert page.locator("#other option").all_inner_texts() == ["nothing", "cifar-resnet20"]


def test_the_last_picture_wins(page):
    """A slow response for one picture does not replace that of the next."""
    held = []

    def hold_the_first(route):
        if held and held[-1].request.url.split("?")[0] == route.request.url.split("?")[0]:
            route.continue_()
        else:
            held.append(route)

    page.route("**/samples/0.png", hold_the_first)
    try_sample(page, "airplane")
    try_sample(page, "ship")
    explained(page)
    page.route("**/v1/predict*", hold_the_first)
    try_sample(page, "horse")
    page.wait_for_function("() => document.querySelector('.panel[aria-busy=\"true\"]')")
    try_sample(page, "cat")
    wait_for_words(page, ".answer", "cat")
    explained(page)
    assert len(held) == 2
    for route in held:
        route.continue_()
    page.wait_for_timeout(400)
    assert first_answer(page).startswith("cat")
    assert page.get_by_role("alert").is_hidden()


def test_a_failed_request_can_be_repeated(page):
    page.route("**/v1/explain*", lambda route: route.abort())
    try_sample(page, "bird")
    page.get_by_role("alert").wait_for()
    assert "cannot be reached" in page.get_by_role("alert").inner_text()
    assert first_answer(page).startswith("bird")
    page.unroute("**/v1/explain*")
    page.get_by_role("button", name="Try again").click()
    explained(page)
    assert page.get_by_role("alert").is_hidden()
    page.route("**/v1/predict*", lambda route: route.fulfill(
        status=503, json={"detail": "the queue is full"}
    ))  # fmt: skip
    try_sample(page, "dog")
    wait_for_words(page, "#problem", "the queue is full")
    assert page.get_by_role("button", name="Try again").is_visible()
    assert first_answer(page).startswith("bird")


def test_one_of_two_models_may_fail(page):
    page.select_option("#other", "flat")
    try_sample(page, "bird")
    explained(page, 2)
    page.route("**/v1/predict?model=flat*", lambda route: route.fulfill(
        status=503, json={"detail": "the queue is full"}
    ))  # fmt: skip
    try_sample(page, "ship")
    wait_for_words(page, "#problem", "flat: the queue is full")
    explained(page)
    assert first_answer(page).startswith("ship")
    # It does not go on showing another picture than the first.
    assert page.locator(".panel").nth(1).locator(".answer").count() == 0
    page.unroute("**/v1/predict?model=flat*")
    page.get_by_role("button", name="Try again").click()
    explained(page, 2)
    assert page.locator(".answer").count() == 10


def test_a_broken_file_does_not_cancel_the_map_of_the_last_picture(page):
    held = []

    def hold_the_first(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/v1/explain*", hold_the_first)
    try_sample(page, "cat")
    wait_for_words(page, ".answer", "cat")
    pick(page, b"not an image", "broken.png")
    wait_for_words(page, "#problem", "broken.png")
    explained(page)
    assert first_answer(page).startswith("cat")
    assert page.get_by_role("alert").is_visible()


def test_the_page_asks_for_a_token_and_keeps_it(open_page):
    def guarded(page):
        def check(route):
            if route.request.headers.get("authorization") == "Bearer right":
                route.continue_()
            else:
                route.fulfill(status=401, json={"detail": "a token is needed"})

        page.route("**/v1/models", check)

    page = open_page(guarded)
    page.locator("#token").wait_for()
    assert page.evaluate("document.activeElement.id") == "token"
    assert not page.locator("#file").is_visible()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    wait_for_words(page, "#problem", "does not accept this token")
    page.fill("#token", "right")
    page.keyboard.press("Enter")
    page.wait_for_selector("#samples button")
    assert not page.locator("#token").is_visible()
    page.reload()
    page.wait_for_selector("#samples button")


@pytest.mark.parametrize("stages", [True, False])
def test_a_model_without_explanations_predicts_only(open_page, stages):
    """An export without its weights has stages to draw; VGG has none."""

    def silent(route):
        answer = route.fetch()
        facts = answer.json()
        facts["models"] = [facts["models"][0] | {"explains": False}]
        if not stages:
            facts["models"][0]["stages"] = []
        route.fulfill(response=answer, json=facts)

    page = open_page(lambda page: page.route("**/v1/models", silent))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_selector("#samples button")
    try_sample(page, "ship")
    wait_for_words(page, "#news", "says ship")
    assert first_answer(page).startswith("ship")
    assert page.locator(".panel button, .panel input").filter(visible=True).count() == 0
    assert page.locator(".network").is_visible() == stages
    assert ("model.safetensors" if stages else "no stages") in page.inner_text(".caption")
    assert not page.locator("#compare").is_visible()
    assert not any("explain" in url for url in asked)


def test_the_keyboard_reaches_everything(page):
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(
            "document.activeElement.id || document.activeElement.className.split(' ')[0] "
            "|| document.activeElement.closest('[id]')?.id"
        ))  # fmt: skip
        shown = page.evaluate(
            "[document.activeElement, document.activeElement.parentElement]"
            ".some((one) => getComputedStyle(one).outlineStyle !== 'none')"
        )
        assert shown or reached[-1] is None, f"no visible focus on {reached[-1]}"
    stops = ["model", "other", "file", "samples", "stage", "opacity", "card"]
    assert list(dict.fromkeys(name for name in reached if name in stops)) == stops
    page.locator("#samples button").nth(1).focus()
    page.keyboard.press("Enter")
    explained(page)
    assert first_answer(page).startswith("automobile")
    page.locator(".stage").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".stage").get_attribute("aria-valuetext") == "layer2"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator(".opacity").get_attribute("aria-valuetext") == "65 percent"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelectorAll('.answer')[1].ariaPressed === 'true'")


def test_everything_has_a_name_for_screen_readers(page):
    try_sample(page, "bird")
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
def test_a_phone_needs_no_sideways_scrolling(open_page, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.wait_for_selector("#samples button")
    page.select_option("#other", "flat")
    try_sample(page, "airplane")
    explained(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(json.loads(ground.replace("rgb", "").replace("(", "[").replace(")", "]"))) > 384
    assert light == (scheme == "light")


def test_below_a_path_with_names_of_every_kind(open_page, models, tmp_path):
    odd = "<b>ca\u0301t</b>\n&amp; %2e#?"
    (tmp_path / os.fsdecode(odd.replace("/", "\u2215").encode() + b"\xff.png")).write_bytes(
        picture(1)
    )
    model = model_file.load(str(models[0]))
    card = model_file.make_card("cifar-resnet8", [f"{odd} {n}" for n in range(7)], {}, [])
    file = tmp_path / "odd.safetensors"
    model_file.save(file, model.network.state_dict(), model.preprocessing, card)
    options = {"samples": tmp_path, "root_path": "/photos/all"}
    address = started("<i>one & two</i>".replace("/", "\u2215") + f"={file}", **options)
    page = open_page(url=f"{address}/photos/all")  # which leads to the page's own URL
    page.locator("#samples button").click()
    explained(page)
    assert urlsplit(page.url).path == "/photos/all/"
    assert page.locator(".panel-name").inner_text() == "<i>one & two<\u2215i>"
    shown = page.locator("#samples img").get_attribute("alt")
    assert shown == odd.replace("/", "\u2215") + "\\udcff"
    assert page.locator(".answer .name").first.text_content().startswith(odd)
    assert page.locator("b, i:not(.gauge i)").count() == 0
    assert (
        page.locator(".mark")
        .evaluate("e => getComputedStyle(e).backgroundImage")
        .endswith('/photos/all/page/icon.svg")')
    )
    page.get_by_role("link", name="API").click()
    assert urlsplit(page.url).path == "/photos/all/docs"
    page.get_by_role("button", name="GET /v1/models Models").click()
    page.get_by_role("button", name="Execute").click()
    wait_for_words(page, ".live-responses-table tbody .response-col_status", "200")
    wait_for_words(page, ".request-url", "/photos/all/v1/models")
