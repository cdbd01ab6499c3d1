from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from .conftest import App, Notebook

CHART = """
import math
from nbft.widgets.chart import Chart, Series
chart = Chart(
    [Series("loss", "train loss", smooth=True), Series("eval_loss", "held-out loss", style="marks")],
    y_label="loss",
    title="kind-otter-14",
)
def grow(steps, every=10):
    start = chart._table.rows
    for step in range(start + 1, start + steps + 1):
        chart.append(step, loss=1.3 + math.exp(-step / 12) + 0.1 * math.sin(step * 1.7))
        if step % every == 0:
            chart.append(step, eval_loss=1.4 + math.exp(-step / 12))
    chart.flush()
grow(40)
chart.mark(10, "warm-up ends")
chart
"""


def drawing(scope: Locator) -> Locator:
    return scope.get_by_role("img", name=re.compile("train loss: "))


def expect_points(scope: Locator, points: int) -> None:
    expect(scope.get_by_text(f"{points:,} points", exact=True)).to_be_visible()


def painted_pixels(scope: Locator, color: str = "#1f83c9") -> int:
    """Count the pixels of the canvas that have nearly this colour."""
    return scope.locator("canvas").evaluate(
        """(canvas, color) => {
            const wanted = [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16));
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] > 200 && wanted.every((v, k) => Math.abs(v - data[i + k]) < 24)) count++;
            return count;
        }""",
        color,
    )


def wait_for_axis(scope: Locator, is_light: bool) -> None:
    """Wait until the words on the x axis, the strongest ink below the plot, are light or dark."""
    scope.page.wait_for_function(
        """([canvas, isLight]) => {
            const h = Math.round(canvas.height * 0.1);
            const context = canvas.getContext('2d');
            const { data } = context.getImageData(0, canvas.height - h, canvas.width, h);
            let best = [0, 0, 0, 0];
            for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] > best[3]) best = [...data.slice(i, i + 4)];
            return isLight ? Math.min(...best.slice(0, 3)) > 180 : Math.max(...best.slice(0, 3)) < 90;
        }""",
        arg=[scope.locator("canvas").element_handle(), is_light],
        timeout=5000,
    )


def test_grows_zooms_and_speaks(
    notebook: Notebook, axe: Callable[[Locator], list[str]], console_errors: list[str]
) -> None:
    notebook.open([CHART, "grow(1)", "grow(100)"])
    output = notebook.run_cell(0)
    page = notebook.page

    # It paints, and says what it shows.
    expect_points(output, 40)
    expect(drawing(output)).to_have_attribute("aria-label", re.compile("40 points, step 1 to 40"))
    assert painted_pixels(output) > 200
    assert painted_pixels(output, "#d55e00") > 30

    # It grows from the kernel.
    notebook.run_cell(1)
    expect_points(output, 41)
    label = drawing(output).get_attribute("aria-label")
    assert label == f"kind-otter-14. {notebook.kernel_eval('chart.summary()')}"
    assert axe(output) == []
    notebook.screenshot("chart-light", output)

    # The logarithmic axis, by keyboard.
    log = output.get_by_role("button", name="Log axis")
    log.focus()
    page.keyboard.press("Enter")
    expect(log).to_have_attribute("aria-pressed", "true")
    notebook.expect_value("chart.log_y", True)
    notebook.screenshot("chart-log", output)

    # Values by arrow keys; they stay in the chart and leave the notebook's cells alone.
    drawing(output).focus()
    page.keyboard.press("Home")
    expect(output.get_by_role("status")).to_contain_text("train loss of each step 2.319")
    page.keyboard.press("ArrowRight")
    expect(output.get_by_role("status")).to_contain_text("step 2,")
    page.keyboard.press("End")
    expect(output.get_by_role("status")).to_contain_text("step 41,")

    # Zoom by drag, reset by button, zoom by key, reset by double click.
    reset = output.get_by_role("button", name="Reset zoom")
    expect(reset).to_be_disabled()
    over = output.locator(".u-over")
    box = over.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 100, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, middle, steps=4)
    page.mouse.up()
    expect(reset).to_be_enabled()
    notebook.run_cell(2)  # growing does not end the zoom
    expect(drawing(output)).to_have_attribute("aria-label", re.compile("141 points"))
    expect(reset).to_be_enabled()
    notebook.screenshot("chart-zoomed", output)
    reset.click()
    expect(reset).to_be_disabled()
    drawing(output).focus()
    page.keyboard.press("+")
    expect(reset).to_be_enabled()
    over.dblclick()
    expect(reset).to_be_disabled()
    assert not [line for line in console_errors if "nbft" in line or "uPlot" in line]


