"""The page of a run, driven in a browser: what it shows is what the run did, and large graphs stay usable."""

from __future__ import annotations

import json
import re
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import frozen
from PIL import Image

from graphpress import pipelines
from graphpress.ir import from_module, parse_graph
from graphpress.ir.graph import Graph
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import EXACT, Hook, Pass, PassFailed, Pipeline, Runner
from graphpress.tools.models import MODELS
from graphpress.tools.passctl.page import Opening, Recording, page
from graphpress.tools.passctl.page.recording import order_delta
from tests.tools.passctl.browser import chromium, prefer

HOSTILE = '</script><script>window.broken = 1</script><b>"&amp;\u2028'


def captured(name: str) -> Graph:
    entry = MODELS[name]
    return from_module(entry.build(), entry.example_inputs())


class Orders(Hook):
    """The names of the nodes after every step."""

    def __init__(self, start: Graph) -> None:
        self.orders = [[node.name for node in start.nodes]]

    def after(self, step, graph, record) -> None:
        self.orders.append([node.name for node in graph.nodes])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> tuple[Path, list[list[str]], Graph]:
    """The page of a small network's joint pipeline, the order of nodes after every step, and the last graph."""
    graph = captured("small_resnet")
    recording, orders = Recording(graph), Orders(graph)
    result = Runner([recording, orders]).run(graph, pipelines.joint(None, None), in_place=True)
    path = tmp_path_factory.mktemp("page") / "joint.html"
    path.write_text(page(recording, HOSTILE, "joint"), encoding="utf-8")
    return path, orders.orders, result.graph


@pytest.fixture
def shown(browser, joint):
    """The page, freshly opened; nothing may be left in the console."""
    prefer(browser, "light")
    browser.get(joint[0].as_uri())
    yield browser
    assert browser.get_log("browser") == []


def run(browser, script: str):
    return browser.execute_script(f"return {script}")


def press(browser, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def wait_for_frame(browser) -> None:
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def click_node(browser, name: str) -> None:
    """Bring the node into view by the list, then click where it is drawn."""
    from selenium.webdriver.common.action_chains import ActionChains

    run(browser, f"passctl.select({json.dumps(name)}, {{show: true}}), passctl.select(null)")
    at = run(browser, f"passctl.place({json.dumps(name)})")
    body = browser.find_element("tag name", "body").rect
    offset = round(at["x"] - body["width"] / 2), round(at["y"] - body["height"] / 2)
    actions = ActionChains(browser)
    actions.move_to_element_with_offset(browser.find_element("tag name", "body"), *offset).click().perform()


def details(browser) -> str:
    return browser.find_element("id", "details").text


def rows(browser) -> list[str]:
    """The names in the list, from the top, as far as it is in the document."""
    found = run(browser, "[...document.querySelectorAll('#list .row')].map((row) => [row.offsetTop, row.innerText])")
    return [text.split("\n")[0] for _, text in sorted(found)]


def step_card(browser, label: str):
    return next(card for card in browser.find_elements("css selector", ".step") if card.text.startswith(label))


# what is shown


def test_the_graph_of_every_step_is_rebuilt_from_what_the_steps_changed(shown, joint):
    _, orders, last = joint
    assert run(shown, "passctl.data.steps.length") == len(orders)
    for step in [*reversed(range(len(orders))), 3]:
        assert run(shown, f"passctl.graphAt({step}).order") == orders[step]
    reads = run(shown, f"[...passctl.graphAt({len(orders) - 1}).nodes.values()].map((node) => node.i || [])")
    for node, found in zip(last.nodes, reads, strict=True):
        assert [name for name, _ in found] == list(node.operands)
    constants = run(shown, f"[...passctl.graphAt({len(orders) - 1}).constants.keys()]")
    assert sorted(constants) == sorted(last.constants)


def test_names_in_a_model_are_never_markup(shown):
    assert shown.find_element("id", "title").text.replace("\u2028", "") == HOSTILE.replace("\u2028", "")
    assert run(shown, "window.broken === undefined")


def test_the_page_asks_nobody_for_anything(shown, joint):
    text = joint[0].read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)|https?://|@import|url\(|fetch\(|XMLHttpRequest", text)
    assert run(shown, "performance.getEntriesByType('resource').length") == 0


def test_a_click_on_a_node_tells_type_location_annotations_quantizer_and_uses(shown):
    click_node(shown, "relu_output")
    told = details(shown)
    assert told.startswith("relu_output")
    for part in (
        "quant.fake_quantize",
        "f32[1, 16, 32, 32]",  # type
        "stem.relu",  # location
        "convolutional.py:",
        "torch.int8, asymmetric",  # quantizer
        "global_config.op_output_spec['*']",
        "%relu\n",  # reads
        "%conv2d_1",  # uses
        "ANNOTATIONS",
    ):
        assert part in told, part
    click_node(shown, "conv2d_1")
    told = details(shown)
    assert "@conv2d_1_bias" in told
    assert "f32[16]" in told
    assert "layer-activation" in told


