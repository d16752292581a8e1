"""Pictures of the page of `faitheir serve` with its example, for docs/: two widths, light and dark.

    python benchmarks/screenshots.py docs/images

It needs Chromium and its driver (apt-get install chromium chromium-driver) and selenium, as the tests of the page do.
"""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SIZES = {390: 844, 1400: 960}


def until(driver: webdriver.Chrome, script: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not driver.execute_script(f"return {script}"):
        if time.monotonic() > end:
            raise SystemExit(f"after {seconds:g} s it does not hold: {script}")
        time.sleep(0.1)


def main(folder: Path) -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    command = [sys.executable, "-m", "faitheir", "serve", "--port", "0"]
    with (
        tempfile.TemporaryDirectory() as profile,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        options.add_argument(f"--user-data-dir={profile}")
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None
        service = Service(shutil.which("chromedriver"), env={**os.environ, "SE_OFFLINE": "true"})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.get(address[0])
            until(driver, "document.querySelectorAll('#model option').length")
            driver.execute_script("document.getElementById('example').click()")
            until(driver, "/dB/.test(document.getElementById('facts').textContent)")
            for width, height in SIZES.items():
                for scheme in ("light", "dark"):
                    touch = {"enabled": width < 500}
                    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", touch)
                    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
                    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
                    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                    # A telephone's page is long: all of it; a wide one: what is seen first.
                    whole = width < 500
                    where = "scrollTo(0, 0)" if whole else "document.getElementById('look').scrollIntoView()"
                    time.sleep(1)
                    driver.execute_script(where)
                    taken = driver.execute_cdp_cmd(
                        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole}
                    )
                    image = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
                    name = f"serve-{width}{'-dark' if scheme == 'dark' else ''}.webp"
                    image.save(folder / name, quality=85, method=6)
                    print(f"{name}: {image.size}, {(folder / name).stat().st_size / 1000:.0f} kB")
        finally:
            driver.quit()
            server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
