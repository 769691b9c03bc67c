// The panel of objects and the prompts of the selected one.

import { DOUBTFUL } from "./strip.js";

const KINDS = { point: "Point", bbox: "Box", scribble: "Scribble", lasso: "Area", seed: "Mask" };

export class ObjectPanel {
  // on: {select(id), rename(id, name), colour(id, colour), toggle(id), remove(id), go(box)}
  constructor({ list, prompts, hint }, on) {
    Object.assign(this, { list, promptList: prompts, hint, on });
    this.editing = null;
  }

  show(objects, selected, hidden) {
    this.objects = objects;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    if (this.editing === null) {
      this.list.replaceChildren(...objects.map((object) => this.row(object, object.id === selected, hidden.has(object.id))));
      if (focused) this.list.querySelector(`[data-focus="${focused}"]`)?.focus();
      if (selected !== this.selected) this.list.querySelector("[data-selected]")?.scrollIntoView({ block: "nearest" });
      this.selected = selected;
    }
    this.showPrompts(objects.find(({ id }) => id === selected));
  }

  row(object, isSelected, isHidden) {
    const row = document.createElement("li");
    row.toggleAttribute("data-selected", isSelected);
    const colour = Object.assign(document.createElement("input"), { type: "color", value: object.colour });
    colour.setAttribute("aria-label", `Colour of ${object.name}`);
    colour.dataset.focus = `colour-${object.id}`;
    colour.addEventListener("change", () => this.on.colour(object.id, colour.value));
    const pick = Object.assign(document.createElement("button"), { type: "button", className: "pick" });
    pick.dataset.focus = `pick-${object.id}`;
    pick.setAttribute("aria-pressed", String(isSelected));
    pick.title = "Select; double click to rename  (F2)";
    const name = Object.assign(document.createElement("b"), { textContent: object.name, dir: "auto" });
    const size = document.createElement("span");
    size.append(...sizeOf(object));
    pick.append(name, size);
    pick.addEventListener("click", () => this.on.select(object.id));
    pick.addEventListener("dblclick", () => this.rename(object.id));
    const eye = icon(isHidden ? "eye-off" : "eye", `${isHidden ? "Show" : "Hide"} ${object.name}`);
    eye.dataset.focus = `eye-${object.id}`;
    eye.addEventListener("click", () => this.on.toggle(object.id));
    const bin = icon("bin", `Remove ${object.name}`);
    bin.classList.add("bin");
    bin.dataset.focus = `bin-${object.id}`;
    bin.addEventListener("click", () => this.on.remove(object.id));
    row.append(colour, pick, eye, bin);
    return row;
  }

  rename(id) {
    const object = this.objects.find((each) => each.id === id);
    const pick = this.list.querySelector(`[data-focus="pick-${id}"]`);
    if (!object || !pick) return;
    this.editing = id;
    const before = pick.contains(document.activeElement) ? null : document.activeElement;
    const input = Object.assign(document.createElement("input"), { className: "name", value: object.name, maxLength: 60, dir: "auto" });
    input.dataset.focus = `pick-${id}`; // which has the focus afterwards, if nothing else had it before
    input.setAttribute("aria-label", `New name of ${object.name}`);
    const end = (isKept) => {
      if (this.editing === null) return;
      this.editing = null;
      if (input.contains(document.activeElement)) before?.focus({ preventScroll: true });
      const name = input.value.replace(/[\s\p{C}]+/gu, " ").trim(); // what cannot be printed the server refuses
      if (isKept && name && name !== object.name) this.on.rename(id, name);
      else this.on.select(id);
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault(); // or it would press the button that has the focus now
      end(event.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    pick.replaceWith(input);
    input.select();
  }

  showPrompts(object) {
    const prompts = object?.prompts ?? [];
    this.promptList.replaceChildren(...prompts.map((prompt) => this.prompt(prompt)));
    // Where something was taken away, little is left to be sure of.
    const unsure = object?.prompted.find((slice) => isDoubtful(object.confidence[slice]) && prompts.some(({ box, positive }) =>
      positive && slice >= box[object.axis][0] && slice < box[object.axis][1]));
    this.hint.hidden = prompts.length > 0 && unsure === undefined;
    this.hint.textContent = unsure !== undefined
      ? `The network is unsure of slice ${unsure + 1}. Click what is missing, Shift-click what is too much, or undo and drag a box.`
      : "Click the object in any plane, or drag a box around it.";
  }

  prompt(prompt) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const sign = Object.assign(document.createElement("i"), { textContent: prompt.positive ? "+" : "−" });
    sign.toggleAttribute("data-negative", !prompt.positive);
    sign.setAttribute("aria-label", prompt.positive ? "includes" : "excludes");
    const where = document.createElement("span");
    const [start, stop] = prompt.box[prompt.axis];
    where.textContent = stop - start > 1 ? `slices ${start + 1}–${stop}` : `slice ${stop}`;
    const isErased = prompt.kind === "lasso" && !prompt.positive;
    button.append(sign, isErased ? "Erased" : KINDS[prompt.kind] ?? prompt.kind, where);
    button.title = "Go there";
    button.addEventListener("click", () => this.on.go(prompt.box));
    item.append(button);
    return item;
  }
}

function isDoubtful(value) {
  return value !== null && value !== undefined && value < DOUBTFUL;
}

function icon(name, label) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "icon", title: label });
  button.setAttribute("aria-label", label);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  button.append(svg);
  return button;
}

function sizeOf({ voxels, ml }) {
  if (!voxels) return ["Empty"];
  const strong = document.createElement("em");
  strong.textContent = `${millilitres(ml)} ml`;
  return [strong];
}

export function millilitres(ml) {
  if (ml >= 100) return ml.toFixed(0);
  return ml >= 10 ? ml.toFixed(1) : ml >= 0.1 ? ml.toFixed(2) : ml.toPrecision(2);
}
