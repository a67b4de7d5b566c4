"""The report as a browser shows it: light, dark, on a phone and printed. Needs a Chromium on the PATH.

Driven over the DevTools protocol; a picture of every state goes to $ALGO_ROYALE_SCREENSHOTS, if that names a folder.
"""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from algo_royale.app import report
from algo_royale.app.report import model
from algo_royale.research import stages
from algo_royale.research.plan import ResearchConfig
from algo_royale.research.viability import Check, ViabilityConfig

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for found in map(shutil.which, NAMES) if found), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is on the PATH")

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip
DESKTOP, PHONE, PAPER = 1280, 390, 688  # CSS pixels; A4 less its margins
SCALE, HEIGHT_MAX = 0.5, 16_000  # of a picture; of the page that it shows, in CSS pixels
STATES = [
    pytest.param(width, scheme, media, id=f"{scheme}-{media}-{width}")
    for width, scheme, media in [
        (DESKTOP, "light", "screen"), (DESKTOP, "dark", "screen"), (PHONE, "light", "screen"), (PHONE, "dark", "screen"),
        (PAPER, "light", "print"),
    ]
]  # fmt: skip


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, profile: Path) -> None:
        command = [str(CHROMIUM), *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self.process.stderr is not None
        lines = itertools.takewhile(lambda line: line, iter(self.process.stderr.readline, ""))
        port = next(
            found[1] for line in lines if (found := re.search(r"DevTools listening on ws://[^:]+:(\d+)/", line))
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True)
        self.numbers, self.events = itertools.count(1), list[dict[str, Any]]()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def evaluate(self, script: str) -> Any:
        found = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, url: str, width: int, scheme: str, media: str) -> None:
        phone = width == PHONE
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.do("Emulation.setEmulatedMedia", media=media, features=features)
        self.events.clear()
        self.do("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def said(self) -> list[str]:
        """Errors and warnings of the page since it was opened."""
        out = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                out.append(str(event["params"]["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"):
                out.append(str(event["params"]["args"]))
            elif event["method"] == "Log.entryAdded":
                out.append(event["params"]["entry"]["text"])
        return out

    def fetched(self) -> list[str]:
        sent = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return sorted(set(sent))

    def picture(self) -> str:
        """The whole page at half its size as PNG, in base64."""
        size = self.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], HEIGHT_MAX), "scale": SCALE}
        return str(self.do("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def close(self) -> None:
        """Ask it to end: the process that was started may be a script around it."""
        self.do("Browser.close")
        self.socket.close()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the report of a small run is: one symbol viable, one not, one without a verdict, and a portfolio."""
    folder = tmp_path_factory.mktemp("seen")
    wanted = ViabilityConfig(
        checks=(Check(name="max_drawdown", op="<=", threshold=0.5), Check(name="sharpe_ratio", op=">=", threshold=0.6)),
        threshold=0.9, hard_checks=(),
    )  # fmt: skip
    config = ResearchConfig(
        artifacts_root=folder / "artifacts", symbols=("AAPL", "FB", "IBM"), viability=wanted, trials=2, portfolio_trials=1,
        strategies=("BollingerBandsStrategy", "MeanReversionStrategy"), min_trades=1, portfolios=("InverseVolatilityPortfolioStrategy",),
    )  # fmt: skip
    stages.run_all(config)
    (folder / "report.html").write_text(report.render(model.load(config.artifacts_root)))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


# What is cut off, and by whom: text must fit its box, a table may be wider than a phone only where it can be scrolled.
CUT = """
[...document.querySelectorAll('body *')].filter(e => {
  const style = getComputedStyle(e);
  if (e.closest('svg') || !e.offsetParent || style.overflowX === 'visible') return false;
  if (e.matches('.wide') && innerWidth < 700 && !e.querySelector('.verdicts, .trust, .checks, .costs, .falls')) return false;
  return e.scrollWidth > e.clientWidth + 1;
}).map(e => e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40))
"""

# Text and what it stands on, by WCAG 2: each background over the one below it, each colour over that, opacity included.
FAINT = """
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const known = new Map(), rgba = colour => {
    if (!known.has(colour)) known.set(colour, drawn(colour));
    return [...known.get(colour)];
  };
  const drawn = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + .05) / (y + .05); };
  const ground = e => {
    const chain = []; for (let p = e; p; p = p.parentElement) chain.unshift(p);
    return chain.reduce((below, p) => over(rgba(getComputedStyle(p).backgroundColor), below), [255, 255, 255, 1]);
  };
  const out = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.offsetParent || e.closest('svg, style')) continue;
    const style = getComputedStyle(e), size = parseFloat(style.fontSize), bold = style.fontWeight >= 600;
    const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5, below = ground(e);
    const ink = rgba(style.color); for (let p = e; p; p = p.parentElement) ink[3] *= getComputedStyle(p).opacity;
    const found = ratio(over(ink, below), below);
    if (found < needed) out.push(found.toFixed(2) + ' of ' + needed + ': ' + e.className + ' ' + node.data.trim().slice(0, 30));
  }
  for (const line of document.querySelectorAll('.line, .trade path')) {  // what is drawn needs 3 to 1
    const found = ratio(rgba(getComputedStyle(line).stroke), ground(document.body));
    if (found < 3) out.push(found.toFixed(2) + ' of 3: ' + line.getAttribute('class'));
  }
  return [...new Set(out)];
})()
"""

# Each chart with its box on the page, and what in its drawing has no extent.
CHARTS = """
[...document.querySelectorAll('.plot, .heat, .ribbon, .range, .spark, .costs')].filter(e => e.getClientRects().length).map(e => {
  const box = e.getBoundingClientRect(), svg = e.matches('svg') ? e : e.querySelector('svg');
  const paths = svg ? [...svg.querySelectorAll('path')] : [];
  return {
    kind: e.getAttribute('class'), name: svg?.getAttribute('aria-label') ?? '',
    x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height,
    empty: paths.filter(p => !p.getAttribute('d') || /NaN|Infinity/.test(p.getAttribute('d'))
      || (!p.matches('.dot') && p.getTotalLength() === 0)).length,
    lines: paths.filter(p => p.matches('.line, .area')).length,
  };
})
"""

# Share of the pixels of each box that differ from its most frequent colour.
INKED = """
(async (png, boxes) => {
  const picture = await createImageBitmap(await (await fetch('data:image/png;base64,' + png)).blob());
  const canvas = new OffscreenCanvas(picture.width, picture.height).getContext('2d', {willReadFrequently: true});
  canvas.drawImage(picture, 0, 0);
  return boxes.map(([x, y, width, height]) => {
    const data = new Uint32Array(canvas.getImageData(x, y, width, height).data.buffer), counts = new Map();
    data.forEach(p => counts.set(p, (counts.get(p) ?? 0) + 1));
    return 1 - Math.max(...counts.values()) / data.length;
  });
})
"""


@pytest.mark.parametrize(("width", "scheme", "media"), STATES)
def test_the_page_is_whole_and_legible(browser: Browser, page: str, width: int, scheme: str, media: str) -> None:
    """No word to the console, nothing from elsewhere, nothing cut off, contrast by WCAG AA, ink in every chart."""
    browser.open(page, width, scheme, media)

    assert browser.said() == []
    assert browser.fetched() == [page]
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(CUT) == []
    assert browser.evaluate(FAINT) == []
    charts, picture = browser.evaluate(CHARTS), browser.picture()
    assert {"spark", "heat", "range", "costs"} <= {chart["kind"].split()[0] for chart in charts}
    for chart in charts:
        assert chart["width"] > 30 and chart["height"] > 8 and not chart["empty"], chart
        assert chart["lines"] or not chart["kind"].startswith("plot"), chart
    browser.open("about:blank", width, scheme, media)
    seen = [chart for chart in charts if chart["y"] + chart["height"] < HEIGHT_MAX]
    assert len(seen) > len(charts) / 2
    boxes = [[int(chart[key] * SCALE) for key in ("x", "y", "width", "height")] for chart in seen]
    for chart, inked in zip(
        seen, browser.evaluate(f"({INKED})({json.dumps(picture)}, {json.dumps(boxes)})"), strict=True
    ):
        assert inked > 0.005, (chart, inked)
    keep(f"{scheme}-{media}-{width}.png", picture)


def test_dark_is_dark_and_light_is_light_and_paper_is_white(browser: Browser, page: str) -> None:
    ground = {}
    for width, scheme, media in ((DESKTOP, "light", "screen"), (DESKTOP, "dark", "screen"), (PAPER, "dark", "print")):
        browser.open(page, width, scheme, media)
        shown = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        ground[scheme, media] = sum(map(int, re.findall(r"\d+", shown)[:3])) / 3

    assert ground["light", "screen"] > 240
    assert ground["dark", "screen"] < 40
    assert ground["dark", "print"] == 255


def test_every_link_leads_somewhere(browser: Browser, page: str) -> None:
    browser.open(page, DESKTOP, "light", "screen")
    links = browser.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")

    assert {"#top", "#Portfolio", "#AAPL", "#IBM"} <= set(links)
    assert all(browser.evaluate(f"!!document.getElementById({link[1:]!r})") for link in set(links))


def test_it_prints_a_page_per_subject_and_no_more_than_it_must(browser: Browser, page: str) -> None:
    """Each section begins on a sheet of its own; what is folded away stays away."""
    browser.open(page, DESKTOP, "light", "")
    printed = browser.do("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]
    sheets = len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed)))
    sections = browser.evaluate("document.querySelectorAll('section.subject').length")
    browser.open(page, PAPER, "light", "print")
    begins = browser.evaluate(
        "[...document.querySelectorAll('section.subject')].map(s => getComputedStyle(s).breakBefore)"
    )

    assert begins == ["page"] * 3 and sections == 3
    assert sections + 1 < sheets < 6 * (sections + 1)
    keep("printed.pdf", printed)


def keep(name: str, data: str) -> None:
    if folder := os.environ.get("ALGO_ROYALE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(base64.b64decode(data))
