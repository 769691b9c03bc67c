// The review of a cohort: its queue, the most doubtful first, and what is decided of the object on the screen.

import { millilitres } from "./objects.js";

const AT_ONCE = 50; // studies of the queue in the list

export class ReviewPanel {
  // on: {open(study) -> {key, objects: [[number, id]]}, show(id, slice), selected() -> id, say(text), act(something)}
  constructor(api, { section, list, count, accept, reject }, on) {
    Object.assign(this, { api, section, list, count, acceptButton: accept, rejectButton: reject, on });
    this.rows = [];
    this.current = null; // {study, key, objects: Map of id -> number}
    this.clicks = 0;
    accept.addEventListener("click", () => this.decide("accepted"));
    reject.addEventListener("click", () => this.decide("rejected"));
  }

  get isOn() {
    return !this.section.hidden;
  }

  // Shows the queue and opens what is to be looked at first. Returns whether there is anything.
  async begin() {
    this.section.hidden = false;
    await this.load();
    return this.next();
  }

  async load() {
    const { studies, decided, objects } = await this.api.call("GET", `/api/review?start=0&count=${AT_ONCE}`);
    this.rows = objects;
    this.total = studies;
    this.decided = decided;
    this.show();
  }

  // Goes on with the next object that nobody has decided: in this study, else in the queue.
  async next() {
    const waiting = this.rows.filter(({ verdict }) => !verdict);
    const row = waiting.find(({ study }) => study === this.current?.study) ?? waiting[0];
    if (row) await this.go(row);
    else this.on.say(this.rows.length ? "All of this part of the queue is decided" : "No study is done yet");
    return Boolean(row);
  }

  async go(row) {
    if (row.study !== this.current?.study) {
      const { key, objects } = await this.on.open(row.study);
      this.current = { study: row.study, key, objects: new Map(objects.map(([number, id]) => [id, number])) };
    }
    this.object = row.object;
    this.clicks = 0;
    this.began = performance.now();
    const [id] = [...this.current.objects].find(([, number]) => number === row.object) ?? [null];
    if (id !== null) this.on.show(id, row.slice);
    this.show();
  }

  // The page has made the session's objects anew: each as it was, under another id.
  moved(ids) {
    if (!this.current) return;
    this.current.objects = new Map([...this.current.objects].map(([id, number]) => [ids.get(id) ?? id, number]));
  }

  // Another file was opened.
  leave() {
    this.current = null;
    this.object = null;
    this.show();
  }

  clicked() {
    this.clicks++;
  }

  async decide(verdict) {
    const shown = this.on.selected();
    const number = this.current?.objects.get(shown);
    if (number === undefined || this.isDeciding) return;
    this.isDeciding = true;
    this.showButtons();
    try {
      await this.on.act(async () => {
        const { study, key } = this.current;
        const seconds = Math.round(performance.now() - this.began) / 1000;
        const words = { study, object: number, shown, key, verdict, seconds, clicks: this.clicks };
        const said = await this.api.call("POST", "/api/review/decide", words);
        const row = this.rows.find((each) => each.study === study && each.object === number);
        if (row) {
          this.decided += row.verdict ? 0 : 1;
          row.verdict = said.verdict;
        }
        this.on.say(`Object ${number} of ${study}: ${said.verdict}`);
        await this.next();
      });
    } finally {
      this.isDeciding = false;
      this.show();
    }
  }

  show() {
    this.count.textContent = `${this.decided ?? 0} decided`;
    this.list.replaceChildren(...this.rows.map((row) => this.row(row)));
    this.list.querySelector("[data-selected]")?.scrollIntoView({ block: "nearest" });
    this.showButtons();
  }

  showButtons() {
    const isOpen = this.current !== null && this.current.objects.has(this.on.selected());
    this.acceptButton.disabled = this.rejectButton.disabled = !isOpen || Boolean(this.isDeciding);
  }

  row(row) {
    const item = document.createElement("li");
    item.toggleAttribute("data-selected", row.study === this.current?.study && row.object === this.object);
    if (row.verdict) item.dataset.verdict = row.verdict;
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const name = Object.assign(document.createElement("b"), { textContent: `${row.study}, ${row.object}` });
    const facts = [`doubt ${row.doubt.toFixed(2)}`];
    if (row.volume_ml !== null) facts.push(`${millilitres(row.volume_ml)} ml`);
    if (row.verdict) facts.push(row.verdict);
    const note = Object.assign(document.createElement("span"), { textContent: facts.join(", ") });
    button.title = row.warnings.length ? row.warnings.join(", ") : "Open";
    button.append(name, note);
    button.addEventListener("click", () => this.on.act(() => this.go(row)));
    item.append(button);
    return item;
  }
}
