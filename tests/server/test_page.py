"""The page in a real browser (Debian's Chromium), against a real server."""

import re
import shutil

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.served import running

pytestmark = pytest.mark.browser
REFUSED = re.compile("status of (409|429)")  # what Chromium itself says of answers that a test wants
KINDS = {  # of problems, as the server's code names them; an outcome of a photo is none of these
    kind
    for path in (ROOT / "facegallery" / "server").rglob("*.py")
    for kind in re.findall(r'HttpProblem\(\s*\d+,\s*"([a-z-]+)"', path.read_text())
} - {"invalid", "length", "headers", "media-type", "mark"}  # of programs that send what this page does not
VIEWPORTS = {"desk": (1100, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "these tests need a browser: install Debian's package chromium"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"],
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def server(att_gallery, tmp_path_factory):
    folder = att_gallery(tmp_path_factory.mktemp("page"))
    a, b = (Image.open(folder / "photos" / "probe" / f"s{i}" / "2.pgm").resize((276, 336)) for i in (5, 3))
    both = Image.new("L", (760, 460), 90)
    both.paste(a, (50, 60))
    both.paste(b, (430, 60))
    both.convert("RGB").save(folder / "two.png")
    both.convert("RGB").save(folder / "two.tiff")  # which no browser shows but Safari
    for i in range(1, 41):
        Image.open(folder / "photos" / "probe" / f"s{i}" / "3.pgm").convert("RGB").save(folder / f"s{i}.png")
    with running(folder) as found:
        with found.client() as client:
            job = client.post("/v1/indexes/att/calibrate", json={"fpir": 0.1}).json()
            while client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running":
                pass
        yield found


@pytest.fixture(params=VIEWPORTS)
def page(browser, server, request):
    """Signed in by the printed address; fails where the console says anything, or another server is asked."""
    width, height = VIEWPORTS[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        permissions=["camera"],
        color_scheme="dark" if request.param == "phone" else "light",
    )
    found, said, foreign = context.new_page(), [], []
    found.on("console", lambda message: REFUSED.search(message.text) or said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda asked: asked.url.startswith((server.url, "blob:", "data:")) or foreign.append(asked.url))
    found.goto(f"{server.url}/#key={server.key}")
    found.get_by_role("heading", name="Who is it?").wait_for()
    yield found
    context.close()
    assert (said, foreign) == ([], [])


def search(page, server, name):
    page.set_input_files("#file", server.photos.parent / name)
    page.locator("article.face").first.wait_for()


def go(page, view):
    page.get_by_role("link", name=view, exact=True).click()


def person(page, name):
    page.get_by_role("listitem").get_by_role("button", name=name + " 1 photo", exact=True).click()
    return page.get_by_role("dialog")


def fill(page, label, text, action):
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(label).fill(text)
    dialog.get_by_role("button", name=action, exact=True).click()


def news(page, text):
    page.locator("#news", has_text=text).wait_for()


def undo(page):
    page.locator("#news").get_by_role("button", name="Undo").click()
    news(page, "Undone.")


def wait_for_count(locator, n):
    from playwright.sync_api import expect

    expect(locator).to_have_count(n)


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    return [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in Axe().run(page).response["violations"]]


def test_the_key_of_the_address_becomes_a_session_and_leaves_the_address(page, server):
    assert "fdb_" not in page.url
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["value"] not in server.key
    page.reload()
    page.get_by_role("heading", name="Who is it?").wait_for()


def test_the_faces_of_a_photo_are_boxed_and_described_in_words(page, server):
    search(page, server, "two.png")
    page.get_by_role("heading", name="2 faces").wait_for()
    frame = page.locator(".frame img").bounding_box()
    for box in page.locator(".box").all():
        found = box.bounding_box()
        assert frame["x"] <= found["x"] and found["x"] + found["width"] <= frame["x"] + frame["width"] + 1
        assert frame["y"] <= found["y"] and found["y"] + found["height"] <= frame["y"] + frame["height"] + 1
    texts = page.locator(".verdict").all_inner_texts()
    assert any("Known: s5." in text for text in texts) and all("A stranger scores as high in" in text for text in texts)
    assert all("people are enrolled, too few for a rate of 0.1" in text for text in texts)
    assert page.locator(".hits").first.get_by_role("listitem").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".box").first.click()
    assert page.evaluate("document.activeElement.className").startswith("face")
    page.locator(".hits").first.get_by_role("button").first.click()
    assert page.get_by_role("dialog").get_by_role("heading").inner_text().split(":")[0] in ("s5", "s3")
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0


def test_a_photo_is_pasted_and_dropped(page, server):
    for kind in ("paste", "drop"):
        page.evaluate(
            """async ([kind, url]) => {
              const image = await createImageBitmap(await (await fetch(url)).blob());
              const canvas = new OffscreenCanvas(184, 224);
              canvas.getContext('2d').drawImage(image, 0, 0, 184, 224);
              const data = new DataTransfer();
              const png = { type: 'image/png' }, blob = await canvas.convertToBlob(png);
              for (const name of ['x.png', 'y.png']) data.items.add(new File([blob], name, png));
              const event = kind === 'paste' ? new ClipboardEvent('paste', { clipboardData: data })
                : new DragEvent('drop', { dataTransfer: data, bubbles: true });
              (kind === 'paste' ? window : document.querySelector('header')).dispatchEvent(event);
            }""",
            [kind, thumbnail(page, "s8")],
        )
        news(page, "One photo at a time: x.png is searched, one other is not.")
        page.locator(".verdict", has_text="s8").wait_for()
        go(page, "People")
        go(page, "Search")


def thumbnail(page, name):
    return page.evaluate(
        """async name => {
          const api = await import('/page/api.js');
          return api.thumbnail('att', (await api.faces('att', name))[0].face_id);
        }""",
        name,
    )


def test_the_camera_takes_a_photo(page):
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the photo").click()
    page.get_by_role("heading", name="No face was found in this photo.").wait_for()  # the test picture has none


def test_an_unknown_face_is_enrolled_and_taken_back(page, server):
    search(page, server, "s9.png")
    page.locator(".actions").get_by_role("button").last.click()
    fill(page, "Name", "Niña <b>Ünïcode</b>", "Enrol")
    news(page, "Enrolled as Niña <b>Ünïcode</b>.")
    assert page.locator(".hit").first.inner_text().startswith("Niña <b>Ünïcode</b>")
    undo(page)
    page.locator(".verdict", has_text="s9").wait_for()
    assert "Niña" not in page.locator(".hits").inner_text()


def test_a_known_face_is_added_to_its_person_once(page, server):
    search(page, server, "s10.png")
    page.get_by_role("button", name="It is s10: add this photo").dblclick()
    news(page, "Enrolled as s10.")
    assert page.evaluate("document.activeElement.id") == "face-0"
    undo(page)
    with server.client() as client:
        assert len(client.get("/v1/indexes/att/faces?identity=s10").json()["faces"]) == 1


def test_a_photo_that_was_enrolled_as_somebody_else_is_corrected(page, server):
    search(page, server, "s14.png")
    page.locator(".actions").get_by_role("button").last.click()
    fill(page, "Name", "Bob", "Enrol")
    news(page, "Enrolled as Bob.")
    page.locator(".actions").get_by_role("button").last.click()
    fill(page, "Name", "  ", "Enrol")
    page.get_by_role("alert").filter(has_text="Enter something").wait_for()
    fill(page, "Name", "Ann", "Enrol")
    page.get_by_role("heading", name="This photo is enrolled as Bob").wait_for()
    page.get_by_role("button", name="It is Ann: correct it").click()
    news(page, "The photo is now Ann's.")
    assert page.locator(".hit").first.inner_text().startswith("Ann")
    undo(page)
    page.locator(".hit").first.filter(has_text="Bob").wait_for()
    with server.client() as client:
        client.post("/v1/indexes/att/people/remove", json={"identity": "Bob"}).raise_for_status()


def test_a_photo_that_the_browser_cannot_show_enrols_nobody_blindly(page, server):
    search(page, server, "two.tiff")
    page.get_by_text("This browser cannot show this kind of photo.").wait_for()
    assert page.locator("article.face").count() == 2 and page.locator(".face .actions").count() == 0
    page.locator(".hit").first.click()
    assert "add this photo" not in page.get_by_role("dialog").inner_text()


def test_what_is_too_busy_is_asked_again_and_what_is_too_large_is_not_sent(page, server):
    refused = []

    def once(route):
        if (kind := route.request.url.rpartition("/")[2]) in refused:
            return route.continue_()
        refused.append(kind)
        route.fulfill(
            status=429, headers={"Retry-After": "1"}, json={"detail": "expected at most 50 requests a second"}
        )

    for path in ("**/people?*", "**/thumbnail"):
        page.route(path, once)
    go(page, "People")
    page.locator(".people li").first.wait_for()
    page.evaluate(
        """new Promise(done => (function look() {
          [...document.images].slice(0, 6).every(i => i.naturalWidth) ? done() : setTimeout(look, 100);
        })())"""
    )
    assert len(refused) == 2
    said = """async () => {
      const large = new File([new Uint8Array(21 << 20)], 'x');
      return (await import('/page/api.js')).search('att', large).catch(problem => problem.message);
    }"""
    assert page.evaluate(said) == "This photo has more than 20 MB. Make it smaller."


def test_people_are_found_and_corrected(page):
    go(page, "People")
    page.get_by_label("Find").fill("s2")
    wait_for_count(page.locator(".people li"), 11)
    person(page, "s21").get_by_role("button", name="Correct the name").click()
    fill(page, "New name", "s22", "Rename")
    page.get_by_role("alert").filter(has_text="s22 is enrolled already").wait_for()
    fill(page, "New name", "Two One", "Rename")
    news(page, "s21 is now called Two One.")
    undo(page)
    person(page, "s22").get_by_role("button", name="Same person as").click()
    fill(page, "All photos of s22 go to", "s23", "Merge")
    news(page, "s22 was merged with s23.")
    page.get_by_role("button", name="s23 2 photos").wait_for()
    assert page.evaluate("document.activeElement.innerText").startswith("s23")
    undo(page)
    person(page, "s24").get_by_role("button", name="is somebody else").click()
    fill(page, "Name", "s2 the other", "Change")
    news(page, "The photo is now s2 the other's.")
    undo(page)
    person(page, "s25").get_by_role("button", name="Remove", exact=True).click()
    news(page, "s25 removed.")
    undo(page)
    page.get_by_role("button", name="s25 1 photo").wait_for()


def test_somebody_is_forgotten_after_a_warning(page, server):
    name = "s40" if page.viewport_size["width"] > 400 else "s39"
    go(page, "People")
    page.get_by_label("Find").fill(name)
    wait_for_count(page.locator(".people li"), 1)
    person(page, name).get_by_role("button", name="Forget for good").click()
    dialog = page.get_by_role("dialog")
    assert "cannot be undone" in dialog.inner_text()
    button = dialog.get_by_role("button", name="Forget for good", exact=True)
    dialog.get_by_label(f"Type {name} to confirm").fill("s")
    assert button.is_disabled()
    dialog.get_by_label(f"Type {name} to confirm").fill(name)
    button.click()
    page.get_by_role("heading", name="Forgotten").wait_for()
    assert "0 traces are left" in dialog.inner_text() and "original photos" in dialog.inner_text()
    page.get_by_role("button", name="Close").first.click()
    page.get_by_text("Nobody has such a name.").wait_for()


def test_the_index_is_described_calibrated_and_rebuilt(page):
    go(page, "Index")
    page.get_by_text("photos of").wait_for()
    page.get_by_role("button", name="Rebuild").click()
    news(page, "Rebuilt: ")
    page.get_by_role("button", name="Calibrate").click()
    fill(page, "Share of strangers", "2", "Calibrate")
    page.get_by_role("alert").filter(has_text="Enter a share").wait_for()
    fill(page, "Share of strangers", "0.1", "Calibrate")
    news(page, "Calibrated: ")


def test_nothing_stands_in_the_way_of_anybody(page, server):
    assert violations(page) == []
    search(page, server, "two.png")
    assert violations(page) == []
    page.locator(".hits").first.get_by_role("button").first.click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    go(page, "People")
    page.locator(".people li").first.wait_for()
    assert violations(page) == []
    page.locator(".people button").first.click()
    page.locator(".faces li").first.wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Forget for good").click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    go(page, "Index")
    page.locator("dl").wait_for()
    assert violations(page) == []


def test_going_back_closes_what_is_open(page):
    go(page, "People")
    person(page, "s30").get_by_role("heading", name="s30").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Who is it?").wait_for()
    assert page.get_by_role("dialog").count() == 0
    page.go_forward()
    page.get_by_role("heading", name="People").wait_for()


def test_all_goes_by_keyboard(page, server):
    go(page, "People")
    page.locator(".skip").press("Enter")
    page.get_by_role("heading", name="People").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"
    page.reload()
    page.locator(".people li").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    go(page, "Search")
    search(page, server, "s12.png")
    for _ in range(40):
        page.keyboard.press("Tab")
        if "hit" in page.evaluate("document.activeElement.className"):
            break
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    assert "hit" in page.evaluate("document.activeElement.className")  # back where it was


def test_without_a_session_a_key_is_asked_for_and_less_may_be_done_with_less(browser, server):
    key = server.command("keys", "make", f"reader {server.process.pid}", "--quiet")
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").filter(has_text="not valid").wait_for()
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    search(page, server, "s12.png")
    assert page.locator(".face .actions").count() == 0
    context.clear_cookies()  # as when a session ends
    page.get_by_role("link", name="People", exact=True).click()
    page.get_by_label("Key").wait_for()
    assert page.locator("nav").is_hidden()
    page.evaluate(
        "key => { location.hash = `key=${key}`; }", server.key
    )  # the address that `serve` prints, in this tab
    page.get_by_role("heading", name="Who is it?").wait_for()
    assert "fdb_" not in page.url
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Key").wait_for()
    assert page.context.cookies() == []
    context.close()


def test_no_message_is_of_the_command_line(page, server):
    """Every problem that the server names has a text of the page's own, without commands or options."""
    texts = page.evaluate(
        """async kinds => {
          const { explain } = await import('/page/messages.js');
          return kinds.map(kind => explain(400, { type: `urn:x:${kind}`, detail: 'run `x`' }));
        }""",
        sorted(KINDS),
    )
    assert len(KINDS) > 15
    for kind, text in zip(sorted(KINDS), texts, strict=True):
        assert text.endswith(".") and "`" not in text and "--" not in text and "an error (400)" not in text, (
            kind,
            text,
        )