def test_what_a_step_changed_is_marked_and_told(shown):
    step_card(shown, "insert-fake-quant").click()
    assert step_card(shown, "insert-fake-quant").text.split("\n")[1:] == ["+38", "~26"]
    assert run(shown, "[...passctl.view.marks.values()].filter((mark) => mark === 'added').length") == 38
    assert "ADDED 38" in details(shown)
    click_node(shown, "conv2d")
    told = details(shown)
    assert "CHANGED BY INSERT-FAKE-QUANT#1" in told
    assert "%x\n%conv2d_input" in told
    shown.find_element("id", "before").click()
    assert run(shown, "passctl.view.graph.order.length") == 37
    step_card(shown, "dedup-fake-quant").click()
    press(shown, "b")
    assert run(shown, "[...passctl.view.marks.values()].filter((mark) => mark === 'removed').length") == 21


def test_the_search_finds_module_paths_and_walks_through_what_it_found(shown):
    from selenium.webdriver.common.keys import Keys

    press(shown, "/", "layer2.0 conv2d")
    found = rows(shown)
    assert found
    origins = "passctl.view.graph.nodes.get(name).l.map((place) => passctl.data.pool[place][0]).join()"
    paths = run(shown, f"[...passctl.view.matches].map((name) => {origins})")
    assert all("layer2.0" in path for path in paths)
    assert shown.find_element("id", "count").text == f"{len(paths)} of 54 nodes"
    press(shown, Keys.ENTER)
    assert run(shown, "passctl.view.selected") == found[0]
    press(shown, Keys.ARROW_DOWN)
    assert run(shown, "passctl.view.selected") == found[1]
    press(shown, Keys.ESCAPE)
    assert shown.find_element("id", "count").text == "54 nodes"


def test_only_changed_nodes_are_listed_the_removed_ones_too(shown):
    step_card(shown, "dedup-fake-quant").click()
    shown.find_element("id", "only-changed").click()
    assert shown.find_element("id", "count").text.startswith("37 of")  # 16 changed, 21 removed
    shown.execute_script("document.getElementById('list').scrollTop = 1e6")
    wait_for_frame(shown)
    gone = shown.find_elements("css selector", ".row.removed")[0]
    name = gone.text.split("\n")[0]
    gone.click()
    assert run(shown, "[passctl.view.before, passctl.view.selected]") == [True, name]
    assert "removed" in details(shown).splitlines()[0]


def test_the_keyboard_goes_through_steps_and_along_the_graph(shown):
    from selenium.webdriver.common.keys import Keys

    last = run(shown, "passctl.view.step")
    press(shown, "[", "[")
    assert run(shown, "passctl.view.step") == last - 2
    press(shown, "]")
    assert run(shown, "passctl.view.step") == last - 1
    click_node(shown, "conv2d_1")
    press(shown, Keys.ARROW_DOWN)
    assert run(shown, "passctl.view.selected") == "relu_1"
    press(shown, Keys.ARROW_UP)
    assert run(shown, "passctl.view.selected") == "conv2d_1"
    press(shown, "n")
    assert run(shown, "passctl.view.marks.has(passctl.view.selected)")
    press(shown, "i")
    assert run(shown, "passctl.view.layout.boxes.length") < 12
    press(shown, "i", Keys.ESCAPE)
    assert run(shown, "[passctl.view.isolated, passctl.view.selected]") == [None, None]
    press(shown, "?")
    assert "step before" in shown.find_element("id", "keys").text


def test_boxes_never_overlap_and_edges_go_down(shown, joint):
    for step in range(len(joint[1])):
        run(shown, f"passctl.setStep({step}, false)")
        layers = run(shown, "passctl.view.layout.layers.map((layer) => layer.map((box) => box.x))")
        for layer in layers:
            assert all(b - a > 218 for a, b in pairwise(layer))
        assert run(shown, "passctl.view.layout.boxes.every((box) => box.preds.every((pred) => pred.layer < box.layer))")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_screenshot_shows_the_graph_in_the_users_colours(shown, theme, tmp_path):
    prefer(shown, theme)
    press(shown, "n")
    wait_for_frame(shown)
    with Image.open(BytesIO(shown.get_screenshot_as_png())) as image:
        image.save(tmp_path / f"{theme}.png")
        stage = shown.find_element("id", "graph").rect
        left, top = round(stage["x"]), round(stage["y"])
        graph = image.convert("RGB").crop((left, top, left + int(stage["width"]), top + int(stage["height"])))
    colours = sorted(graph.getcolors(1 << 20), reverse=True)
    background = {"light": (0xF6, 0xF7, 0xF9), "dark": (0x10, 0x13, 0x1A)}[theme]
    assert colours[0][1] == background
    assert colours[0][0] < 0.95 * graph.width * graph.height
    changed = {"light": (0xFD, 0xF0, 0xD5), "dark": (0x3A, 0x2D, 0x14)}[theme]
    assert changed in {colour for _, colour in colours}


