// The steps of a pass and of training: buttons, sliders, keys, and what is read aloud.

import { byId, el, set, show } from "./dom.js";
import { sentence } from "./inspector.js";

const PACE = { pass: 1100, training: 140 }; // milliseconds a step

const TITLE = { forward: "forward", cost: "cost", backward: "backward", update: "update" };
const word = ({ kind, layer }) => (layer === undefined ? TITLE[kind] : `${TITLE[kind]} ${layer + 1}`);

function button(id, label, text, onclick) {
  return el("button", { id, type: "button", "aria-label": label, title: label, onclick }, text);
}

export function makeStepper(store) {
  const timers = { pass: null, training: null };
  const { phases, data } = store;
  const move = (by) => {
    const next = store.phase + by;
    if (next >= phases.length) return nextStep();
    if (next < 0) return store.at > 0 && !store.own ? store.set({ phase: phases.length - 1, at: store.at - 1 }) : undefined;
    return store.set({ phase: next });
  };
  // After the update comes the forward pass of the next step.
  const nextStep = () => {
    if (store.own) {
      store.train(1);
      return store.set({ phase: 0 });
    }
    if (store.at + 1 < data.steps.length) return store.set({ phase: 0, at: store.at + 1 });
    return stop("pass");
  };
  const stop = (which) => {
    clearInterval(timers[which]);
    timers[which] = null;
    paint();
  };
  const toggle = (which, step) => {
    if (timers[which]) return stop(which);
    if (which === "training" && !store.own && store.at === data.steps.length - 1) store.set({ at: 0 });
    timers[which] = setInterval(step, PACE[which]);
    step();
    return paint();
  };
  const train = () => {
    if (store.own) return store.train(Math.max(1, Math.round(data.steps.at(-1) / 200)));
    if (store.at + 1 < data.steps.length) return store.set({ at: store.at + 1 });
    return stop("training");
  };
  const playPass = () => toggle("pass", () => move(1));
  const playTraining = () => toggle("training", train);
  const seek = (event) => store.set({ own: null, at: Number(event.target.value) });

  const list = el("ol", { class: "phases", "aria-label": "Steps of one pass" }, phases.map((phase, k) =>
    el("li", {}, el("button", { type: "button", class: phase.kind, onclick: () => store.set({ phase: k }) }, word(phase)))));
  const slider = el("input", { type: "range", id: "training", min: 0, max: data.steps.length - 1, step: 1, oninput: seek });
  const training = el("output", { id: "training-words", for: "training" });
  const said = el("p", { id: "said", class: "said", "aria-live": "polite" });
  const root = el("section", { class: "stepper", "aria-label": "Steps" },
    el("div", { class: "row" },
      el("div", { class: "buttons" },
        button("previous", "Previous step of the pass (P)", "◀", () => move(-1)),
        button("play", "Play the pass (space)", "▶ pass", playPass),
        button("next", "Next step of the pass (N)", "▶", () => move(1))),
      list),
    said,
    data.steps.length > 1 && el("div", { class: "row" },
      el("div", { class: "buttons" },
        button("back", "Earlier in training ([)", "◀", () => store.set({ own: null, at: Math.max(0, store.at - 1) })),
        button("play-training", "Play the training (T)", "▶ training", playTraining),
        button("ahead", "Later in training (])", "▶", () => (store.own ? store.train(1) : store.set({ at: Math.min(data.steps.length - 1, store.at + 1) })))),
      el("label", { for: "training", class: "hidden" }, "Training step"), slider, training));

  function paint() {
    byId("play")?.replaceChildren(timers.pass ? "❚❚ pass" : "▶ pass");
    byId("play-training")?.replaceChildren(timers.training ? "❚❚ training" : "▶ training");
  }

  store.listen(() => {
    list.querySelectorAll("button").forEach((b, k) => set(b, { "aria-current": k === store.phase ? "step" : null, "data-done": k < store.phase }));
    slider.value = store.at;
    set(slider, { "aria-valuetext": `step ${data.steps[store.at]}` });
    training.textContent = `${show(store.step())} of ${show(data.steps.at(-1))} steps${store.own ? ", in your browser" : ""}`;
    const words = sentence(store);
    if (said.textContent !== words) said.textContent = words;
  });

  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea, summary");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      " ": playPass, n: () => move(1), p: () => move(-1), t: playTraining,
      "[": () => byId("back")?.click(), "]": () => byId("ahead")?.click(),
      v: () => store.set({ view: store.view === "values" ? "errors" : "values" }),
    };
    if (event.key === " " && event.target.closest?.("button")) return;
    const action = keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  return root;
}
