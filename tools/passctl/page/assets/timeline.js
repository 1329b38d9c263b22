// The pipeline: a card for each step, with what it changed and its share of the time.

const timeline = byId("timeline");

function buildTimeline() {
  const longest = Math.max(1e-9, ...data.steps.map((step) => step.seconds || 0));
  timeline.replaceChildren(...data.steps.map((step, place) => {
    const { added, changed, removed } = changesByStep[place];
    const counts = [["plus", "+", added.size], ["tilde", "~", changed.size], ["minus", "−", removed.size]].filter(([, , count]) => count);
    const [, name, rest] = /^([^#@]+)(.*)$/.exec(step.label) || [null, step.label, ""];
    const summary = step.error ? "failed" : place === 0 ? plural(graphAt(0).order.length, "node") : "no change";
    const constants = place > 0 && !counts.length && step.delta && (step.delta.constants || step.delta.goneConstants) ? "constants" : null;
    const bar = element("span", { class: "time", title: seconds(step.seconds) });
    bar.style.width = `${Math.round(((step.seconds || 0) / longest) * 100)}%`;
    return element("button", { type: "button", class: `step ${counts.length || place === 0 || constants ? "" : "same"} ${step.error ? "failed" : ""}`, "data-step": place, title: [step.summary, step.seconds !== undefined ? seconds(step.seconds) : ""].filter(Boolean).join(" · "), onclick: () => setStep(place, false) },
      element("span", { class: "label" }, name, element("small", {}, rest.replace("#1", ""))),
      element("span", { class: "counts" }, counts.length ? counts.map(([kind, sign, count]) => element("span", { class: kind }, sign + count.toLocaleString("en"))) : constants || summary),
      bar);
  }));
}

function markStep() {
  for (const card of timeline.children) {
    const isCurrent = Number(card.dataset.step) === view.step;
    if (isCurrent) card.setAttribute("aria-current", "step");
    else card.removeAttribute("aria-current");
    if (isCurrent) {
      const left = card.offsetLeft - timeline.offsetLeft;
      if (left < timeline.scrollLeft + 20 || left + card.offsetWidth > timeline.scrollLeft + timeline.clientWidth - 20) timeline.scrollLeft = left - timeline.clientWidth / 2 + card.offsetWidth / 2;
    }
  }
}

timeline.addEventListener("keydown", (event) => {
  const offset = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!offset) return;
  event.preventDefault();
  setStep(view.step + offset, false);
  timeline.children[view.step].focus();
});