def test_it_opens_where_it_is_asked_to(browser, tmp_path):
    graph = captured("small_resnet")
    recording = Recording(graph, only_changed=True)
    Runner([recording]).run(graph, Pipeline.parse("canonicalize,fold-batch-norm,dce"), in_place=True)
    assert [step["label"] for step in recording.steps] == ["captured", "fold-batch-norm#1"]
    (tmp_path / "page.html").write_text(page(recording, "net", None, Opening("conv2d_3", hops=1)), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert run(browser, "passctl.view.selected") == "conv2d_3"
    kinds = run(browser, "passctl.view.layout.boxes.map((box) => box.name)")
    assert "conv2d_3" in kinds
    assert len(kinds) == 5  # what it reads from nodes, and what reads it
    assert browser.get_log("browser") == []


def test_a_step_that_fails_is_the_last_one_with_its_error(browser, tmp_path):
    @frozen
    class Stumble(Pass):
        """Fail."""

        name = "stumble"
        effect = EXACT

        def run(self, graph, rewriter, context):
            raise ValueError("a stone in the way")

    graph = captured("small_resnet")
    recording = Recording(graph)
    with pytest.raises(PassFailed):
        Runner([recording]).run(graph, Pipeline(Canonicalize(), Stumble()), in_place=True)
    (tmp_path / "page.html").write_text(page(recording, "net", None), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert "a stone in the way" in details(browser)
    assert step_card(browser, "stumble").text.endswith("failed")
    assert browser.get_log("browser") == []


# size and speed


def long_residual_network(blocks: int) -> Graph:
    """Convolution, relu and sum, `blocks` times: `3 * blocks` nodes before anything is done to them."""
    before = ["x", *(f"add_{n}" for n in range(blocks))]
    lines = [
        f"  %conv2d_{n}: f32[1, 4, 8, 8] = aten.conv2d(input=%{before[n]}, weight=@blocks.{n}.weight) "
        f"{{padding=[1, 1]}} loc({n})\n"
        f"  %relu_{n}: f32[1, 4, 8, 8] = aten.relu(self=%conv2d_{n}) loc({n})\n"
        f"  %add_{n}: f32[1, 4, 8, 8] = aten.add.Tensor(self=%relu_{n}, other=%{before[n]}) loc({n})\n"
        for n in range(blocks)
    ]
    constants = [f'  const @blocks.{n}.weight: f32[4, 4, 3, 3] parameter sha256("{n:064x}")\n' for n in range(blocks)]
    scopes = [f'  scope {n} "blocks.{n}" "models.Block"\n' for n in range(blocks)]
    origins = [f'  origin {n} scope {n} at "model.py":{n % 40 + 1}\n' for n in range(blocks)]
    body = "".join(["  input %x: f32[1, 4, 8, 8]\n", *constants, *lines, f"  return %add_{blocks - 1}\n"])
    return parse_graph(f"graph @main {{\n{body}}}\nlocations {{\n{''.join([*scopes, *origins])}}}\n")


@pytest.mark.slow
def test_five_thousand_nodes_stay_usable(browser, tmp_path, record_property):
    graph = long_residual_network(850)
    recording = Recording(graph)
    Runner([recording]).run(graph, pipelines.prepare(), in_place=True)
    text = page(recording, "a long chain", "prepare")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    steps = run(browser, "passctl.data.steps.length")
    nodes = run(browser, f"passctl.graphAt({steps - 1}).order.length")
    assert nodes > 5000
    for step in range(steps):
        run(browser, f"passctl.setStep({step}, false)")
        wait_for_frame(browser)
    # What is drawn and what is in the document depends on the window, not on the graph.
    press(browser, "0")
    press(browser, "/", "blocks.555")
    assert rows(browser)[0] == "conv2d_555_weight"
    click_node(browser, "conv2d_555")
    assert details(browser).startswith("conv2d_555")
    assert run(browser, "passctl.view.drawn") < 100
    assert run(browser, "document.querySelectorAll('*').length") < 1500
    # The whole costs about what its records cost once.
    once = len(json.dumps([recording.encoder.node(node) for node in graph.nodes]))
    assert len(text) < 6 * once
    timings = run(browser, "passctl.timings")
    for what, milliseconds in timings.items():
        record_property(f"{what} at {nodes} nodes, ms", [round(each, 1) for each in milliseconds])
    assert {"layout", "draw", "search", "select", "step"} <= set(timings)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("after", ["abcdef", "abxcyef", "", "fedcba", "xyz", "bcdzaef"])
def test_an_order_is_told_as_runs_of_the_one_before(after):
    before = list("abcdef")
    runs = order_delta(before, list(after))
    if list(after) == before:
        assert runs == []
    told = [name for each in runs for name in ([each] if isinstance(each, str) else before[each[0] : sum(each)])]
    assert (told or before) == list(after) or (told, after) == ([], "")


def test_a_page_of_one_graph_has_one_step():
    graph = parse_graph("graph @main {\n  input %x: f32[2]\n  %y: f32[2] = aten.relu(self=%x)\n  return %y\n}\n")
    text = page(Recording(graph), "one", None)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [step["label"] for step in data["steps"]] == ["captured"]
    assert data["steps"][0]["delta"]["outputs"] == [{"k": "user", "v": "%y"}]
