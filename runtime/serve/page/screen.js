// Words for the user: status, banner, progress, dialogs.

export class Screen {
  constructor(document) {
    this.root = document.documentElement;
    this.el = (id) => document.getElementById(id);
    this.el("banner-close").addEventListener("click", () => this.quiet());
    this.el("banner-action").addEventListener("click", () => this.action?.());
    this.el("choose-cancel").addEventListener("click", () => this.el("choose").close(""));
    this.el("choices").addEventListener("dblclick", (event) => {
      if (event.target.closest("label:has(input:not([disabled]))")) this.el("choose").close("open");
    });
    this.el("help-open").addEventListener("click", () => this.el("help").showModal());
    for (const id of ["key", "over"]) {
      this.el(id).addEventListener("cancel", (event) => event.preventDefault());
    }
  }

  // "start" or "viewer".
  screen(name) {
    this.root.dataset.screen = name;
    this.el("start").hidden = name !== "start";
  }

  // "loading", "ready" or "busy": what tests wait for.
  state(name) {
    this.root.dataset.state = name;
  }

  link(word) {
    this.root.dataset.link = word;
    this.el("link-text").textContent = { up: "Connected", gone: "Server not reachable", connecting: "Connecting" }[word];
  }

  status(text) {
    if (this.el("status").textContent !== text) this.el("status").textContent = text;
  }

  // Read out by screen readers; the status itself changes too often for that.
  say(text) {
    this.el("said").textContent = text;
  }

  // share is 0 to 1, or null for nothing to show.
  progress(share, isStoppable = true) {
    this.el("progress").hidden = share === null;
    this.el("cancel").hidden = share === null || !isStoppable;
    if (share !== null) this.el("progress").value = share;
  }

  // kind is "error" or "note"; key tells banners apart, so that only its own is taken away again.
  banner(text, { kind = "error", key = "", action = null, onAction = null } = {}) {
    this.el("banner").hidden = false;
    this.el("banner").dataset.kind = kind;
    this.el("banner-text").textContent = text;
    this.el("banner-action").hidden = !action;
    this.el("banner-action").textContent = action ?? "";
    [this.bannerKey, this.action] = [key, onAction];
  }

  get isSaying() {
    return !this.el("banner").hidden;
  }

  quiet(key = null) {
    if (key === null || this.bannerKey === key) this.el("banner").hidden = true;
  }

  startError(text) {
    this.el("start-error").hidden = !text;
    this.el("start-error").textContent = text ?? "";
  }

  askKey(wasWrong) {
    const dialog = this.el("key");
    const input = this.el("key-input");
    this.el("key-title").textContent = wasWrong ? "That key is wrong" : "This server asks for a key";
    this.el("key-text").textContent = wasWrong
      ? "Take it from the line that the server has printed at its start."
      : "The server has printed it at its start.";
    input.value = "";
    return this.ask(dialog).then(() => input.value.trim());
  }

  askToContinue(title, text) {
    this.el("over-title").textContent = title;
    this.el("over-text").textContent = text;
    return this.ask(this.el("over"));
  }

  // One of several volumes, or null. choices: {title, modality, slices, size, why_not} each.
  async choose(choices) {
    const dialog = this.el("choose");
    this.el("choose-count").textContent = `There are ${choices.length} in what you opened.`;
    this.el("choices").replaceChildren(...choices.map((choice, number) => choiceRow(choice, number)));
    dialog.returnValue = "";
    const closed = this.ask(dialog);
    const first = dialog.querySelector("input:not([disabled])");
    first.checked = true;
    first.focus();
    await closed;
    const picked = dialog.querySelector("input:checked");
    return dialog.returnValue === "open" && picked ? choices[picked.value] : null;
  }

  ask(dialog) {
    if (!dialog.open) dialog.showModal();
    return new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  }
}

function choiceRow({ title, modality, slices, size, why_not: whyNot }, number) {
  const row = document.createElement("label");
  const radio = Object.assign(document.createElement("input"), { type: "radio", name: "choice", value: String(number), disabled: Boolean(whyNot) });
  const name = Object.assign(document.createElement("strong"), { textContent: title || "Without a description", dir: "auto" });
  const facts = [
    modality,
    slices === null ? "volume file" : `${slices} slice${slices === 1 ? "" : "s"}`,
    size ? `${size[1]} × ${size[0]}` : "",
    whyNot,
  ];
  const text = document.createElement("span");
  text.append(name, Object.assign(document.createElement("small"), { textContent: facts.filter(Boolean).join(", ") }));
  row.append(radio, text);
  return row;
}
