// What there is to know about the selected node, or about the step when none is.

const details = byId("details");

function showDetails() {
  const box = view.selected && view.layout.byName.get(view.selected);
  const node = view.selected && view.graph.nodes.get(view.selected);
  details.replaceChildren(...(node ? nodeDetails(node) : box ? [ioDetails(box)] : stepDetails()).flat(Infinity).filter(Boolean));
  details.scrollTop = 0;
}

const section = (title, ...content) => [element("h3", {}, title), ...content];
const pairs = (entries) => element("dl", {}, entries.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
const mono = (text) => element("span", { class: "mono" }, text);

function nodeDetails(node) {
  const mark = view.marks.get(node.n);
  return [
    element("h2", {}, node.n, mark && element("span", { class: `pill ${mark}` }, mark)),
    element("p", { class: "sub mono" }, node.o),
    actions(node),
    section("Type", (node.t || []).map((place, index) => element("p", {}, mono((node.t.length > 1 ? `#${index}  ` : "") + pool[place])))),
    locationSection(node),
    quantizerSection(node),
    differences(node, mark),
    node.i && section("Reads", pairs(node.i.map(([name, value]) => [name, reference(value)]))),
    usesSection(`%${node.n}`),
    node.a && section("Attributes", pairs(Object.entries(node.a).map(([name, value]) => [name, mono(value)]))),
    node.x && section("Annotations", Object.entries(node.x).map(([name, value]) => element("div", {}, element("strong", {}, name), tree(value)))),
  ];
}

function actions(node) {
  const button = (text, title, onclick) => element("button", { type: "button", title, onclick }, text);
  return element("div", { class: "actions" },
    button("Show", "Centre it in the graph (Enter)", () => showSelected()),
    view.isolated ? button("Whole graph", "Show all nodes again (i)", () => isolate(null)) : button("Surroundings only", "Show only what is near it (i)", () => isolate(node.n)));
}

function ioDetails(box) {
  if (box.kind === "input") return [element("h2", {}, box.name), element("p", { class: "sub" }, "an input of the graph"), section("Type", element("p", {}, mono(pool[box.node.t]))), usesSection(`%${box.name}`)];
  const { k, v, w } = box.node.v;
  return [element("h2", {}, box.name), element("p", { class: "sub" }, k.replace("_", " ")), section("Value", element("p", {}, reference(v))), w && section("Written to", element("p", {}, reference(w)))];
}

function locationSection(node) {
  if (!node.l) return section("Location", element("p", { class: "note" }, "not from the model"));
  const origins = node.l.slice(0, 12).map((place) => {
    const [path, type, file, line] = pool[place];
    return element("div", { class: "origin" }, element("button", { type: "button", class: "link", title: "Search for this module", onclick: () => searchFor(path) }, path || "<model>"),
      type && element("span", { class: "note" }, ` ${type.replace(/^.*\./, "")}`), file && element("div", { class: "note mono" }, `${file.replace(/^.*[/\\]/, "")}:${line}`));
  });
  for (let place = 0; place < origins.length; place++) origins[place].title = pool[node.l[place]].slice(1, 4).join("  ");
  const rest = node.l.length - origins.length;
  return section("Location", origins, rest > 0 && element("p", { class: "note" }, `and ${rest} more`));
}

// Quantizers: those noted on this node, the one it is, and those its values go through.
function quantizerSection(node) {
  const shown = [];
  const note = node.x || {};
  const describe = (place, about) => {
    const [, quantizer] = pool[place];
    const spec = quantizer.spec && pool[quantizer.spec.$] ? pool[quantizer.spec.$][1] : {};
    const granularity = spec.granularity ? pool[spec.granularity.$] : null;
    const sharing = quantizerMembers(quantizer.name).filter((name) => name !== node.n);
    shown.push(element("div", { class: "origin" }, about && element("p", { class: "note" }, about), element("p", {}, element("strong", {}, quantizer.name)), pairs([
      ["stores", mono([spec.dtype, spec.qscheme].filter(Boolean).join(", "))],
      granularity && ["granularity", mono(granularity[0].replace("Granularity", "") + Object.entries(granularity[1]).filter(([, v]) => v !== null).map(([k, v]) => ` ${k}=${v}`).join(""))],
      ["range from", mono([spec.qparam_calculator_cls, spec.range_calculator_cls].filter(Boolean).join(", "))],
      quantizer.source && ["asked by", mono(quantizer.source)],
      quantizer.wanted && ["remark", "a known range changed what the config asked for"],
      sharing.length && ["shared with", many(sharing.map((name) => nodeLink(name)))],
    ].filter(Boolean))));
  };
  if (note.quantizer) describe(pool[note.quantizer.$][1].quantizer.$, "this node is the quantizer");
  for (const point of note.points ? pool[note.points.$][1].points : []) {
    const [, fields] = pool[point.$];
    const what = fields.side === "output" ? `its result${fields.index === null ? "" : ` #${fields.index}`}` : `what it reads as ${fields.operand}${fields.index === null ? "" : `[${fields.index}]`}`;
    describe(fields.quantizer.$, `${what} will be quantized${fields.is_passive ? ", following its neighbours" : ""}`);
  }
  const through = [];
  const isQuantizer = (name) => { const other = view.graph.nodes.get(name); return other && /^(quant|coreai|coreml)\..*quantize/.test(other.o); };
  eachReference(node, (ref, operand) => { if (ref[0] === "%" && isQuantizer(ref.slice(1))) through.push([operand, nodeLink(ref.slice(1))]); });
  const after = (view.graph.uses.get(`%${node.n}`) || []).filter((use) => use.by && isQuantizer(use.by)).map((use) => nodeLink(use.by));
  if (after.length) through.push(["its result", after]);
  if (through.length) shown.push(element("div", { class: "origin" }, element("p", { class: "note" }, "quantized around it"), pairs(through)));
  return shown.length ? section("Quantizer", shown) : null;
}

const membersByGraph = new WeakMap();
function quantizerMembers(name) {
  if (!membersByGraph.has(view.graph)) {
    const members = new Map();
    const enter = (quantizer, node) => { if (!members.has(quantizer)) members.set(quantizer, new Set()); members.get(quantizer).add(node); };
    for (const node of view.graph.nodes.values()) {
      const note = node.x || {};
      if (note.quantizer) enter(pool[pool[note.quantizer.$][1].quantizer.$][1].name, node.n);
      for (const point of note.points ? pool[note.points.$][1].points : []) enter(pool[pool[point.$][1].quantizer.$][1].name, node.n);
    }
    membersByGraph.set(view.graph, members);
  }
  return [...(membersByGraph.get(view.graph).get(name) || [])];
}

function differences(node, mark) {
  if (mark !== "changed") return null;
  const [old, now] = [graphAt(view.step - 1).nodes.get(node.n), graphAt(view.step).nodes.get(node.n)];
  const entries = [];
  const compare = (name, before, after) => {
    if (before === after) return;
    entries.push([name, [before !== undefined && element("div", { class: "mono was" }, before), after !== undefined && element("div", { class: "mono is" }, after)]]);
  };
  compare("op", old.o, now.o);
  compare("type", typeOf(old), typeOf(now));
  const [reads, readsNow] = [new Map(old.i), new Map(now.i)];
  for (const name of new Set([...reads.keys(), ...readsNow.keys()])) compare(name, plainText(reads.get(name)), plainText(readsNow.get(name)));
  for (const name of new Set([...Object.keys(old.a || {}), ...Object.keys(now.a || {})])) compare(name, (old.a || {})[name], (now.a || {})[name]);
  for (const name of new Set([...Object.keys(old.x || {}), ...Object.keys(now.x || {})])) {
    const [before, after] = [(old.x || {})[name], (now.x || {})[name]];
    if (JSON.stringify(before) === JSON.stringify(after)) continue;
    entries.push([name, before === undefined ? element("span", { class: "is" }, "annotation added") : after === undefined ? element("span", { class: "was" }, "annotation removed") : "annotation changed"]);
  }
  if (!entries.length) entries.push(["location", "joined with what it replaced"]);
  return section(`Changed by ${data.steps[view.step].label}`, pairs(entries));
}

function plainText(value) {
  if (value === undefined) return undefined;
  if (typeof value === "string") return value;
  return Array.isArray(value) ? `[${value.map(plainText).join(", ")}]` : value["="];
}

function reference(value) {
  if (Array.isArray(value)) return many(value.map(reference));
  if (typeof value !== "string") return mono(value["="]);
  const name = value.slice(1);
  if (value[0] === "%") return nodeLink(name.replace(/#\d+$/, ""), value);
  const constant = view.graph.constants.get(name);
  if (!constant) return mono(value);
  const aliases = constant.q.filter((other) => other !== name);
  return element("div", { title: constant.h ? `sha256 ${constant.h}…` : "" }, mono(value), element("div", { class: "note" }, [pool[constant.t], constant.k, bytes(constant.b)].filter(Boolean).join(" · ")),
    aliases.length ? element("div", { class: "note" }, `also ${aliases.join(", ")}`) : null);
}

const nodeLink = (name, text = `%${name}`) => element("button", { type: "button", class: "link", onclick: () => select(name, { show: true }) }, text);
const many = (items) => element("div", { class: "many" }, items.slice(0, 200).map((item) => element("div", {}, item)), items.length > 200 && element("div", { class: "note" }, `and ${items.length - 200} more`));

function usesSection(key) {
  const uses = view.graph.uses.get(key) || [];
  if (!uses.length) return section("Used by", element("p", { class: "note" }, "nothing"));
  return section(`Used by ${uses.length > 1 ? uses.length : ""}`, many(uses.map((use) => [use.by === null ? nodeLink(use.operand.replace("written by ", ""), use.operand) : nodeLink(use.by), element("span", { class: "note" }, use.by === null ? "" : ` as ${use.operand}${use.result ? ` (#${use.result})` : ""}`)])));
}

function tree(value) {
  if (value === null) return mono("none");
  if (Array.isArray(value)) return value.length ? element("div", { class: "tree" }, value.map((item) => element("div", {}, tree(item)))) : mono("[]");
  if (typeof value !== "object") return mono(String(value));
  if (value["{"]) return element("div", { class: "tree" }, pairs(value["{"].map(([name, item]) => [name, tree(item)])));
  const [type, fields] = pool[value.$];
  const content = pairs(Object.entries(fields).map(([name, item]) => [name, tree(item)]));
  if (!Object.keys(fields).length) return mono(`${type}()`);
  return element("details", { class: "tree-fold", open: Object.keys(fields).length <= 4 }, element("summary", {}, type), element("div", { class: "tree" }, content));
}

// Text of a docstring: what stands between backticks is code.
const prose = (text) => text.split(/`+/).map((part, place) => (place % 2 ? mono(part) : part));

function stepDetails() {
  const step = data.steps[view.step], { added, changed, removed } = changesByStep[view.step];
  const links = (names, isBefore) => many([...names].map((name) => element("button", { type: "button", class: "link", onclick: () => { setStep(view.step, isBefore); select(name, { show: true }); } }, `%${name}`)));
  return [
    element("h2", {}, step.label),
    element("p", { class: "sub" }, step.summary ? prose(step.summary) : view.step === 0 ? "The graph as it was before any step." : ""),
    step.error && element("div", { class: "failure" }, step.error),
    pairs([
      ["nodes", plural(view.graph.order.length, "node")],
      ["constants", plural(view.graph.constants.size, "constant")],
      step.seconds !== undefined && ["time", seconds(step.seconds)],
      step.effect && ["effect", mono(step.effect)],
      step.edits && ["edits", Object.entries(step.edits).map(([name, count]) => `${count.toLocaleString("en")} ${name}`).join(", ")],
    ].filter(Boolean)),
    step.statistics && section("Counters", pairs(Object.entries(step.statistics).map(([name, count]) => [name, String(count)]))),
    step.drift && section("Drift", pairs(step.drift.map((each) => [String(each.output), `${each.error} (allowed ${each.allowed})`]))),
    added.size ? section(`Added ${added.size.toLocaleString("en")}`, links(added, false)) : null,
    changed.size ? section(`Changed ${changed.size.toLocaleString("en")}`, links(changed, false)) : null,
    removed.size ? section(`Removed ${removed.size.toLocaleString("en")}`, links(removed, true)) : null,
    step.remarks && section("Remarks", many(step.remarks.map((remark) => element("p", {}, remark.text)))),
    section("Ops", pairs(opCounts())),
  ];
}

function opCounts() {
  const counts = new Map();
  for (const node of view.graph.nodes.values()) counts.set(node.o, (counts.get(node.o) || 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  return sorted.slice(0, 40).map(([op, count]) => [String(count), element("button", { type: "button", class: "link", title: "Search for this op", onclick: () => searchFor(op) }, op)]);
}
