// The review of a cohort: its queue, the most doubtful first, and what is decided of the object on the screen.

import { millilitres } from "./objects.js";

const AT_ONCE = 50; // studies of the queue that are asked for at a time
const NEAR = 200; // pixels from the end of the list, from which on it is made longer

const keyOf = ({ study, object }) => `${object} ${study}`;

export class ReviewPanel {
  // on: {open(study) -> {key, objects: [[number, id]]}, show(id, slice), selected() -> id, say(text), act(something)}
  constructor(api, { section, list, count, accept, reject }, on) {
    Object.assign(this, { api, section, list, count, acceptButton: accept, rejectButton: reject, on });
    this.rows = new Map(); // by key: as they came
    this.items = new Map(); // by key: what shows them
    this.start = this.total = this.decided = 0; // studies that were asked for, studies there are, objects decided
    this.loading = null;
    this.current = null; // {study, key, objects: Map of id -> number}
    this.clicks = 0;
    accept.addEventListener("click", () => this.decide("accepted"));
    reject.addEventListener("click", () => this.decide("rejected"));
    this.more = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "more" });
    button.addEventListener("click", () => this.on.act(() => this.load()));
    this.more.append(button);
    list.addEventListener("scroll", () => {
      const isNear = list.scrollTop + list.clientHeight > list.scrollHeight - NEAR;
      if (isNear && this.hasMore) this.on.act(() => this.load());
    });
  }

  get isOn() {
    return !this.section.hidden;
  }

  // Shows the queue and opens what is to be looked at first. Returns whether there is anything.
  async begin() {
    this.section.hidden = false;
    this.rows.clear();
    this.items.clear();
    this.list.replaceChildren();
    this.start = 0;
    await this.load();
    return this.next();
  }

  get hasMore() {
    return this.start < this.total;
  }

  // The next part of the queue, once at a time.
  load() {
    this.loading ??= this.loadPart().finally(() => {
      this.loading = null;
      this.show();
    });
    return this.loading;
  }

  async loadPart() {
    const part = await this.api.call("GET", `/api/review?start=${this.start}&count=${AT_ONCE}`);
    this.start += AT_ONCE;
    this.total = part.studies;
    this.decided = part.decided;
    // A cohort at work puts studies in between, so that some come again.
    for (const row of part.objects) this.rows.set(keyOf(row), Object.assign(this.rows.get(keyOf(row)) ?? {}, row));
  }

  // Goes on with the next object that nobody has decided: in this study, else in the queue.
  async next() {
    let row = await this.find();
    while (row && !(await this.goOrPass(row))) row = await this.find();
    const isPassed = [...this.rows.values()].some(({ problem }) => problem);
    const all = isPassed ? "What can be opened is decided" : "All of the queue is decided";
    if (!row) this.on.say(this.rows.size ? all : "No study is done yet");
    return Boolean(row);
  }

  async find() {
    let row = this.waiting();
    // What a cohort at work has put in before the parts that are here is found from the start.
    if (!row && !this.hasMore) this.start = 0;
    while (!row && this.hasMore) {
      await this.load();
      row = this.waiting();
    }
    return row;
  }

  // Whether a study could be opened. One that is not what it was keeps nobody from the others.
  async goOrPass(row) {
    try {
      await this.go(row);
      return true;
    } catch (error) {
      if (error.status !== 400 && error.status !== 404) throw error;
      for (const each of this.rows.values()) if (each.study === row.study) each.problem = error.message;
      this.show();
      await this.on.act(() => Promise.reject(error));
      return false;
    }
  }

  waiting() {
    const waiting = [...this.rows.values()].filter(({ verdict, problem }) => !verdict && !problem);
    return waiting.find(({ study }) => study === this.current?.study) ?? waiting[0];
  }

  async go(row) {
    if (row.study !== this.current?.study) {
      this.current = null; // until it is open nothing can be decided: what is on the screen is of neither study
      this.showButtons();
      const { key, objects } = await this.on.open(row.study);
      this.current = { study: row.study, key, objects: new Map(objects.map(([number, id]) => [id, number])) };
      for (const each of this.rows.values()) if (each.study === row.study) delete each.problem;
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
        const row = this.rows.get(keyOf({ study, object: number }));
        const known = row ? { known: row.verdict ?? "" } : {};
        const words = { study, object: number, shown, key, verdict, seconds, clicks: this.clicks, ...known };
        const said = await this.api.call("POST", "/api/review/decide", words).catch((error) => {
          if (error.verdict) this.settle(row, error.verdict); // somebody else's
          throw error;
        });
        this.settle(row, said.verdict);
        this.on.say(`Object ${number} of ${study}: ${said.verdict}`);
        await this.next();
      });
    } finally {
      this.isDeciding = false;
      this.show();
    }
  }

  // An object is decided from now on.
  settle(row, verdict) {
    if (!row) return;
    this.decided += row.verdict ? 0 : 1;
    row.verdict = verdict;
  }

  show() {
    this.count.textContent = `${this.decided} decided`;
    for (const [key, row] of this.rows) {
      if (!this.items.has(key)) this.list.insertBefore(this.item(key, row), this.more.parentNode && this.more);
      this.describe(this.items.get(key), row);
    }
    this.more.firstChild.textContent = `More: ${Math.min(this.start, this.total)} of ${this.total} studies are here`;
    if (!this.hasMore) this.more.remove();
    else if (!this.more.isConnected) this.list.append(this.more);
    const selected = this.list.querySelector("[data-selected]");
    if (selected !== this.shown) selected?.scrollIntoView({ block: "nearest" });
    this.shown = selected;
    this.showButtons();
  }

  isShown({ study, object }) {
    return study === this.current?.study && object === this.object;
  }

  showButtons() {
    const isOpen = this.current !== null && this.current.objects.has(this.on.selected());
    this.acceptButton.disabled = this.rejectButton.disabled = !isOpen || Boolean(this.isDeciding);
  }

  item(key, row) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const name = Object.assign(document.createElement("b"), { textContent: `${row.study}, ${row.object}`, dir: "auto" });
    button.append(name, document.createElement("span"));
    button.addEventListener("click", () => this.on.act(() => this.go(row)));
    item.append(button);
    this.items.set(key, item);
    return item;
  }

  describe(item, row) {
    item.toggleAttribute("data-selected", this.isShown(row));
    if (row.verdict) item.dataset.verdict = row.verdict;
    else delete item.dataset.verdict;
    const facts = [`doubt ${row.doubt.toFixed(2)}`];
    if (row.volume_ml !== null) facts.push(`${millilitres(row.volume_ml)} ml`);
    if (row.verdict) facts.push(row.verdict);
    else if (row.problem) facts.push("cannot be opened");
    const [button] = item.children;
    button.title = row.problem ?? (row.warnings.join(", ") || "Open");
    button.lastChild.textContent = facts.join(", ");
  }
}
