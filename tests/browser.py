"""A page in a real browser, by what people do with it."""

from typing import Any


class Screen:
    """What Chromium shows."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def decoded(self) -> list[int]:
        """The widths of all pictures, as soon as none is being decoded."""
        widths = self.driver.execute_async_script(
            "const done = arguments[0]; const all = [...document.images];"
            "Promise.allSettled(all.map((i) => i.decode())).then(() => done(all.map((i) => i.naturalWidth)));"
        )
        return list(widths)

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find(selector)).select_by_value(value)

    def drag(self, element: Any, start: tuple[int, int], by: tuple[int, int]) -> None:
        """With the mouse; ``start`` is counted from the middle of the element."""
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.driver, duration=20).move_to_element_with_offset(element, *start).click_and_hold()
        actions.move_by_offset(*by).release().perform()

    def resize(self, width: int, height: int = 900) -> None:
        """A window of that size; a narrow one is a telephone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]