def test_late_views_are_whole(notebook: Notebook) -> None:
    notebook.open([CHART, "chart", "grow(60)"])
    first = notebook.run_cell(0)
    second = notebook.run_cell(1)
    expect_points(second, 40)
    assert painted_pixels(second) > 200

    notebook.save()
    notebook.reload()
    expect_points(first, 40)
    notebook.run_cell(2)
    expect_points(first, 100)
    expect_points(second, 100)


def test_shows_a_busy_cell(notebook: Notebook) -> None:
    """While a cell runs, ipykernel may not hear the front end; the curve comes all the same."""
    busy = """
import time
from IPython.display import display
display(chart)
for _ in range(60):
    grow(1)
    time.sleep(0.1)
"""
    notebook.open([CHART.replace("\nchart\n", ""), busy])
    notebook.run_cell(0)
    output = notebook.run_cell(1, wait=False)
    expect(drawing(output)).to_have_attribute("aria-label", re.compile("points, step 1 to"))
    assert "[*]" in notebook.cell(1).locator(".jp-InputPrompt").inner_text()


def test_dark_theme_and_narrow_page(notebook: Notebook) -> None:
    notebook.open([CHART], theme="dark", width=700)
    output = notebook.run_cell(0)
    expect_points(output, 40)
    notebook.screenshot("chart-dark-700")
    wait_for_axis(output, is_light=True)
    assert output.evaluate("node => node.scrollWidth <= node.clientWidth")

    notebook.set_theme("light")  # live
    wait_for_axis(output, is_light=False)


def test_100_000_points(notebook: Notebook) -> None:
    notebook.open([CHART, "grow(100_000, every=1000)", "grow(10)"])
    output = notebook.run_cell(0)
    expect_points(output, 40)
    notebook.run_cell(1)
    expect_points(output, 100_040)
    notebook.run_cell(2)
    expect_points(output, 100_050)
    assert painted_pixels(output) > 200
    notebook.screenshot("chart-100000", output)
    drawing(output).focus()
    notebook.page.keyboard.press("End")
    expect(output.get_by_role("status")).to_contain_text("step 100,050")


@pytest.mark.parametrize("app", ["notebook", "voila"])
def test_other_front_ends(notebook: Notebook, app: App) -> None:
    notebook.open([CHART], app=app)
    output = notebook.output(0) if app == "voila" else notebook.run_cell(0)
    expect_points(output, 40)
    assert painted_pixels(output) > 200
    notebook.screenshot(f"chart-{app}")


def test_without_the_bundle_the_words_are_live(notebook: Notebook) -> None:
    unbuilt = """
from nbft.widgets import chart as module
class Unbuilt(module.Chart):
    _esm, _css = module._FALLBACK, ""
chart = Unbuilt([module.Series("loss")])
chart
"""
    notebook.open([unbuilt, "chart.append(1, loss=2.1); chart.flush()"])
    output = notebook.run_cell(0)
    expect(output).to_contain_text("Node.js was absent")
    expect(output).to_contain_text("loss: no points yet")
    notebook.run_cell(1)
    expect(output).to_contain_text("loss: 2.10 at step 1")
