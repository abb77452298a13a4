"""Take the pictures of the page in the browser: python -m docs.make_screenshots."""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.speed.app_load import serve

IMAGES = Path(__file__).parent / "images"


def main():
    """Use each tab, with an example that ships, and write its picture."""
    with serve() as (port, *_), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(f"http://127.0.0.1:{port}")

        def press(name):
            page.get_by_role("button", name=name, exact=True).click()

        def save(name):
            page.wait_for_timeout(1000)  # for bars to grow, and messages to go
            page.screenshot(path=IMAGES / f"app_{name}.png", full_page=True)

        press("a yellow pullover right of a green bag")
        page.get_by_alt_text("green-bag.png").wait_for()
        press("Classify")
        page.get_by_alt_text("Denoising error").wait_for()
        save("classify")
        page.get_by_role("tab", name="Which caption?").click()
        press("an ankle boot left of a trouser / a trouser left of an ankle boot")
        page.get_by_alt_text("scene-2.png").wait_for()
        press("Match")
        page.get_by_text("A row tells").wait_for()
        save("captions")
        page.get_by_role("tab", name="Folder").click()
        press("or 24 labelled photos that ship")
        page.get_by_text("24 images.").wait_for()
        press("Classify the folder")
        page.get_by_alt_text("Confusion matrix").wait_for(timeout=120_000)
        save("folder")
        browser.close()


if __name__ == "__main__":
    main()
