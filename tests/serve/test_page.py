"""Tests the page in a real browser: Debian's Chromium, controlled by Playwright."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import Server

from moceir import NAFNet, save_network

CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip(f"needs {CHROMIUM}: apt-get install chromium", allow_module_level=True)
api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
expect = api.expect
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """Open the page; any error in its scripts fails the test."""
    yield from opened(browser, server)


def opened(browser: Any, server: Server, **options: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 800}, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(server.url)
    expect(page.locator("#samples img")).to_have_count(5)
    yield page
    context.close()
    assert not complaints


def give(page: Any, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": data})


def restored(page: Any) -> Any:
    page.get_by_role("button", name="Restore", exact=True).click()
    result = page.locator("#result")
    expect(result).to_be_visible()
    expect(page.locator("#busy")).to_be_hidden()
    return result


def zoom(page: Any) -> int:
    return int(re.sub(r"\D", "", page.locator("#zoom").inner_text()))


def test_upload_restore_compare_zoom_and_download(page: Any, file: Path) -> None:
    give(page, "my photo.png", file.read_bytes())
    expect(page.locator("#name")).to_have_text("my photo.png, 80×60")
    expect(page.locator("#download")).to_have_attribute("aria-disabled", "true")
    result = restored(page)
    expect(result).to_contain_text("80×60")
    expect(result.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"Experts taken.*GMACs"))
    expect(page.get_by_role("status").filter(has_text="Restored in")).to_be_visible()

    divider = page.get_by_role("slider", name="Divider between before and restored")
    expect(divider).to_have_attribute("aria-valuenow", "50")
    divider.focus()
    for key in ("ArrowRight", "ArrowRight", "PageUp"):
        page.keyboard.press(key)
    expect(divider).to_have_attribute("aria-valuenow", "64")
    box, card = (page.locator(name).bounding_box() for name in ("#view", "#viewer"))
    assert box["width"] > card["width"] - 4  # a picture that is not as wide stands in the middle
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, middle[1])
    page.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", "0")
    page.keyboard.down("b")  # while held, the whole view shows the degraded picture
    expect(divider).to_have_attribute("aria-valuenow", "100")
    page.keyboard.up("b")

    fitted = zoom(page)
    page.keyboard.press("+")
    assert zoom(page) > fitted
    page.mouse.move(*middle)
    page.mouse.wheel(0, -2000)
    page.wait_for_timeout(100)
    closer = zoom(page)
    assert closer == 1600  # the maximum zoom
    place = page.locator("#after").evaluate("picture => picture.style.transform")
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1] - 40)
    page.mouse.up()
    moved, both = (
        page.locator(f"#{one}").evaluate("picture => picture.style.transform") for one in ("after", "before")
    )
    assert moved == both != place
    page.get_by_role("button", name="1:1").click()
    assert zoom(page) == 100
    page.get_by_role("button", name="Fit").click()
    assert zoom(page) == fitted

    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "my photo_restored.png"
    assert Image.open(download.value.path()).size == (80, 60)


def test_a_picture_is_made_worse_and_restored_again(page: Any, file: Path) -> None:
    give(page, "picture.png", file.read_bytes())
    expect(page.locator("#name")).to_contain_text("80×60")
    before = page.locator("#before").get_attribute("src")
    page.get_by_label("Noise").fill("50")
    expect(page.locator("#before")).not_to_have_attribute("src", before)
    result = restored(page)
    expect(result).to_contain_text("PSNR")
    first = page.locator("#after").get_attribute("src")
    page.get_by_label("Strength").fill("0.5")  # takes effect at once
    expect(page.locator("#after")).not_to_have_attribute("src", first)
    page.locator("summary").click()
    page.get_by_label("Experts", exact=True).select_option("3")
    expect(page.locator("#route-text")).to_contain_text("layer by layer: 3.")
    page.get_by_label("File", exact=True).select_option("tif")  # the browser cannot show it
    expect(result).to_contain_text("TIF, uint8")
    expect(page.locator("#after")).to_have_js_property("naturalWidth", 80)


def test_files_that_cannot_be_taken(page: Any, file: Path) -> None:
    alert = page.get_by_role("alert")
    give(page, "broken.jpg", b"\xff\xd8\xff not a picture")
    expect(alert).to_contain_text("a readable picture")
    give(page, "large.png", bytes(1_000_001))
    expect(alert).to_have_text("large.png has 1 MB; the server takes up to 1 MB.")
    stream = io.BytesIO()
    Image.fromarray(np.zeros((1001, 1000), np.uint8)).save(stream, "TIFF", compression="tiff_deflate")
    give(page, "many.tif", stream.getvalue())
    expect(alert).to_contain_text("1,001,000 pixels")
    give(page, "picture.png", file.read_bytes())
    expect(alert).to_be_hidden()
    expect(page.locator("#viewer")).to_be_visible()


def test_two_at_once(browser: Any, server: Server, page: Any, file: Path) -> None:
    other = opened(browser, server)
    second = next(other)
    for one in (page, second):
        give(one, "picture.png", file.read_bytes())
        expect(one.locator("#name")).to_contain_text("80×60")
    for one in (page, second):
        one.get_by_role("button", name="Restore", exact=True).click()
    for one in (page, second):
        expect(one.locator("#result")).to_be_visible()
    assert next(other, None) is None


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone(browser: Any, server: Server, scheme: str) -> None:
    """Nothing is wider than the screen, and touch targets are large enough."""
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    context = browser.new_context(**phone, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(server.url)
    expect(page.locator("#samples img")).to_have_count(5)
    page.get_by_label("Sample: cat").tap()
    expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 100) == (scheme == "dark")
    for button in page.locator("button:visible, a.button:visible, label.button:visible").all():
        assert button.bounding_box()["height"] >= 32
    context.close()


def test_by_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Sample: astronaut")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible()
    unnamed = "[...document.querySelectorAll('button, input, select')].filter(e => !e.labels?.length " \
        "&& !e.ariaLabel && !e.textContent.trim()).length"  # fmt: skip
    assert page.evaluate(unnamed) == 0


def test_the_server_is_started_again_without_experts(server: Server, page: Any, file: Path, tmp_path: Path) -> None:
    """This is the last test, because it ends the server that the others use."""
    give(page, "picture.png", file.read_bytes())
    expect(page.locator("#name")).to_contain_text("80×60")
    server.end()
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    weights = tmp_path / "network.safetensors"
    save_network(NAFNet(dim=4, num_blocks=(1, 1), num_decoder_blocks=(1,)), weights)
    again = Server(tmp_path, "--port", server.port, "--weights", weights)
    try:
        again.wait()
        restored(page)
        expect(page.get_by_role("alert")).to_be_hidden()

        page.reload()  # the page asks for the network's experts when it opens
        expect(page.locator("#samples img")).to_have_count(5)  # only then does the page take files
        give(page, "picture.png", file.read_bytes())
        expect(page.locator("#name")).to_contain_text("80×60")
        result = restored(page)
        expect(result).to_contain_text("GMACs")
        expect(result.get_by_role("figure")).to_be_hidden()
        expect(page.locator("#routing")).to_be_hidden()
        with again.client() as client:
            answer = client.post("/restore?expert=1", content=file.read_bytes())
        error = "expert=1: the network has no experts; leave it out"
        assert (answer.status_code, answer.json()["error"]) == (400, error)
    finally:
        again.end()
